//! SIGINT and SIGTERM of a process that waits for its ranks.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use crate::error::{Error, Result};

const HANDED_ON: [i32; 2] = [SIGINT, SIGTERM];

/// What handlers see. They are installed once and stay: a signal that comes while nothing is
/// launched does what it always did.
static HANDLERS: Mutex<Option<Handlers>> = Mutex::new(None);

struct Handlers {
    /// The last signal; 0 for none.
    got: Arc<AtomicUsize>,
    /// Whether no launch is under way.
    idle: Arc<AtomicBool>,
    /// Those that are ours.
    ours: Vec<i32>,
    launches: usize,
}

fn handlers() -> MutexGuard<'static, Option<Handlers>> {
    HANDLERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Signals are taken while it lives.
#[derive(Debug)]
pub(super) struct Watch {
    got: Arc<AtomicUsize>,
    ours: Vec<i32>,
}

impl Watch {
    pub(super) fn begin() -> Result<Self> {
        let mut handlers = handlers();
        let handlers = match &mut *handlers {
            Some(handlers) => handlers,
            none => none.insert(Handlers::install().map_err(|error| Error::Config {
                what: format!("no handlers of SIGINT and SIGTERM can be installed: {error}").into(),
            })?),
        };
        handlers.launches += 1;
        handlers.idle.store(false, Ordering::Release);
        Ok(Self {
            got: Arc::clone(&handlers.got),
            ours: handlers.ours.clone(),
        })
    }

    /// A signal that came since the last call.
    pub(super) fn taken(&self) -> Option<i32> {
        match self.got.swap(0, Ordering::AcqRel) {
            0 => None,
            signal => Some(signal as i32),
        }
    }

    /// Ends this process as the signal would have, if nobody else handles it.
    pub(super) fn end_by(&self, signal: i32) -> Result<()> {
        match self.ours.contains(&signal) {
            true => low_level::emulate_default_handler(signal).map_err(|error| Error::Config {
                what: format!("signal {signal} cannot be raised: {error}").into(),
            }),
            false => Ok(()),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(handlers) = &mut *handlers() {
            handlers.launches -= 1;
            handlers
                .idle
                .store(handlers.launches == 0, Ordering::Release);
        }
    }
}

impl Handlers {
    /// Of the signals whose action is the default one: what the program handles or ignores is left
    /// to it.
    fn install() -> std::io::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let got = Arc::new(AtomicUsize::new(0));
        let idle = Arc::new(AtomicBool::new(true));
        let ours = HANDED_ON.into_iter().filter(|signal| {
            let is_in = |mask: &str| has(&status, mask, *signal);
            !is_in("SigCgt:") && !is_in("SigIgn:")
        });
        let ours: Vec<i32> = ours.collect();
        for &signal in &ours {
            flag::register_conditional_default(signal, Arc::clone(&idle))?;
            flag::register_usize(signal, Arc::clone(&got), signal as usize)?;
        }
        Ok(Self {
            got,
            idle,
            ours,
            launches: 0,
        })
    }
}

/// Whether the signal is in a mask of `/proc/self/status`.
fn has(status: &str, mask: &str, signal: i32) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix(mask));
    let mask = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_read() {
        let status = "Name:\tx\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000004002\n";
        assert!(has(status, "SigCgt:", SIGINT) && has(status, "SigCgt:", SIGTERM));
        assert!(!has(status, "SigIgn:", SIGINT) && has(status, "SigIgn:", 13));
        assert!(!has("", "SigCgt:", SIGINT));
    }
}
