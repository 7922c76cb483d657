//! What frees a rank when its world has failed: the gate closes and every communicator is revoked, so
//! that calls and kernels that wait for a peer come back.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::limits::OnUnrecoverable;
use super::vitals::{Vitals, lock};
use crate::backend::Backend;
use crate::backend::driver::Releases;
use crate::error::{Error, Result};
use crate::group::communicator::Communicator;

/// How long the launches that were let through may take to end before communicators are revoked all
/// the same: one of them may be stuck in a first collective.
const LAUNCHES: Duration = Duration::from_millis(200);
/// How long a call that was released may take to come back, for its caller: the rest of it is waited
/// for when the world is rebuilt.
pub(crate) const RETURN: Duration = Duration::from_millis(900);
/// How long a revoke may take (`../shared/reference/review.md`, section 0: 0.5 to 1.0 s each).
pub(crate) const REVOKE: Duration = Duration::from_secs(5);

pub(super) const INSIDE_NCCL: &str =
    "a call does not come back from NCCL, although its communicator was revoked";

/// A call of NCCL that waits for peers, while it is inside.
#[derive(Debug)]
pub(crate) struct Calling(Arc<AtomicUsize>);

impl Drop for Calling {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How far the release of what waits has come since the failure.
#[derive(Debug, Default)]
pub(super) struct Released {
    pub(super) begun: AtomicBool,
    /// Communicators that are being revoked, and the closing of the gate.
    pub(super) under_way: AtomicUsize,
    /// What cannot be released.
    pub(super) stuck: Mutex<Option<Box<str>>>,
}

impl<B: Backend> Vitals<B> {
    /// A communicator of this rank, to be revoked with the others.
    pub(crate) fn own(self: &Arc<Self>, comm: B::Comm) -> Arc<Communicator<B>> {
        let comm = Communicator::new(comm);
        {
            let mut comms = lock(&self.comms);
            comms.retain(|known| known.strong_count() > 0);
            comms.push(Arc::downgrade(&comm));
        }
        // It may have been made while the world failed.
        if self.released.begun.load(Ordering::Acquire) {
            self.revoke(Arc::clone(&comm));
        }
        comm
    }

    /// Closes the gate and revokes every communicator, once, on threads of their own.
    pub(super) fn release(self: &Arc<Self>) {
        if self.released.begun.swap(true, Ordering::AcqRel) {
            return;
        }
        self.aside(|vitals| {
            vitals.gate.close(LAUNCHES);
            let comms: Vec<_> = lock(&vitals.comms)
                .iter()
                .filter_map(Weak::upgrade)
                .collect();
            comms.into_iter().for_each(|comm| vitals.revoke(comm));
            Ok(())
        });
    }

    /// Revokes a communicator: it takes half a second where something waits.
    fn revoke(self: &Arc<Self>, comm: Arc<Communicator<B>>) {
        if !comm.mark_revoked() {
            return;
        }
        self.aside(|vitals| {
            let revoked = B::revoke(&vitals.device, &comm.comm);
            let released = B::releases(&comm.comm);
            // The last handle may be this one.
            let ended = comm.release(&vitals.device);
            match revoked {
                Err(error) if released != Releases::Nothing => Err(error),
                _ => ended,
            }
        });
    }

    /// Runs a part of the release on a thread of its own.
    fn aside(self: &Arc<Self>, job: impl FnOnce(&Arc<Self>) -> Result<()> + Send + 'static) {
        self.released.under_way.fetch_add(1, Ordering::AcqRel);
        let vitals = Arc::clone(self);
        self.progress.aside("symm-release", move || {
            let outcome = job(&vitals);
            vitals.released.under_way.fetch_sub(1, Ordering::AcqRel);
            outcome
        });
    }

    /// Waits until everything that can be released is, after a failure.
    pub(crate) fn wait_for_release(self: &Arc<Self>) -> Result<()> {
        self.release();
        let end = Instant::now() + REVOKE + LAUNCHES;
        loop {
            let under_way = self.released.under_way.load(Ordering::Acquire);
            if under_way == 0 && self.stuck.load(Ordering::Acquire) == 0 {
                break;
            }
            if Instant::now() > end {
                return Err(self.unrecoverable(INSIDE_NCCL));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Notes what cannot be released, and ends the process if that was asked for.
    pub(crate) fn unrecoverable(&self, what: &str) -> Error {
        let rank = self.seat.rank;
        let what: Box<str> = what.into();
        let error = Error::Unrecoverable {
            rank,
            what: what.clone(),
        };
        if let OnUnrecoverable::Exit(code) = self.limits.on_unrecoverable {
            eprintln!("symm: {error}");
            std::process::exit(code);
        }
        lock(&self.released.stuck).get_or_insert(what);
        error
    }

    /// Counts a call of NCCL that waits for peers, until it comes back.
    pub(crate) fn calling(&self) -> Calling {
        self.stuck.fetch_add(1, Ordering::AcqRel);
        Calling(Arc::clone(&self.stuck))
    }
}
