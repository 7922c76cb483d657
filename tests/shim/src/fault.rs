//! Faults: `RANK:CALL:K:WHAT`, where CALL is a function of NCCL or `*`, and K counts its calls by
//! that rank from 1.
//!
//! RANK is the process's `RANK`; for ranks as threads, the calling rank's number in the communicator
//! without a parent. WHAT is one of
//!
//! - `fail`: returns `ncclSystemError`, and the real library hears nothing.
//! - `hang`: sleeps for ever; `hang=SECONDS`: forwards after that long.
//! - `stuck`: as NCCL's own calls hang: comes back with `ncclInternalError` when the communicator is
//!   revoked or ended. The real library hears nothing.
//! - `null`: a registration is taken back, and gives a NULL window with success.
//! - `delay=MS`: forwards later. `stop`: stops the process (SIGSTOP), and forwards when it goes on.
//! - `kill`, `exit`: ends the process, by SIGKILL or as by `exit(86)`.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

use crate::comms::Known;

/// What `*` leaves out: these only ask.
const QUESTIONS: [&str; 3] = ["ncclGetVersion", "ncclGetErrorString", "ncclGetLastError"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Fail,
    Hang(Option<Duration>),
    Stuck,
    Null,
    Kill,
    Stop,
    Delay(Duration),
    Exit,
}

/// What becomes of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Forward,
    /// Forwarded; its window is then taken back.
    Null,
    /// Not forwarded: this code is returned.
    Return(i32),
}

#[derive(Debug)]
struct Fault {
    rank: usize,
    call: Box<str>,
    at: u64,
    what: What,
    seen: AtomicU64,
}

static FAULTS: LazyLock<Vec<Fault>> = LazyLock::new(|| {
    let text = std::env::var("SYMM_SHIM_FAULT").unwrap_or_default();
    let faults = text.split(',').filter(|fault| !fault.is_empty());
    faults
        .map(|fault| {
            parse(fault).unwrap_or_else(|| {
                // A test with a fault that does not come would prove nothing.
                eprintln!("symm-shim: SYMM_SHIM_FAULT: {fault} is no fault");
                std::process::exit(87)
            })
        })
        .collect()
});

fn parse(text: &str) -> Option<Fault> {
    let mut parts = text.splitn(4, ':');
    let (rank, call, at, what) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let (what, number) = match what.split_once('=') {
        Some((what, number)) => (what, Some(number.parse::<u64>().ok()?)),
        None => (what, None),
    };
    let what = match (what, number) {
        ("fail", None) => What::Fail,
        ("hang", seconds) => What::Hang(seconds.map(Duration::from_secs)),
        ("stuck", None) => What::Stuck,
        ("null", None) => What::Null,
        ("kill", None) => What::Kill,
        ("stop", None) => What::Stop,
        ("delay", Some(millis)) => What::Delay(Duration::from_millis(millis)),
        ("exit", None) => What::Exit,
        _ => return None,
    };
    Some(Fault {
        rank: rank.trim().parse().ok()?,
        call: call.into(),
        at: at.parse().ok().filter(|at| *at > 0)?,
        what,
        seen: AtomicU64::new(0),
    })
}

/// The fault that is due at this call of the rank; to be asked once for each call.
pub(crate) fn due(rank: Option<usize>, call: &str) -> Option<What> {
    let meant = |fault: &&Fault| {
        Some(fault.rank) == rank
            && (*fault.call == *call || (*fault.call == *"*" && !QUESTIONS.contains(&call)))
    };
    let mut due = None;
    for fault in FAULTS.iter().filter(meant) {
        if fault.seen.fetch_add(1, Ordering::Relaxed) + 1 == fault.at {
            due = Some(fault.what);
        }
    }
    due
}

impl What {
    /// Lets it happen.
    pub(crate) fn strike(self, comm: Option<&Known>) -> Verdict {
        /// `ncclSystemError`
        const SYSTEM_ERROR: i32 = 2;
        /// `ncclInternalError`
        const INTERNAL_ERROR: i32 = 3;
        match self {
            Self::Fail => return Verdict::Return(SYSTEM_ERROR),
            Self::Null => return Verdict::Null,
            Self::Hang(Some(time)) | Self::Delay(time) => sleep(time),
            Self::Hang(None) => loop {
                sleep(Duration::from_secs(3600));
            },
            Self::Stuck => {
                while !comm.is_some_and(Known::is_released) {
                    sleep(Duration::from_millis(1));
                }
                return Verdict::Return(INTERNAL_ERROR);
            }
            Self::Stop => send(Signal::STOP),
            Self::Kill => {
                send(Signal::KILL);
                // A signal to oneself has come before the call returns, but not by contract.
                loop {
                    sleep(Duration::from_secs(1));
                }
            }
            Self::Exit => std::process::exit(86),
        }
        Verdict::Forward
    }
}

fn send(signal: Signal) {
    if let Err(error) = kill_process(getpid(), signal) {
        eprintln!("symm-shim: no signal could be sent: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read() {
        let found = |text| parse(text).map(|fault| (fault.rank, fault.call, fault.at, fault.what));
        assert_eq!(
            found("1:ncclAllReduce:3:hang=2"),
            Some((
                1,
                "ncclAllReduce".into(),
                3,
                What::Hang(Some(Duration::from_secs(2)))
            ))
        );
        assert_eq!(found("0:*:1:kill"), Some((0, "*".into(), 1, What::Kill)));
        let wrong = [
            "1:*:0:fail",
            "1:*:1:",
            "1:*:1:explode",
            "x:*:1:fail",
            "1:*",
            "1:*:1:delay",
        ];
        assert!(wrong.iter().all(|text| parse(text).is_none()));
    }
}
