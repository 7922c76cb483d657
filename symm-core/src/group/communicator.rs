//! A communicator, shared by what uses it and by those who may have to revoke it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::Backend;
use crate::error::Result;
use crate::pool::segment::Segment;

/// A communicator of a world.
#[derive(Debug)]
pub(crate) struct Communicator<B: Backend> {
    pub(crate) comm: B::Comm,
    /// Set before it is revoked, never unset.
    revoked: AtomicBool,
    /// Its world sleeps; see `group::sleep`.
    asleep: AtomicBool,
    /// What its windows lie on, if it is aborted with them.
    kept: Mutex<Vec<Arc<Segment<B>>>>,
}

impl<B: Backend> Communicator<B> {
    pub(crate) fn new(comm: B::Comm) -> Arc<Self> {
        Arc::new(Self {
            comm,
            revoked: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            kept: Mutex::default(),
        })
    }

    /// Whether its world failed.
    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    /// Whether this was the first to say that it is to be revoked.
    pub(crate) fn mark_revoked(&self) -> bool {
        !self.revoked.swap(true, Ordering::AcqRel)
    }

    /// Whether its world sleeps.
    pub(crate) fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::Acquire)
    }

    pub(super) fn set_asleep(&self, asleep: bool) {
        self.asleep.store(asleep, Ordering::Release);
    }

    /// Keeps segments until it has ended.
    pub(crate) fn keep(&self, segments: Vec<Arc<Segment<B>>>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(segments);
    }

    /// Lets go of one handle; with the last one the communicator ends: destroyed, or aborted if its
    /// world failed. May wait for peers.
    pub(crate) fn release(self: Arc<Self>, device: &B::Device) -> Result<()> {
        match Arc::into_inner(self) {
            None => Ok(()),
            Some(last) if last.is_revoked() => B::abort(device, last.comm),
            Some(last) => B::destroy(device, last.comm),
        }
    }
}
