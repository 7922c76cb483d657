//! Who uses an arena: one thread at a time, or the ranks' histories would depend on timing.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::site::{Site, SiteCell};

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
    /// The last thread that came while nobody was inside, above, and how often it is inside, below:
    /// one word, so that coming and leaving are one locked instruction each.
    inside: AtomicU64,
    /// Where that thread came in first; for messages.
    site: SiteCell,
    buffers: AtomicUsize,
}

/// The claims of the thread that is inside.
const DEPTH: u64 = (1 << 16) - 1;

impl Usage {
    /// Lets this thread in, or says where the other one entered.
    ///
    /// A scope of another thread also has to wait for this one's buffers: where a free falls among
    /// its allocations would depend on timing.
    #[inline]
    pub(crate) fn enter(&self, claim: Claim, site: Site) -> Result<(), Site> {
        let me = thread_number() << DEPTH.count_ones();
        // Acquire: what the last one inside did, and the one that dropped the last buffer.
        let mut found = self.inside.load(Ordering::Acquire);
        loop {
            let depth = found & DEPTH;
            let taken =
                depth > 0 || (claim == Claim::Scope && self.buffers.load(Ordering::Acquire) > 0);
            if taken && found & !DEPTH != me {
                return Err(self.site.load().unwrap_or(site));
            }
            let entered = self.inside.compare_exchange_weak(
                found,
                me | (depth + 1),
                Ordering::Acquire,
                Ordering::Acquire,
            );
            match entered {
                Ok(_) if depth > 0 => return Ok(()),
                Ok(_) => {
                    self.site.store(site);
                    return Ok(());
                }
                Err(now) => found = now,
            }
        }
    }

    /// A block of this thread's is a buffer from here on.
    #[inline]
    pub(crate) fn claim_buffer(&self) {
        self.buffers.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn release(&self, claim: Claim) {
        match claim {
            Claim::Buffer => drop(self.buffers.fetch_sub(1, Ordering::Release)),
            Claim::Scope | Claim::Call => drop(self.inside.fetch_sub(1, Ordering::Release)),
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
