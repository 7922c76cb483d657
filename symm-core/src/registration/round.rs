//! The one place where windows are made: ranks compare what they are about to register, register it
//! in order, and tell each other what they got.
//!
//! `ncclCommWindowRegister` is collective and waits for ever for a rank that does not come, so nobody
//! enters it before all ranks have said that they will, with the same segments.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ledger::Pending;
use super::returns;
use super::statement::{Statement, Totals};
use crate::agreement::group::ScopeMark;
use crate::agreement::record::{ArenaMark, What};
use crate::agreement::release::RETURN;
use crate::agreement::watched::{Ended, watched};
use crate::backend::Backend;
use crate::capture::active;
use crate::error::{Error, Result};
use crate::group::agree;
use crate::group::communicator::Communicator;
use crate::group::core::GroupCore;
use crate::group::link::Link;
use crate::group::twin;
use crate::pool::segment::Segment;
use crate::site::Site;
use crate::trace;

/// What a round is part of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Due {
    /// The end of a scope.
    Scope(ScopeMark),
    /// A call.
    Call,
}

/// Whether [`settle`] may have something to do. What every scope's close asks.
#[inline]
pub(crate) fn is_due<B: Backend>(group: &GroupCore<B>) -> bool {
    // A group of one registers nothing, and gives back what it dropped.
    !group.unsettled.is_zero() || group.size() == 1
}

/// Registers what is pending in the group. Costs nothing when nothing is.
pub(crate) fn settle<B: Backend>(group: &Arc<GroupCore<B>>, site: Site, due: Due) -> Result<()> {
    if !is_due(group) {
        return Ok(());
    }
    if group.size() == 1 {
        return returns::alone(group);
    }
    let link = group.link();
    if link.ledger().is_settled() {
        return Ok(());
    }
    group.world.check()?;
    link.check()?;
    active::may_register(group)?;
    link.wait_for_closed_books()?;
    // A communicator is not usable after a registration that failed on some of its ranks.
    round(group, &link, site, due).map_err(|error| group.world.vitals.first(error))
}

fn round<B: Backend>(
    group: &Arc<GroupCore<B>>,
    link: &Arc<Link<B>>,
    site: Site,
    due: Due,
) -> Result<()> {
    let pending = link.ledger().pending();
    let bytes = pending.iter().map(|one| one.segment.bytes()).sum();
    let _span = trace::round(group, pending.len(), bytes, site);
    // Who made a foreign communicator knows its ranks, we do not: they cannot compare.
    let compared = link.split.is_some();
    let mut dropped = Vec::new();
    if compared {
        let own = pending.iter().any(|one| one.arena == group.arena.id);
        let arena = if own {
            agree::history(group)
        } else {
            ArenaMark::default()
        };
        // Only where the arena's history is compared too.
        let told = match own {
            true => returns::told(group),
            false => Vec::new(),
        };
        let mine = Statement::new(&pending, arena.digest, told, site);
        let Totals { segments, bytes } = mine.totals();
        agree::step(group, link, What::Round { segments, bytes }, arena, site)?;
        let told = agree::meet(group, link, "a registration", mine.encode(), Some(due))?;
        dropped = mine.compare("a registration", &told, group)?;
    }
    let mut made = Vec::with_capacity(pending.len());
    for pending in &pending {
        let start = Instant::now();
        let window = register(group, link, link.communicator()?, &pending.segment);
        let window = window.map_err(failed(group, pending, site))?;
        made.push((window, start.elapsed()));
    }
    let mine = made.iter().map(|(window, _)| window.is_some());
    let everywhere = agreed(group, link, mine, "the windows of a registration")?;
    // What tells which kernels there are is a collective, so all ranks come to it or none.
    let first = everywhere.iter().position(|everywhere| *everywhere);
    if let Some(first) = first.filter(|_| link.kernels().is_none()) {
        let first = &pending[first];
        let comm = link.communicator()?;
        let found = kernels(group, link, comm, &first.segment);
        link.found_kernels(found.map_err(failed(group, first, site))?);
    }
    publish(group, link, pending, made, &everywhere, site)?;
    twin::make_if_wanted(group, link)?;
    // Last, when no rank has failed.
    returns::give_back(group, &dropped)
}

fn failed<B: Backend>(
    group: &GroupCore<B>,
    pending: &Pending<B>,
    site: Site,
) -> impl FnOnce(Error) -> Error {
    let (group, segment, bytes) = (group.label(), pending.index, pending.segment.bytes());
    move |cause| Error::Registration {
        group: group.into(),
        segment,
        bytes,
        site,
        cause: Box::new(cause),
    }
}

