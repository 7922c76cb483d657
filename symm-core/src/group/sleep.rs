//! A world that sleeps: its communicators give back the memory that NCCL holds for them, until it is
//! resumed. For servers that park a model.
//!
//! `ncclCommSuspend` and `ncclCommResume` are collective: each waits for the device and for all ranks
//! of its communicator, without a time limit (`ncclCommMemSuspend` in NCCL's mem_manager.cc). They
//! unmap the buffers and connections that NCCL tracks and map them again at the same addresses, so
//! graphs stay whole. Windows and what `ncclMemAlloc` gave stay where they are.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::agree;
use super::communicator::Communicator;
use super::core::GroupCore;
use super::world::{Rank, World};
use crate::agreement::record::{ArenaMark, What};
use crate::agreement::release::RETURN;
use crate::agreement::watched::{Ended, watched};
use crate::backend::Backend;
use crate::capture::active;
use crate::error::{Error, Result};
use crate::pool::reaper::drain;
use crate::pool::usage::Claim;
use crate::rendezvous::{Topic, Values};
use crate::scope::routing::{self, Inside};
use crate::site::Site;

/// The channel on which worlds fall asleep and wake.
const SLEEP: u64 = 0x736c_6565;

/// What a rank gave back when its world was suspended.
///
/// ```
/// use symm_core::{Host, World};
/// let suspended = World::<Host>::run(2, |world| {
///     let suspended = world.suspend()?;
///     world.resume()?;
///     Ok(suspended)
/// })?;
/// assert_eq!(suspended[0].to_string(), "1 communicator suspended, 0 bytes given back");
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Suspended {
    /// Communicators that sleep: the world's own, the groups', and their twins.
    pub communicators: usize,
    /// Bytes of this rank's device that NCCL gave back, as `ncclCommMemStats` has them. The host
    /// backend's communicators hold none.
    pub bytes: u64,
}

impl fmt::Display for Suspended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            communicators,
            bytes,
        } = self;
        let s = if *communicators == 1 { "" } else { "s" };
        write!(
            f,
            "{communicators} communicator{s} suspended, {bytes} bytes given back"
        )
    }
}

/// What sleeps.
#[derive(Debug)]
pub(crate) struct Asleep<B: Backend> {
    /// In the order in which all ranks suspend and resume them.
    comms: Vec<Arc<Communicator<B>>>,
    /// All that were alive. Kept, because NCCL cannot destroy a communicator that sleeps.
    groups: Vec<Arc<GroupCore<B>>>,
}

