//! cudarc's event tracking, off while something is recorded.
//!
//! cudarc orders the uses of its slices by events. A captured stream cannot wait for an event from
//! before the capture (`CUDA_ERROR_STREAM_CAPTURE_ISOLATION`), and an event that was recorded in a
//! capture is of no use after it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::CudaContext;

/// Keeps the event tracking of a context off until dropped; afterwards it is as it was.
#[derive(Debug)]
#[must_use]
pub(super) struct Untracked(Arc<CudaContext>);

static PAUSES: Mutex<Pauses> = Mutex::new(Pauses(BTreeMap::new()));

fn pauses() -> MutexGuard<'static, Pauses> {
    PAUSES.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Untracked {
    pub(super) fn enter(context: &Arc<CudaContext>) -> Self {
        let mut pauses = pauses();
        pauses.begin(Arc::as_ptr(context) as usize, context.is_event_tracking());
        // SAFETY: what is recorded is ordered by the waits that are recorded with it. Who captures
        // sees to the rest, since the switch is the whole context's (see `Driver::begin_capture`).
        unsafe { context.disable_event_tracking() };
        Self(Arc::clone(context))
    }
}

impl Drop for Untracked {
    fn drop(&mut self) {
        let mut pauses = pauses();
        if pauses.end(Arc::as_ptr(&self.0) as usize) {
            // SAFETY: slices that were made meanwhile have no events; `Fence` orders ours by
            // waiting for streams.
            unsafe { self.0.enable_event_tracking() };
        }
    }
}

/// By context: who keeps its tracking off, and whether it was on before the first of them. Records
/// of one context may overlap in any order (two threads; a look at kernels inside a capture), so
/// none can put back what it found.
#[derive(Debug)]
struct Pauses(BTreeMap<usize, Pause>);

#[derive(Debug)]
struct Pause {
    holders: usize,
    was_on: bool,
}

impl Pauses {
    fn begin(&mut self, context: usize, is_on: bool) {
        let pause = self.0.entry(context).or_insert(Pause {
            holders: 0,
            was_on: is_on,
        });
        pause.holders += 1;
    }

    /// Whether tracking is to be switched on.
    fn end(&mut self, context: usize) -> bool {
        let Some(pause) = self.0.get_mut(&context) else {
            return false;
        };
        pause.holders -= 1;
        if pause.holders > 0 {
            return false;
        }
        let was_on = pause.was_on;
        self.0.remove(&context);
        was_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_puts_back_what_the_first_one_found() {
        let mut pauses = Pauses(BTreeMap::new());
        pauses.begin(1, true);
        pauses.begin(1, false); // as the first left it
        pauses.begin(2, false); // the user's own choice
        assert!(!pauses.end(1));
        assert!(!pauses.end(2));
        assert!(pauses.end(1));
        assert!(pauses.0.is_empty());
    }
}