/// What all ranks say yes to, one by one. NCCL gives NULL with success where it has no window, which
/// may be one rank alone.
pub(crate) fn agreed<B: Backend>(
    group: &Arc<GroupCore<B>>,
    link: &Link<B>,
    mine: impl Iterator<Item = bool>,
    what: &str,
) -> Result<Vec<bool>> {
    let mine: Vec<u8> = mine.map(u8::from).collect();
    if link.split.is_none() {
        return Ok(mine.iter().map(|one| *one != 0).collect());
    }
    let len = mine.len();
    let told = agree::meet(group, link, what, mine, None)?;
    let all = |at: usize| told.iter().all(|told| told.get(at) == Some(&1));
    Ok((0..len).map(all).collect())
}

/// Enters the windows that all ranks have; one that some ranks lack would make them take different
/// kernels, so the others give it back.
fn publish<B: Backend>(
    group: &GroupCore<B>,
    link: &Link<B>,
    pending: Vec<Pending<B>>,
    made: Vec<(Option<B::Window>, Duration)>,
    everywhere: &[bool],
    site: Site,
) -> Result<()> {
    for ((pending, (window, took)), &everywhere) in pending.into_iter().zip(made).zip(everywhere) {
        if let Some(window) = window.as_ref().filter(|_| !everywhere) {
            let _calling = link.calling();
            B::deregister(&group.world.device, link.comm()?, window.clone())?;
        }
        let (segment, index) = (Arc::clone(&pending.segment), pending.index);
        link.ledger().settle(pending, window.filter(|_| everywhere));
        trace::registered(group, (&segment, index), everywhere, took, site);
    }
    Ok(())
}

/// Registers a segment with a communicator of the group's ranks.
pub(crate) fn register<B: Backend>(
    group: &GroupCore<B>,
    link: &Arc<Link<B>>,
    comm: &Arc<Communicator<B>>,
    segment: &Arc<Segment<B>>,
) -> Result<Option<B::Window>> {
    inside(
        group,
        link,
        comm,
        segment,
        "the registration of a segment",
        |device, comm, memory| B::register(device, comm, memory),
    )
    .map(Option::flatten)
}

/// Whether collectives on windows take symmetric kernels, on all ranks. `segment` is registered with
/// `comm`.
pub(crate) fn kernels<B: Backend>(
    group: &Arc<GroupCore<B>>,
    link: &Arc<Link<B>>,
    comm: &Arc<Communicator<B>>,
    segment: &Arc<Segment<B>>,
) -> Result<bool> {
    // What joins all ranks of the world joins these; nobody knows which ones a communicator of
    // another maker has.
    if link.split.is_some() && group.world.kernels.get() == Some(&true) {
        return Ok(true);
    }
    let found = inside(
        group,
        link,
        comm,
        segment,
        "the search for kernels",
        |device, comm, memory| B::symmetric_kernels(device, comm, memory),
    )?;
    let mine = [found == Some(true)].into_iter();
    Ok(agreed(group, link, mine, "the kernels of a registration")? == [true])
}

/// Runs a call of NCCL that waits for all ranks, on a thread of its own and with a deadline: all of
/// them are about to be inside.
fn inside<B: Backend, T: Send + 'static>(
    group: &GroupCore<B>,
    link: &Arc<Link<B>>,
    comm: &Arc<Communicator<B>>,
    segment: &Arc<Segment<B>>,
    what: &'static str,
    call: impl FnOnce(&B::Device, &B::Comm, &B::Segment) -> Result<T> + Send + 'static,
) -> Result<Option<T>> {
    let vitals = &group.world.vitals;
    let deadline = vitals.limits.inside();
    let (device, inner) = (Arc::clone(&group.world.device), Arc::clone(link));
    let (comm, segment) = (Arc::clone(comm), Arc::clone(segment));
    let calling = vitals.calling();
    let call = move || {
        let _inside = calling;
        let Some(memory) = segment.memory() else {
            return Ok(None);
        };
        let calling = inner.calling();
        let done = call(&device, &comm.comm, memory);
        drop(calling);
        let released = comm.release(&device);
        done.and_then(|done| released.map(|()| Some(done)))
    };
    let late = || Error::Timeout {
        rank: group.world.seat.rank,
        missing: vitals.silent(),
        what: format!("{what} with {}, inside NCCL", group.label()).into(),
        after: deadline,
    };
    match watched("register", deadline, RETURN, call, || {
        vitals.poison(&late())
    }) {
        // It may have come back because it was released.
        Ok(Ended::Back(made)) => vitals.check().map(|()| made),
        Ok(Ended::Stuck) => Err(vitals.check().err().unwrap_or_else(late)),
        Err(error) => Err(vitals.explained(error)),
    }
}
