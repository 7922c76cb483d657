//! A communicator, shared by what uses it and by those who may have to revoke it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::backend::Backend;
use crate::error::Result;

/// A communicator of a world.
#[derive(Debug)]
pub(crate) struct Communicator<B: Backend> {
    pub(crate) comm: B::Comm,
    /// Set before it is revoked, never unset.
    revoked: AtomicBool,
}

impl<B: Backend> Communicator<B> {
    pub(crate) fn new(comm: B::Comm) -> Arc<Self> {
        Arc::new(Self {
            comm,
            revoked: AtomicBool::new(false),
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
