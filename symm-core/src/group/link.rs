//! A communicator with everything that is bound to it. A world that is rebuilt gives its groups new
//! ones.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::communicator::Communicator;
use super::sleep;
use super::twin::Twin;
use super::world::Rank;
use crate::agreement::group::Agreement;
use crate::backend::Backend;
use crate::backend::driver::{Driver, Releases};
use crate::error::{Error, Result};
use crate::pool::arena::{Arena, ArenaId};
use crate::pool::reaper;
use crate::pool::segment::Segment;
use crate::registration::ledger::{Ledger, Unsettled};

/// Windows, and what they lie on.
type Windows<B> = Vec<(<B as Driver>::Window, Arc<Segment<B>>)>;

/// A communicator and its windows. Lives until the last group, buffer and graph that uses it is
/// gone; then the reaper deregisters and destroys, in this order.
#[derive(Debug)]
pub(crate) struct Link<B: Backend> {
    /// Equal on all members, and of no other communicator of the world; `None` where somebody else
    /// made the communicator, so that nobody knows which ranks of the world it joins.
    pub(crate) split: Option<u64>,
    /// Agreements so far; see `capture::compare`.
    pub(crate) agreements: AtomicU64,
    pub(crate) version: u32,
    /// A book of the ledger was closed, and its windows may still be there.
    closed_books: AtomicBool,
    /// Windows that went while the world slept.
    parked: Mutex<Windows<B>>,
    /// Held by whoever calls NCCL with the communicator: it takes one thread at a time.
    calls: Mutex<()>,
    /// `None` only while it is being dropped.
    comm: Option<Arc<Communicator<B>>>,
    /// For what is faster without windows; made in a round, if at all.
    pub(super) twin: OnceLock<Twin<B>>,
    /// Twins made so far, also those that were not kept.
    pub(super) twins_made: AtomicU64,
    /// A kernel on windows could not be released if a rank never came to it, so all come first.
    pub(crate) all_first: bool,
    /// Where ranks compare what they call; `None` where there is nobody to compare with, or checks
    /// are off.
    pub(crate) agreement: Option<Arc<Agreement>>,
    ledger: Mutex<Ledger<B>>,
    /// Whether collectives on windows take symmetric kernels; known from the first registration on.
    symmetric_kernels: OnceLock<bool>,
    /// Meetings of rounds so far.
    pub(crate) meetings: AtomicU64,
    /// Whose streams use the windows.
    arena: Arc<Arena<B>>,
    world: Arc<Rank<B>>,
}

impl<B: Backend> Link<B> {
    pub(crate) fn new(
        name: &str,
        world: &Arc<Rank<B>>,
        comm: Arc<Communicator<B>>,
        split: Option<u64>,
        members: &Arc<[usize]>,
        arena: &Arc<Arena<B>>,
        unsettled: &Unsettled,
    ) -> Result<Arc<Self>> {
        let here = split.map(|id| (id, world.hosts.here(members)));
        let agreement = match here {
            Some((id, here)) if world.vitals.limits.checks && here.len() > 1 => {
                let agreement = Arc::new(Agreement::meet(name, &world.seat, id, members, &here)?);
                world.vitals.follow(&agreement);
                Some(agreement)
            }
            _ => None,
        };
        let limits = &world.vitals.limits;
        let released = B::releases(&comm.comm) == Releases::All;
        Ok(Arc::new(Self {
            all_first: agreement.is_some() && (!released || limits.agree_first),
            split,
            agreements: AtomicU64::new(0),
            version: B::version(&comm.comm),
            closed_books: AtomicBool::new(false),
            parked: Mutex::default(),
            calls: Mutex::default(),
            comm: Some(comm),
            twin: OnceLock::new(),
            twins_made: AtomicU64::new(0),
            agreement,
            ledger: Mutex::new(Ledger::new(unsettled)),
            symmetric_kernels: OnceLock::new(),
            meetings: AtomicU64::new(0),
            arena: Arc::clone(arena),
            world: Arc::clone(world),
        }))
    }

