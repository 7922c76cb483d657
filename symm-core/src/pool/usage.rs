//! Who uses an arena: one thread at a time, or the ranks' histories would depend on timing.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

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
    thread: u64,
    site: Option<Site>,
    inside: usize,
    buffers: usize,
}

impl Usage {
    /// Lets this thread in, or says where the other one entered.
    ///
    /// A scope of another thread also has to wait for this one's buffers: where a free falls among
    /// its allocations would depend on timing.
    pub(crate) fn enter(&mut self, claim: Claim, site: Site) -> Result<(), Site> {
        let me = thread_number();
        let taken = self.inside > 0 || (claim == Claim::Scope && self.buffers > 0);
        if taken && self.thread != me {
            return Err(self.site.unwrap_or(site));
        }
        if !taken || self.inside == 0 {
            (self.thread, self.site) = (me, Some(site));
        }
        self.claim(claim);
        Ok(())
    }

    pub(crate) fn claim(&mut self, claim: Claim) {
        *self.count(claim) += 1;
    }

    pub(crate) fn release(&mut self, claim: Claim) {
        let count = self.count(claim);
        *count = count.saturating_sub(1);
    }

    fn count(&mut self, claim: Claim) -> &mut usize {
        match claim {
            Claim::Buffer => &mut self.buffers,
            Claim::Scope | Claim::Call => &mut self.inside,
        }
    }
}

/// A number of this thread that no other thread of the process ever has.
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
