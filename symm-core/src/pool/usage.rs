//! Who uses an arena: one thread at a time, or the ranks' histories would depend on timing.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::site::Site;

/// What a thread holds of an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// An open scope: allocates.
    Scope,
    /// A collective, a registration.
    Call,
    /// A live buffer, whose free is part of the arena's history.
    Buffer,
}

/// The thread that uses an arena, and for what.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    /// The last thread that came while nobody was inside, and where. Who comes holds the lock; who
    /// leaves does not, so that leaving is one instruction.
    entered: Mutex<(u64, Option<Site>)>,
    inside: AtomicUsize,
    buffers: AtomicUsize,
}

impl Usage {
    /// Lets this thread in, or says where the other one entered.
    ///
    /// A scope of another thread also has to wait for this one's buffers: where a free falls among
    /// its allocations would depend on timing.
    #[inline]
    pub(crate) fn enter(&self, claim: Claim, site: Site) -> Result<(), Site> {
        let me = thread_number();
        let mut entered = self.entered.lock();
        // Acquire: what the last one inside did, and the one that dropped the last buffer.
        let inside = self.inside.load(Ordering::Acquire) > 0;
        let taken = inside || (claim == Claim::Scope && self.buffers.load(Ordering::Acquire) > 0);
        if taken && entered.0 != me {
            return Err(entered.1.unwrap_or(site));
        }
        if !inside {
            *entered = (me, Some(site));
        }
        self.claim(claim);
        Ok(())
    }

    #[inline]
    pub(crate) fn claim(&self, claim: Claim) {
        self.count(claim).fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn release(&self, claim: Claim) {
        self.count(claim).fetch_sub(1, Ordering::Release);
    }

    #[inline]
    fn count(&self, claim: Claim) -> &AtomicUsize {
        match claim {
            Claim::Buffer => &self.buffers,
            Claim::Scope | Claim::Call => &self.inside,
        }
    }
}

/// A number of this thread that no other thread of the process ever has.
#[inline]
fn thread_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local!(static NUMBER: Cell<u64> = const { Cell::new(0) });
    NUMBER.with(|number| {
        if number.get() == 0 {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}
