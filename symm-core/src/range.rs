//! Ranges for NVTX, which Nsight Systems shows on its timeline: what the host does, in the domain
//! `symm`. With the feature `nvtx`; without it they are nothing, of no size, and what they would say
//! is not even looked at.
//!
//! NVTX is headers alone: no library has to be there, and without a profiler a range is a call of an
//! empty function.

/// What lasts from one call to another, such as a scope: may end in any order.
#[derive(Debug)]
pub(crate) struct Span {
    #[cfg(feature = "nvtx")]
    _range: nvtx::domain::Range<'static>,
}

/// What a function does: ends with it.
#[derive(Debug)]
pub(crate) struct Local {
    #[cfg(feature = "nvtx")]
    _range: nvtx::domain::LocalRange<'static>,
}

/// A [`Span`]: `span!("its name {}", ..)`.
#[cfg(feature = "nvtx")]
macro_rules! span {
    ($($name:tt)*) => { $crate::range::Span::begin(format!($($name)*)) };
}
#[cfg(not(feature = "nvtx"))]
macro_rules! span {
    ($($name:tt)*) => {
        $crate::range::Span {}
    };
}

/// A [`Local`] with a number to show, bytes or which: `local!(number, "its name {}", ..)`.
#[cfg(feature = "nvtx")]
macro_rules! local {
    ($number:expr, $($name:tt)*) => { $crate::range::Local::begin(format!($($name)*), $number) };
}
#[cfg(not(feature = "nvtx"))]
macro_rules! local {
    ($number:expr, $($name:tt)*) => {
        $crate::range::Local {}
    };
}

pub(crate) use {local, span};

#[cfg(feature = "nvtx")]
mod on {
    use std::sync::OnceLock;

    use super::{Local, Span};

    impl Span {
        pub(crate) fn begin(name: String) -> Self {
            Self {
                _range: domain().range(named(name).build()),
            }
        }
    }

    impl Local {
        pub(crate) fn begin(name: String, number: u64) -> Self {
            Self {
                _range: domain().local_range(named(name).payload(number).build()),
            }
        }
    }

    /// The domain keeps each name, so there must not be endlessly many.
    fn named(name: String) -> nvtx::domain::EventAttributesBuilder<'static> {
        let name = nvtx::Str::from_string_lossy(name);
        domain().event_attributes_builder().message(name)
    }

    fn domain() -> &'static nvtx::Domain {
        static DOMAIN: OnceLock<nvtx::Domain> = OnceLock::new();
        DOMAIN.get_or_init(|| nvtx::Domain::new(c"symm"))
    }
}
