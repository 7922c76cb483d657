//! Which communicators there are, and whose rank calls.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

/// What is known of a communicator.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// This rank's number in it.
    pub(crate) rank: usize,
    /// This rank's number in the communicator that it was first split from.
    pub(crate) world: usize,
    /// A revoke, or its end, was called: what is stuck in it comes back.
    released: Arc<AtomicBool>,
}

static COMMS: LazyLock<Mutex<HashMap<usize, Known>>> = LazyLock::new(Mutex::default);

thread_local!(static LAST: Cell<Option<usize>> = const { Cell::new(None) });

fn comms() -> MutexGuard<'static, HashMap<usize, Known>> {
    COMMS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes a new communicator; `parent` is the one that it was split from.
pub(crate) fn made(comm: *mut c_void, rank: usize, parent: Option<&Known>) {
    let known = Known {
        rank,
        world: parent.map_or(rank, |parent| parent.world),
        released: Arc::default(),
    };
    LAST.set(Some(known.world));
    comms().insert(comm as usize, known);
}

pub(crate) fn find(comm: *mut c_void) -> Option<Known> {
    comms().get(&(comm as usize)).cloned()
}

/// Forgets a communicator, whose address may be given to another at once.
pub(crate) fn gone(comm: *mut c_void) {
    if let Some(known) = comms().remove(&(comm as usize)) {
        known.release();
    }
}

/// The world rank that calls: as a launcher numbered this process, else that of the communicator,
/// else that of the thread's last call with one.
pub(crate) fn caller(comm: Option<&Known>) -> Option<usize> {
    static PROCESS: LazyLock<Option<usize>> =
        LazyLock::new(|| std::env::var("RANK").ok()?.trim().parse().ok());
    if let Some(known) = comm {
        LAST.set(Some(known.world));
    }
    PROCESS.or_else(|| LAST.get())
}

impl Known {
    pub(crate) fn release(&self) {
        self.released.store(true, Ordering::Release);
    }

    pub(crate) fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
    }
}
