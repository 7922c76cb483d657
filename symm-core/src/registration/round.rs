//! The one place where windows are made: ranks compare what they are about to register, register it
//! in order, and tell each other what they got.
//!
//! `ncclCommWindowRegister` is collective and waits for ever for a rank that does not come, so nobody
//! enters it before all ranks have said that they will, with the same segments.

use std::sync::Arc;

use super::ledger::Pending;
use super::statement::{Statement, Totals};
use crate::agreement::group::ScopeMark;
use crate::agreement::record::{ArenaMark, What};
use crate::agreement::vitals::REVOKE;
use crate::agreement::watched::{Ended, watched};
use crate::backend::Backend;
use crate::capture::active;
use crate::error::{Error, Result};
use crate::group::agree;
use crate::group::core::GroupCore;
use crate::group::link::Link;
use crate::pool::segment::Segment;
use crate::site::Site;

/// What a round is part of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Due {
    /// The end of a scope.
    Scope(ScopeMark),
    /// A call.
    Call,
}

/// Registers what is pending in the group. Costs nothing when nothing is.
pub(crate) fn settle<B: Backend>(group: &Arc<GroupCore<B>>, site: Site, due: Due) -> Result<()> {
    let link = group.link();
    if link.ledger().is_settled() || group.size() == 1 {
        return Ok(());
    }
    group.world.check()?;
    active::may_register(group)?;
    link.wait_for_closed_books()?;
    // A communicator is not usable after a registration that failed on some of its ranks.
    round(group, &link, site, due).inspect_err(|error| group.world.poison(error))
}

fn round<B: Backend>(
    group: &Arc<GroupCore<B>>,
    link: &Arc<Link<B>>,
    site: Site,
    due: Due,
) -> Result<()> {
    let pending = link.ledger().pending();
    // Who made a foreign communicator knows its ranks, we do not: they cannot compare.
    let compared = link.split.is_some();
    if compared {
        let own = pending.iter().any(|one| one.arena == group.arena.id);
        let arena = if own {
            agree::history(group)
        } else {
            ArenaMark::default()
        };
        let mine = Statement::new(&pending, arena.digest, site);
        let Totals { segments, bytes } = mine.totals();
        agree::step(group, link, What::Round { segments, bytes }, arena, site)?;
        let told = agree::meet(group, link, "a registration", mine.encode(), Some(due))?;
        mine.compare(&told, group)?;
    }
    let mut made = Vec::with_capacity(pending.len());
    for pending in &pending {
        let failed = |cause| Error::Registration {
            group: group.label().into(),
            segment: pending.index,
            bytes: pending.segment.bytes(),
            site,
            cause: Box::new(cause),
        };
        made.push(register(group, link, &pending.segment).map_err(failed)?);
    }
    let kernels = link.symmetric_kernels.get().copied();
    let agreed = match compared {
        true => {
            let mine = Gained::new(&made, kernels).encode();
            let told = agree::meet(group, link, "the end of a registration", mine, None)?;
            Gained::common(&told)
        }
        false => Gained::new(&made, kernels),
    };
    publish(group, link, pending, made, &agreed)
}

/// What a rank got: NCCL gives NULL with success where it has no window, which may be one rank
/// alone.
struct Gained {
    windows: Vec<bool>,
    /// Whether symmetric kernels are taken.
    kernels: bool,
}

impl Gained {
    fn new<W>(made: &[Option<W>], kernels: Option<bool>) -> Self {
        Self {
            windows: made.iter().map(Option::is_some).collect(),
            kernels: kernels.unwrap_or(false),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let flags = [self.kernels]
            .into_iter()
            .chain(self.windows.iter().copied());
        flags.map(u8::from).collect()
    }

    /// What all ranks got.
    fn common(told: &[Vec<u8>]) -> Self {
        let len = told.iter().map(Vec::len).min().unwrap_or(0);
        let all = |at: usize| told.iter().all(|told| told[at] != 0);
        Self {
            windows: (1..len).map(all).collect(),
            kernels: len > 0 && all(0),
        }
    }
}

/// Enters the windows that all ranks have; one that some ranks lack would make them take different
/// kernels, so the others give it back.
fn publish<B: Backend>(
    group: &GroupCore<B>,
    link: &Link<B>,
    pending: Vec<Pending<B>>,
    made: Vec<Option<B::Window>>,
    agreed: &Gained,
) -> Result<()> {
    for (at, (pending, window)) in pending.into_iter().zip(made).enumerate() {
        let everywhere = agreed.windows.get(at) == Some(&true);
        if let Some(window) = window.as_ref().filter(|_| !everywhere) {
            let _calling = link.calling();
            B::deregister(&group.world.device, link.comm()?, window.clone())?;
        }
        link.ledger().settle(pending, window.filter(|_| everywhere));
    }
    if agreed.windows.contains(&true) && !agreed.kernels {
        link.without_kernels();
    }
    Ok(())
}

/// Registers on a thread of its own, with a deadline: all ranks are about to be inside.
fn register<B: Backend>(
    group: &GroupCore<B>,
    link: &Arc<Link<B>>,
    segment: &Arc<Segment<B>>,
) -> Result<Option<B::Window>> {
    let vitals = &group.world.vitals;
    let deadline = vitals.limits.inside();
    let (device, inner, segment) = (
        Arc::clone(&group.world.device),
        Arc::clone(link),
        Arc::clone(segment),
    );
    let call = move || {
        let Some(memory) = segment.memory() else {
            return Ok(None);
        };
        let _calling = inner.calling();
        let comm = inner.comm()?;
        let window = B::register(&device, comm, memory)?;
        if window.is_some() && inner.symmetric_kernels.get().is_none() {
            let found = B::symmetric_kernels(&device, comm, memory)?;
            inner.symmetric_kernels.get_or_init(|| found);
        }
        Ok(window)
    };
    let late = || Error::Timeout {
        rank: group.world.seat.rank,
        missing: Box::default(),
        what: format!(
            "the registration of a segment with {}, inside NCCL",
            group.label()
        )
        .into(),
        after: deadline,
    };
    match watched("register", deadline, REVOKE, call, || vitals.poison(&late()))? {
        // It may have come back because it was released.
        Ended::Back(window) => vitals.check().map(|()| window),
        Ended::Stuck => Err(vitals.unrecoverable(&format!(
            "the registration of a segment with {} does not come back from NCCL, also after it was revoked",
            group.label()
        ))),
    }
}