    /// Keeps other threads from calling NCCL with the communicator.
    pub(crate) fn calling(&self) -> MutexGuard<'_, ()> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn comm(&self) -> Result<&B::Comm> {
        self.communicator().map(|shared| &shared.comm)
    }

    pub(crate) fn communicator(&self) -> Result<&Arc<Communicator<B>>> {
        self.comm.as_ref().ok_or_else(|| Error::Config {
            what: "the group is being dropped".into(),
        })
    }

    /// Fails for a communicator that was revoked, of a world that failed or that was rebuilt without
    /// this group, and for one that sleeps.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        let shared = self.communicator()?;
        if !shared.is_revoked() && !shared.is_asleep() {
            return Ok(());
        }
        self.world.check()?;
        if shared.is_asleep() {
            return Err(sleep::asleep(&self.world));
        }
        Err(Error::Config {
            what: "this group was not rebuilt with its world, because some of its ranks had dropped it, or because its communicator is of another maker: split it again".into(),
        })
    }

    /// Whose streams use the communicators.
    pub(super) fn arena(&self) -> &Arena<B> {
        &self.arena
    }

    #[inline]
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger<B>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether collectives on windows take symmetric kernels, on all ranks; `None` while nothing is
    /// registered.
    pub(crate) fn kernels(&self) -> Option<bool> {
        self.symmetric_kernels.get().copied()
    }

    /// What all ranks found.
    pub(crate) fn found_kernels(&self, found: bool) {
        self.symmetric_kernels.get_or_init(|| found);
    }

    /// Hands the windows on an arena that ends before the group to the reaper, behind the work on
    /// `streams`.
    pub(crate) fn close_book(self: Arc<Self>, arena: ArenaId, streams: Vec<B::Stream>) {
        let windows = self.ledger().close(arena);
        self.deregister_later(windows, streams);
    }

    /// The same for the windows on the arena's segments from `keep` on.
    pub(crate) fn cut_book(self: Arc<Self>, arena: ArenaId, keep: usize, streams: Vec<B::Stream>) {
        let windows = self.ledger().cut(arena, keep);
        self.deregister_later(windows, streams);
    }

    fn deregister_later(self: Arc<Self>, windows: Windows<B>, streams: Vec<B::Stream>) {
        if windows.is_empty() {
            return;
        }
        self.closed_books.store(true, Ordering::Relaxed);
        let world = Arc::clone(&self.world);
        world.pool.reaper.later(move || {
            // Also of collectives that used it: their streams are the group's arena's.
            let streams = [streams, self.arena.streams()].concat();
            let mut outcome = reaper::drain::<B>(&streams);
            {
                let mut parked = self.parked();
                if self.comm.as_ref().is_some_and(|comm| comm.is_asleep()) {
                    parked.extend(windows);
                    return outcome;
                }
            }
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

    fn parked(&self) -> MutexGuard<'_, Windows<B>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its world failed since it was made.
    pub(crate) fn is_revoked(&self) -> bool {
        self.comm.as_ref().is_none_or(|comm| comm.is_revoked())
    }

    /// The world sleeps no more: what waited for that goes.
    pub(super) fn awake(self: Arc<Self>) {
        let Some(comm) = &self.comm else { return };
        let parked = {
            let mut parked = self.parked();
            comm.set_asleep(false);
            std::mem::take(&mut *parked)
        };
        match comm.is_revoked() {
            true => comm.keep(parked.into_iter().map(|(_, segment)| segment).collect()),
            false => self.deregister_later(parked, Vec::new()),
        }
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
}

impl<B: Backend> Drop for Link<B> {
    /// Hands windows, communicator and arena to the reaper, which gives them back in this order
    /// once the work is done.
    fn drop(&mut self) {
        let Some(comm) = self.comm.take() else {
            return;
        };
        let ledger = self.ledger.get_mut();
        let windows = ledger
            .unwrap_or_else(PoisonError::into_inner)
            .take_windows();
        let (arena, world) = (Arc::clone(&self.arena), Arc::clone(&self.world));
        let twin = self.twin.take().map(Twin::into_parts);
        self.world.pool.reaper.later(move || {
            let device = Arc::clone(&world.device);
            let mut outcome = reaper::drain::<B>(&arena.streams());
            // A revoked communicator takes its windows along when it is aborted.
            match comm.is_revoked() {
                true => comm.keep(windows.into_iter().map(|(_, segment)| segment).collect()),
                false => {
                    for (window, segment) in windows {
                        outcome = outcome.and(B::deregister(&device, &comm.comm, window));
                        drop(segment);
                    }
                }
            }
            // The world's communicator goes behind those that were split from it.
            world.pool.reaper.aside({
                let world = Arc::clone(&world);
                move || {
                    let twin = twin.map_or(Ok(()), |(twin, counted)| {
                        let ended = twin.release(&device);
                        drop(counted);
                        ended
                    });
                    let ended = comm.release(&device);
                    drop(world);
                    twin.and(ended)
                }
            });
            drop(arena);
            outcome
        });
    }
}
