//! The launch gate: open while the world is whole. It is closed before anything is revoked, because
//! what is launched on a revoked communicator is never released again, and a replay of a graph then
//! hangs or uses memory that is gone (`../shared/reference/review.md`, section 0).

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const CLOSED: u64 = 1 << 63;
/// Launches that are inside lie below, all that ever came above.
const CAME: u64 = 1 << 24;
const INSIDE: u64 = CAME - 1;

/// Counts those who are launching, and those who ever did; closed until it is opened again.
#[derive(Debug, Default)]
pub(crate) struct Gate(AtomicU64);

/// While it lives, its owner launches.
#[derive(Debug)]
pub(crate) struct Launching<'a>(&'a Gate);

impl Gate {
    /// Lets a launch through, unless the gate is closed.
    pub(crate) fn enter(&self) -> Option<Launching<'_>> {
        // Acquire and release pair with `close`, which has to see every launch that was let through.
        let before = self.0.fetch_add(CAME + 1, Ordering::AcqRel);
        let launching = Launching(self);
        (before & CLOSED == 0).then_some(launching)
    }

    /// Closes it, and waits a moment for the launches that were let through: one that is inside a
    /// first collective may be stuck there, and is released by what comes next.
    pub(crate) fn close(&self, patience: Duration) {
        let end = Instant::now() + patience;
        self.0.fetch_or(CLOSED, Ordering::AcqRel);
        while self.0.load(Ordering::Acquire) & INSIDE != 0 && Instant::now() < end {
            thread::sleep(Duration::from_micros(100));
        }
    }

    /// Opens it again.
    pub(crate) fn open(&self) {
        self.0.fetch_and(INSIDE, Ordering::AcqRel);
    }

    /// What is inside: the same number at two looks means that nothing came out in between. `None` if
    /// nothing is.
    pub(crate) fn inside(&self) -> Option<u64> {
        let now = self.0.load(Ordering::Acquire) & !CLOSED;
        (now & INSIDE != 0).then_some(now)
    }
}

impl Drop for Launching<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_passes_a_closed_gate() {
        let gate = Gate::default();
        let inside = gate.enter();
        assert!(inside.is_some());
        let start = Instant::now();
        gate.close(Duration::from_millis(5));
        assert!(start.elapsed() >= Duration::from_millis(5), "one is inside");
        drop(inside);
        gate.close(Duration::from_secs(60));
        assert!(gate.enter().is_none());
        assert!(
            gate.enter().is_none(),
            "one that was refused leaves no trace"
        );
        gate.open();
        assert!(gate.enter().is_some());
    }
}
