//! What becomes of one call: logged, faulted or forwarded, and logged again.

use std::ffi::{c_int, c_void};
use std::fmt::Write;

use crate::comms::{self, Known};
use crate::fault::{self, Verdict};
use crate::log;

/// `ncclInvalidUsage`: what is called is not there.
const INVALID_USAGE: c_int = 5;

/// What the real library returned.
pub(crate) struct Answer {
    pub(crate) code: c_int,
    /// What it gave, as ` name=value`.
    pub(crate) outputs: String,
}

impl Answer {
    /// What a library says that lacks the function.
    pub(crate) fn absent() -> Self {
        Self {
            code: INVALID_USAGE,
            outputs: " absent=1".into(),
        }
    }
}

/// One call of the program.
pub(crate) struct Entry<'a> {
    pub(crate) name: &'static str,
    pub(crate) comm: Option<*mut c_void>,
    /// ` name=value` for each argument.
    pub(crate) arguments: &'a str,
}

impl Entry<'_> {
    /// Lets the call happen. `forward` learns what is known of the communicator, and whether its
    /// window is to be taken back.
    pub(crate) fn pass(&self, forward: impl FnOnce(Option<&Known>, bool) -> Answer) -> c_int {
        let known = self.comm.and_then(comms::find);
        let of = self.enter(known.as_ref());
        if let Some(known) = known.as_ref().filter(|_| self.ends() || self.revokes()) {
            known.release();
        }
        let verdict = match fault::due(comms::caller(known.as_ref()), self.name) {
            None => Verdict::Forward,
            Some(what) => {
                let what_text = format!("{what:?}").to_lowercase();
                log::line(&format!("fault {} of={of} what={what_text}", self.name));
                what.strike(known.as_ref())
            }
        };
        let answer = match verdict {
            Verdict::Return(code) => Answer {
                code,
                outputs: " forwarded=0".into(),
            },
            Verdict::Forward | Verdict::Null => {
                if let Some(comm) = self.comm.filter(|_| self.ends()) {
                    comms::gone(comm);
                }
                forward(known.as_ref(), verdict == Verdict::Null)
            }
        };
        let Answer { code, outputs } = answer;
        log::line(&format!("ret {} of={of} code={code}{outputs}", self.name));
        code
    }

    fn enter(&self, known: Option<&Known>) -> u64 {
        let mut line = format!("call {}", self.name);
        if let Some(comm) = self.comm {
            // Writing to a String does not fail.
            let _ = write!(line, " comm={comm:p}");
        }
        if let Some(known) = known {
            let _ = write!(line, " rank={}", known.rank);
        }
        line.push_str(self.arguments);
        log::line(&line)
    }

    fn ends(&self) -> bool {
        matches!(self.name, "ncclCommDestroy" | "ncclCommAbort")
    }

    fn revokes(&self) -> bool {
        self.name == "ncclCommRevoke"
    }
}

/// How an argument is written to the log; `None` for what is not worth it.
pub(crate) trait Shown {
    fn shown(&self) -> Option<String>;
}

macro_rules! numbers {
    ($($type:ty),*) => { $(
        impl Shown for $type {
            fn shown(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )* };
}
numbers!(c_int, usize);

impl Shown for *const c_void {
    fn shown(&self) -> Option<String> {
        Some(format!("{:p}", *self))
    }
}

impl Shown for *mut c_void {
    fn shown(&self) -> Option<String> {
        Some(format!("{:p}", *self))
    }
}

/// Where results go: what comes there is logged when the call returns.
impl<T: Place> Shown for *mut T {
    fn shown(&self) -> Option<String> {
        None
    }
}

pub(crate) trait Place {}
impl Place for *mut c_void {}
impl Place for c_int {}
impl Place for u64 {}

/// The arguments as the log has them.
pub(crate) fn arguments(all: &[(&str, &dyn Shown)]) -> String {
    let shown = all
        .iter()
        .filter_map(|(name, value)| Some((name, value.shown()?)));
    shown.fold(String::new(), |mut text, (name, value)| {
        let _ = write!(text, " {name}={value}");
        text
    })
}
