//! How a case fails: with an error that says where, and not with a panic, so that its rank ends in
//! order.

use std::any::Any;
use std::fmt::{self, Debug, Display};
use std::panic::Location;

use symm_core::Error;

/// What a case returns.
pub type Outcome<T = ()> = Result<T, Failure>;

/// What did not hold, and where.
#[derive(Debug)]
pub struct Failure {
    at: Option<&'static Location<'static>>,
    what: What,
}

#[derive(Debug)]
enum What {
    Check(String),
    Error(Box<Error>),
}

impl Failure {
    /// A check that did not hold.
    #[track_caller]
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            at: Some(Location::caller()),
            what: What::Check(what.into()),
        }
    }

    pub(super) fn panicked(panic: &(dyn Any + Send)) -> Self {
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Self {
            at: None,
            what: What::Check(format!("panicked: {}", text.unwrap_or("no message"))),
        }
    }

    /// Whether it only repeats what happened on another rank.
    pub fn is_echo(&self) -> bool {
        matches!(&self.what, What::Error(error) if matches!(root(error), Error::PeerFailed { .. } | Error::Poisoned { .. }))
    }
}

impl From<Error> for Failure {
    /// `?` passes its own place on, so an unexpected error says which call gave it.
    #[track_caller]
    fn from(error: Error) -> Self {
        Self {
            at: Some(Location::caller()),
            what: What::Error(error.into()),
        }
    }
}

impl From<Failure> for Error {
    /// For [`World::run`](symm_core::World::run), which tells the failure of one rank from the
    /// echoes of the others.
    fn from(failure: Failure) -> Self {
        match &failure.what {
            What::Error(error) if failure.is_echo() => root(error).clone(),
            _ => Error::Config {
                what: failure.to_string().into(),
            },
        }
    }
}

/// The error behind a registration that failed.
fn root(error: &Error) -> &Error {
    match error {
        Error::Registration { cause, .. } => root(cause),
        error => error,
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = self.at {
            write!(f, "{}:{}: ", at.file(), at.line())?;
        }
        match &self.what {
            What::Check(text) => f.write_str(text),
            What::Error(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Failure {}

/// Fails unless the elements are the expected ones. Says which is the first that is not, rather
/// than print both.
#[track_caller]
pub(super) fn same<T: PartialEq + Debug + Copy>(
    got: &[T],
    expected: &[T],
    what: impl Display,
) -> Outcome {
    if got == expected {
        return Ok(());
    }
    if got.len() != expected.len() {
        return Err(Failure::new(format!(
            "{what}: {} elements, not {}",
            got.len(),
            expected.len()
        )));
    }
    let wrong: Vec<usize> = (0..got.len()).filter(|&i| got[i] != expected[i]).collect();
    let first = wrong[0];
    let (got, expected, of) = (got[first], expected[first], got.len());
    Err(Failure::new(format!(
        "{what}: {} of {of} elements are wrong, first {first}: {got:?}, not {expected:?}",
        wrong.len()
    )))
}

/// Fails with the condition, or with the message.
macro_rules! ensure {
    ($condition:expr) => {
        ensure!($condition, "{}", stringify!($condition))
    };
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::suite::Failure::new(format!($($message)+)));
        }
    };
}

/// Fails unless both are equal, and shows them.
macro_rules! ensure_eq {
    ($got:expr, $expected:expr $(,)?) => {
        match (&$got, &$expected) {
            (got, expected) => {
                ensure!(*got == *expected, "{} is {got:?}, not {expected:?}", stringify!($got))
            }
        }
    };
    ($got:expr, $expected:expr, $($message:tt)+) => {
        match (&$got, &$expected) {
            (got, expected) => {
                let what = format_args!($($message)+);
                ensure!(*got == *expected, "{what}: {} is {got:?}, not {expected:?}", stringify!($got))
            }
        }
    };
}

/// Fails unless both hold the same elements; the message says what they are.
macro_rules! ensure_same {
    ($got:expr, $expected:expr, $($message:tt)+) => {
        $crate::suite::check::same(&$got[..], &$expected[..], format_args!($($message)+))?
    };
}

/// Fails unless the value matches the pattern, and shows it.
macro_rules! ensure_matches {
    ($got:expr, $($pattern:tt)+) => {
        match $got {
            $($pattern)+ => {}
            got => {
                let (what, pattern) = (stringify!($got), stringify!($($pattern)+));
                return Err($crate::suite::Failure::new(format!("{what} is {got:?}, not {pattern}")));
            }
        }
    };
}

/// The cases of a module: its functions by name, with the fewest ranks where these are not 2.
macro_rules! cases {
    ($($name:ident $(from $ranks:literal)?),* $(,)?) => {
        vec![$({
            let ranks = [$($ranks,)? 2][0];
            $crate::suite::Case::new(module_path!(), stringify!($name), ranks, $name::<B>)
        }),*]
    };
}
