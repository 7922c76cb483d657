//! How communicators are made: on threads of their own, with a deadline, because a peer that does
//! not come leaves NCCL waiting for ever.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::communicator::Communicator;
use super::world::Rank;
use crate::agreement::release::RETURN;
use crate::agreement::watched::{Ended, watched};
use crate::backend::Backend;
use crate::backend::driver::Split;
use crate::error::{Error, Result};
use crate::rendezvous::Topic;

/// The channel on which ranks tell whether they found symmetric kernels.
const KERNELS: u64 = u64::from_le_bytes(*b"kernels?");

/// A communicator of the split's members, made without a parent.
pub(crate) fn connect<B: Backend>(
    rank: &Arc<Rank<B>>,
    split: Split,
) -> Result<Arc<Communicator<B>>> {
    let (device, seat) = (Arc::clone(&rank.device), rank.seat.clone());
    // Whoever is not there is missed by the rendezvous first, at the world's own deadline.
    let deadline = rank.vitals.limits.deadline + rank.vitals.limits.inside();
    let call = move || B::connect(&device, &seat, &split);
    made(rank, "connect", deadline, call)
}

/// A communicator cut out of the world's.
pub(crate) fn cut<B: Backend>(rank: &Arc<Rank<B>>, split: &Split) -> Result<Arc<Communicator<B>>> {
    let trunk = rank.trunk.lock().unwrap_or_else(PoisonError::into_inner);
    let trunk = trunk.clone().ok_or_else(|| Error::Config {
        what: "the world is being dropped".into(),
    })?;
    let (device, split) = (Arc::clone(&rank.device), split.clone());
    // All ranks said what they want, so all of them come here.
    let deadline = rank.vitals.limits.inside();
    let call = move || {
        let made = B::split(&device, &trunk.comm, &split);
        let released = trunk.release(&device);
        made.and_then(|comm| released.map(|()| comm))
    };
    made(rank, "split", deadline, call)
}

/// Finds out whether symmetric kernels join all ranks, which are here, if the backend can tell.
pub(crate) fn find_kernels<B: Backend>(
    rank: &Arc<Rank<B>>,
    trunk: &Arc<Communicator<B>>,
) -> Result<()> {
    let Some(ask) = B::kernels_of_all(&trunk.comm) else {
        return Ok(());
    };
    let (device, comm) = (Arc::clone(&rank.device), Arc::clone(trunk));
    let call = move || {
        let found = ask(&device, &comm.comm);
        let released = comm.release(&device);
        found.and_then(|found| released.map(|()| found))
    };
    let what = "the search for kernels";
    let mine = inside(rank, what, rank.vitals.limits.inside(), call)?;
    let seat = &rank.seat;
    let everyone = (0..seat.ranks).collect();
    let topic = Topic {
        channel: Topic::channel(&[KERNELS]),
        step: 0,
    };
    let mine = vec![u8::from(mine)];
    let told = seat
        .rendezvous
        .exchange(topic, &everyone, mine, what, seat.deadline)?;
    // NCCL may give one rank alone no window.
    rank.kernels
        .get_or_init(|| told.iter().all(|told| told[..] == [1]));
    Ok(())
}

fn made<B: Backend>(
    rank: &Arc<Rank<B>>,
    name: &'static str,
    deadline: Duration,
    call: impl FnOnce() -> Result<B::Comm> + Send + 'static,
) -> Result<Arc<Communicator<B>>> {
    inside(rank, name, deadline, call).map(|comm| rank.vitals.own(comm))
}

/// Runs a call of NCCL that waits for peers; a communicator or an answer that some ranks have and
/// others have not is of no use to any.
fn inside<B: Backend, T: Send + 'static>(
    rank: &Arc<Rank<B>>,
    name: &'static str,
    deadline: Duration,
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let vitals = &rank.vitals;
    let late = || Error::Timeout {
        rank: rank.seat.rank,
        missing: vitals.silent(),
        what: format!("{name} of a communicator, inside NCCL").into(),
        after: deadline,
    };
    // A split that is stuck is released through its parent only, which costs the world.
    let calling = vitals.calling();
    let call = move || {
        let _inside = calling;
        call()
    };
    match watched(name, deadline, RETURN, call, || vitals.poison(&late())) {
        Ok(Ended::Back(done)) => Ok(done),
        Ok(Ended::Stuck) => Err(vitals.check().err().unwrap_or_else(late)),
        Err(error) => Err(vitals.first(vitals.explained(error))),
    }
}