impl<B: Backend> World<B> {
    /// Has NCCL give back the memory that it holds for the world's communicators: buffers and
    /// connections, some hundred MiB for each where groups are large. What was allocated stays, with
    /// its windows and contents: [`Group::trim`](crate::Group::trim) first, to give that back too.
    ///
    /// A round: all ranks call it at the same point, and it waits for their work. Until all have
    /// called [`resume`](World::resume), collectives, launches of graphs, scopes that would register
    /// something, and splits are [`Error::Suspended`]; buffers can be read, written and dropped. A
    /// group over a communicator of another maker sleeps as well, and keeps its memory.
    ///
    /// ```
    /// use symm_core::{Error, Host, ReduceOp, World, groups, symm};
    /// groups! { pub Tp = "tp"; }
    /// let sums = World::<Host>::run(2, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     let mut x = symm!(group = tp, { tp.from_slice(&[1.0f32])? })?;
    ///     println!("{}", world.suspend()?);
    ///     let refused = tp.all_reduce_in_place(&mut x, ReduceOp::Sum);
    ///     assert!(matches!(refused, Err(Error::Suspended { .. })));
    ///     world.resume()?;
    ///     tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    ///     x.to_vec()
    /// })?;
    /// assert_eq!(sums, [[2.0], [2.0]]);
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unsupported`] before NCCL 2.29.7, which has `ncclCommSuspend`. [`Error::Suspended`]
    /// if it is suspended already, [`Error::GroupBusy`], [`Error::InCapture`]. [`Error::RanksDiffer`]
    /// when a rank does something else, [`Error::Timeout`], [`Error::PeerFailed`]; when NCCL fails,
    /// the world fails with it, and [`rebuild`](World::rebuild) makes new communicators.
    #[track_caller]
    pub fn suspend(&self) -> Result<Suspended> {
        suspend(self.inner(), Site::caller())
    }

    /// Wakes the world: NCCL takes its memory again. A round: all ranks call it at the same point.
    /// Groups, windows and graphs are as they were.
    ///
    /// ```
    /// # use symm_core::{Error, Host, ReduceOp, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let mut x = symm!(group = tp, { tp.from_slice(&[1.0f32])? })?;
    /// world.suspend()?;
    /// world.resume()?;
    /// tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?; // on the window that it had
    /// assert_eq!((x.to_vec()?, tp.windows()), (vec![2.0], 1));
    /// assert!(matches!(world.resume(), Err(Error::Config { .. }))); // it does not sleep
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Config`] unless the world is suspended. [`Error::Timeout`], [`Error::PeerFailed`];
    /// when NCCL fails, as for want of memory, the world fails with it.
    pub fn resume(&self) -> Result<()> {
        resume(self.inner())
    }
}

impl<B: Backend> Drop for World<B> {
    /// A world that is dropped in its sleep wakes first, on another thread, when its peers resume it
    /// or drop theirs: NCCL cannot destroy what sleeps.
    fn drop(&mut self) {
        let rank = Arc::clone(self.inner());
        let Some(asleep) = take(&rank) else { return };
        let pool = Arc::clone(&rank.pool);
        pool.reaper.aside(move || {
            let woken = rank.check().and_then(|()| asleep.wake(&rank));
            let woken = woken.or_else(|error| {
                // What cannot wake is aborted.
                rank.poison(&error);
                rank.vitals.wait_for_release()
            });
            woken.and(asleep.end(&rank))
        });
    }
}

impl<B: Backend> Asleep<B> {
    /// Resumes all of it. All ranks call it at the same point.
    fn wake(&self, rank: &Arc<Rank<B>>) -> Result<()> {
        meet(rank, "world.resume", Vec::new())?;
        for comm in &self.comms {
            inside(rank, "resume", comm, |device, comm| B::resume(device, comm))?;
        }
        meet(rank, "the end of world.resume", Vec::new()).map(drop)
    }

    /// Lets go of what sleeps no more.
    fn end(self, rank: &Rank<B>) -> Result<()> {
        let mut outcome = Ok(());
        for group in &self.groups {
            group.link().awake();
        }
        // The groups' and the world's handles are there still.
        for comm in self.comms {
            outcome = outcome.and(comm.release(&rank.device));
        }
        drop(self.groups);
        outcome
    }
}

fn lock<B: Backend>(rank: &Rank<B>) -> MutexGuard<'_, Option<Asleep<B>>> {
    rank.asleep.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take<B: Backend>(rank: &Rank<B>) -> Option<Asleep<B>> {
    lock(rank).take()
}

/// Fails while the world sleeps.
pub(crate) fn awake<B: Backend>(rank: &Rank<B>) -> Result<()> {
    match lock(rank).is_some() {
        true => Err(asleep(rank)),
        false => Ok(()),
    }
}

/// What a call gets meanwhile.
pub(crate) fn asleep<B: Backend>(rank: &Rank<B>) -> Error {
    Error::Suspended {
        rank: rank.seat.rank,
    }
}

/// Of a world that is being rebuilt, once its communicators are released: the new ones are awake.
pub(super) fn forget<B: Backend>(rank: &Rank<B>) -> Result<()> {
    // Ranks may have failed before or behind a meeting; those of the new epoch are others.
    rank.sleeps.store(0, Ordering::Relaxed);
    take(rank).map_or(Ok(()), |asleep| asleep.end(rank))
}

fn suspend<B: Backend>(rank: &Arc<Rank<B>>, site: Site) -> Result<Suspended> {
    rank.check()?;
    active::refuse(
        rank,
        "suspending a world",
        "it waits for all work, and for peers: suspend it before the capture",
    )?;
    // No split meanwhile.
    let _splits = rank.splits.lock().unwrap_or_else(PoisonError::into_inner);
    let mut sleeping = lock(rank);
    if sleeping.is_some() {
        return Err(asleep(rank));
    }
    let groups = rank.live_groups();
    let mine = groups.clone();
    let inside = mine
        .iter()
        .map(|group| Inside::new(group, Claim::Call, site));
    let _inside: Vec<_> = inside.collect::<Result<_>>()?;
    let trunk = {
        let trunk = rank.trunk.lock().unwrap_or_else(PoisonError::into_inner);
        let trunk = trunk.as_ref().ok_or_else(|| Error::Config {
            what: "the world is being dropped".into(),
        })?;
        // The same on all ranks, which have the same NCCL.
        B::can_suspend(&trunk.comm)?;
        Arc::clone(trunk)
    };
    let mut asleep = Asleep {
        comms: vec![trunk],
        groups,
    };
    let suspended = put_to_sleep(rank, &mut asleep, site);
    // Also what failed half way: it ends when the world is rebuilt, or dropped.
    *sleeping = Some(asleep);
    suspended.map_err(|error| rank.vitals.first(error))
}

fn put_to_sleep<B: Backend>(
    rank: &Arc<Rank<B>>,
    asleep: &mut Asleep<B>,
    site: Site,
) -> Result<Suspended> {
    for group in &asleep.groups {
        let link = group.link();
        if link.split.is_some() && link.check().is_ok() {
            agree::step(group, &link, What::Suspend, ArenaMark::default(), site)?;
        }
    }
    // From here on nothing is launched, and windows that go wait for the end.
    for group in &asleep.groups {
        group.link().communicator()?.set_asleep(true);
    }
    rank.pool.reaper.flush(rank.seat.deadline)?;
    let streams = asleep.groups.iter().flat_map(|group| group.arena.streams());
    let own = [rank.stream.clone(), routing::stream(rank)];
    drain::<B>(&streams.chain(own).collect::<Vec<_>>())?;
    rank.check()?;

    let told = meet(rank, "world.suspend", encode(&asleep.groups))?;
    asleep.comms.extend(common(&asleep.groups, &told)?);
    let mut bytes = 0;
    for comm in &asleep.comms {
        bytes += inside(rank, "suspend", comm, |device, comm| {
            B::suspend(device, comm)
        })?;
    }
    meet(rank, "the end of world.suspend", Vec::new())?;
    Ok(Suspended {
        communicators: asleep.comms.len(),
        bytes,
    })
}

fn resume<B: Backend>(rank: &Arc<Rank<B>>) -> Result<()> {
    rank.check()?;
    active::refuse(
        rank,
        "resuming a world",
        "it waits for peers: resume it before the capture",
    )?;
    let mut sleeping = lock(rank);
    let asleep = sleeping.as_ref().ok_or_else(|| Error::Config {
        what: "the world is not suspended: world.suspend() comes first, on all ranks".into(),
    })?;
    // Half of a communicator awake is of no use.
    let woken = asleep.wake(rank);
    woken.map_err(|error| rank.vitals.first(error))?;
    match sleeping.take() {
        Some(awake) => awake.end(rank),
        None => Ok(()),
    }
}

/// Runs a call of NCCL that waits for all ranks, which are about to be inside, on a thread of its own
/// and with a deadline.
fn inside<B: Backend, T: Send + 'static>(
    rank: &Arc<Rank<B>>,
    name: &'static str,
    comm: &Arc<Communicator<B>>,
    call: impl FnOnce(&B::Device, &B::Comm) -> Result<T> + Send + 'static,
) -> Result<T> {
    let vitals = &rank.vitals;
    let deadline = vitals.limits.inside();
    let late = || Error::Timeout {
        rank: rank.seat.rank,
        missing: vitals.silent(),
        what: format!("world.{name}, inside NCCL").into(),
        after: deadline,
    };
    let (device, comm) = (Arc::clone(&rank.device), Arc::clone(comm));
    let calling = vitals.calling();
    let call = move || {
        let _inside = calling;
        let outcome = call(&device, &comm.comm);
        let released = comm.release(&device);
        outcome.and_then(|value| released.map(|()| value))
    };
    match watched(name, deadline, RETURN, call, || vitals.poison(&late())) {
        // It may have come back because it was released.
        Ok(Ended::Back(value)) => vitals.check().map(|()| value),
        Ok(Ended::Stuck) => Err(vitals.check().err().unwrap_or_else(late)),
        Err(error) => Err(vitals.explained(error)),
    }
}

/// All ranks of the world meet.
fn meet<B: Backend>(rank: &Rank<B>, what: &str, value: Vec<u8>) -> Result<Values> {
    let topic = Topic {
        channel: Topic::channel(&[SLEEP]),
        step: rank.sleeps.fetch_add(1, Ordering::Relaxed),
    };
    let everyone: Arc<[usize]> = (0..rank.seat.ranks).collect();
    let told = rank
        .seat
        .rendezvous
        .exchange(topic, &everyone, value, what, rank.seat.deadline);
    // The board says more than the wire.
    told.map_err(|error| rank.check().err().unwrap_or(error))
}

/// The numbers of the groups' communicators, each with whether there is a twin.
fn encode<B: Backend>(groups: &[Arc<GroupCore<B>>]) -> Vec<u8> {
    let words = groups.iter().filter_map(|group| {
        let link = group.link();
        let split = link.split.filter(|_| !link.is_revoked())?;
        Some([split, u64::from(link.has_twin())])
    });
    words.flatten().flat_map(u64::to_le_bytes).collect()
}

fn decode(told: &[u8]) -> BTreeSet<[u64; 2]> {
    let words = told.as_chunks::<16>().0.iter();
    let word = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0, |word, &byte| word << 8 | u64::from(byte))
    };
    words
        .map(|pair| [word(&pair[..8]), word(&pair[8..])])
        .collect()
}

/// The communicators of the groups that live on all their ranks, in the order of their numbers: one
/// that some rank is about to drop is suspended on none.
fn common<B: Backend>(
    groups: &[Arc<GroupCore<B>>],
    told: &Values,
) -> Result<Vec<Arc<Communicator<B>>>> {
    let told: Vec<BTreeSet<[u64; 2]>> = told.iter().map(|told| decode(told)).collect();
    let mut sorted: Vec<_> = groups
        .iter()
        .filter_map(|group| Some((group.link().split?, group)))
        .collect();
    sorted.sort_by_key(|(id, _)| *id);
    let mut comms = Vec::new();
    for (id, group) in sorted {
        let link = group.link();
        let pair = [id, u64::from(link.has_twin())];
        let lives = |member: &usize| told.get(*member).is_some_and(|told| told.contains(&pair));
        if group.members.iter().all(lives) {
            comms.push(Arc::clone(link.communicator()?));
            comms.extend(link.twin_communicator());
        }
    }
    Ok(comms)
}
