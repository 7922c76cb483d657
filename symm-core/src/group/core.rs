//! What all handles of one group share.

use std::any::TypeId;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::tag::{Dyn, GroupTag};
use super::world::Rank;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::pool::arena::{Arena, ArenaId};
use crate::pool::reaper;
use crate::registration::ledger::Ledger;

/// One communicator with its arena and its ledger. Lives until the last handle, buffer and scope of
/// the group is gone.
#[derive(Debug)]
pub(crate) struct GroupCore<B: Backend> {
    /// A generation: no two groups of a process ever have the same, whatever the addresses of their
    /// communicators.
    pub(crate) generation: u64,
    pub(crate) tag: TypeId,
    pub(crate) tag_name: &'static str,
    name: Box<str>,
    pub(crate) rank: usize,
    /// World ranks by rank in the group.
    pub(crate) members: Arc<[usize]>,
    /// Equal on all members, and of no other group of the world; `None` where somebody else made the
    /// communicator, so that nobody knows which ranks of the world it joins.
    pub(crate) split: Option<u64>,
    /// Agreements of the group so far; see `capture::compare`.
    pub(crate) agreements: AtomicU64,
    /// A book of the ledger was closed, and its windows may still be there.
    closed_books: AtomicBool,
    /// Held by whoever calls NCCL with the communicator: it takes one thread at a time.
    calls: Mutex<()>,
    /// `None` only while the group is being dropped.
    comm: Option<B::Comm>,
    pub(crate) version: u32,
    pub(crate) arena: Arc<Arena<B>>,
    ledger: Mutex<Ledger<B>>,
    /// Whether collectives on this group's windows take symmetric kernels; known from the first
    /// registration on.
    pub(crate) symmetric_kernels: OnceLock<bool>,
    pub(crate) world: Arc<Rank<B>>,
}

impl<B: Backend> GroupCore<B> {
    pub(crate) fn new<G: GroupTag>(
        world: &Arc<Rank<B>>,
        name: &str,
        comm: B::Comm,
        split: Option<u64>,
        rank: usize,
        members: Arc<[usize]>,
    ) -> Arc<Self> {
        static GENERATIONS: AtomicU64 = AtomicU64::new(1);
        let generation = GENERATIONS.fetch_add(1, Ordering::Relaxed);
        let arena = match G::ARENA {
            Some(shared) => world.pool.shared_arena(shared),
            None => world.pool.new_arena(&format!("{name}#{generation}")),
        };
        Arc::new(Self {
            generation,
            tag: TypeId::of::<G>(),
            tag_name: G::NAME,
            name: name.into(),
            rank,
            members,
            version: B::version(&comm),
            comm: Some(comm),
            calls: Mutex::default(),
            split,
            agreements: AtomicU64::new(0),
            closed_books: AtomicBool::new(false),
            arena,
            ledger: Mutex::default(),
            symmetric_kernels: OnceLock::new(),
            world: Arc::clone(world),
        })
    }

    pub(crate) fn size(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The name in messages, e.g. `tp#3 (rank 1 of 4)`.
    pub(crate) fn label(&self) -> String {
        format!(
            "{}#{} (rank {} of {})",
            self.name,
            self.generation,
            self.rank,
            self.size()
        )
    }

    /// Whether a handle or buffer of tag `G` may name this group: its own tag, or any.
    pub(crate) fn has_tag<G: GroupTag>(&self) -> bool {
        let tag = TypeId::of::<G>();
        tag == self.tag || tag == TypeId::of::<Dyn>()
    }

    /// Keeps other threads from calling NCCL with the communicator.
    pub(crate) fn calling(&self) -> MutexGuard<'_, ()> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn comm(&self) -> Result<&B::Comm> {
        self.comm.as_ref().ok_or_else(|| Error::Config {
            what: format!("{} is being dropped", self.label()).into(),
        })
    }

    /// Hands the windows on an arena that ends before the group to the reaper, behind the work on
    /// `streams`.
    pub(crate) fn close_book(self: Arc<Self>, arena: ArenaId, streams: Vec<B::Stream>) {
        let windows = self.ledger().close(arena);
        if windows.is_empty() {
            return;
        }
        self.closed_books.store(true, Ordering::Relaxed);
        let world = Arc::clone(&self.world);
        world.pool.reaper.later(move || {
            // Also of collectives that used it: their streams are the group's arena's.
            let streams = [streams, self.arena.streams()].concat();
            let mut outcome = reaper::drain::<B>(&streams);
            let _calling = self.calling();
            for (window, segment) in windows {
                let gone = self
                    .comm()
                    .and_then(|comm| B::deregister(&self.world.device, comm, window));
                outcome = outcome.and(gone);
                drop(segment);
            }
            outcome
        });
    }

    /// Waits for the windows of closed books to be gone. NCCL takes the place of a window from the
    /// lowest that is free, and multicast kernels need the same place on all ranks: so ranks
    /// deregister and register in one order, that of their programs (`../shared/reference/nccl.md`,
    /// section 3).
    pub(crate) fn wait_for_closed_books(&self) -> Result<()> {
        let reaper = &self.world.pool.reaper;
        // In a capture, which holds the reaper, registering is an exception that was asked for.
        match !reaper.is_held() && self.closed_books.swap(false, Ordering::Relaxed) {
            true => reaper.flush(self.world.seat.deadline),
            false => Ok(()),
        }
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger<B>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> Drop for GroupCore<B> {
    /// Hands windows, communicator and arena to the reaper, which gives them back in this order
    /// once the group's work is done.
    fn drop(&mut self) {
        let Some(comm) = self.comm.take() else {
            return;
        };
        let windows = std::mem::take(
            self.ledger
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner),
        )
        .into_windows();
        let (arena, world) = (Arc::clone(&self.arena), Arc::clone(&self.world));
        self.world.pool.reaper.later(move || {
            let device = Arc::clone(&world.device);
            let mut outcome = reaper::drain::<B>(&arena.streams());
            for (window, segment) in windows {
                outcome = outcome.and(B::deregister(&device, &comm, window));
                drop(segment);
            }
            // The world's communicator goes behind those that were split from it.
            world.pool.reaper.aside({
                let world = Arc::clone(&world);
                move || {
                    let destroyed = B::destroy(&device, comm);
                    drop(world);
                    destroyed
                }
            });
            drop(arena);
            outcome
        });
    }
}
