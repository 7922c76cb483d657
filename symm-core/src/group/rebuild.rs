//! Making a failed world whole again: released, drained, compared, and given new communicators.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::connect::connect;
use super::core::GroupCore;
use super::inventory::{Group, Inventory};
use super::link::Link;
use super::reclaim::reclaim;
use super::sleep;
use super::start;
use super::world::{Rank, World};
use crate::backend::Backend;
use crate::backend::driver::Split;
use crate::capture::active;
use crate::error::{Error, Result};
use crate::rendezvous::Topic;
use crate::trace;

/// The channel on which rebuilt worlds report.
const REBUILT: u64 = 0x7265_6275;

impl<B: Backend> World<B> {
    /// Makes the world whole again after a failure. All ranks call it; it waits for all of them.
    ///
    /// Every communicator was revoked when the world failed. This waits until the rank's streams have
    /// drained, meets the peers, and makes new communicators for the world and for each group that is
    /// alive on all its ranks. Groups and buffers stay as they are: their memory is registered again
    /// when it is used next. What the buffers hold is undefined where work was under way. Graphs that
    /// were captured before are of no use any more (their launches fail): drop them and capture
    /// again.
    ///
    /// Ranks must hold the same buffers in their arenas, so drop what the failed step made before.
    /// Segments that only some of the ranks made before they failed go back.
    ///
    /// ```
    /// use symm_core::{Error, Host, ReduceOp, World, groups, symm};
    /// groups! { pub Tp = "tp"; }
    /// let sums = World::<Host>::run(2, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     let step = |fails: bool| {
    ///         let mut x = symm!(group = tp, { tp.from_slice(&[1.0f32])? })?;
    ///         match fails && world.rank() == 1 {
    ///             // One rank goes another way; all of them are told.
    ///             true => tp.broadcast_in_place(&mut x, 0)?,
    ///             false => tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?,
    ///         };
    ///         x.to_vec()
    ///     };
    ///     assert!(step(true).is_err());
    ///     world.rebuild()?;
    ///     step(false)
    /// })?;
    /// assert_eq!(sums, [[2.0], [2.0]]);
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::PeerFailed`] when a rank died or left: a world is rebuilt by all of its ranks.
    /// [`Error::Suspended`] for one that is whole and sleeps: resume it.
    /// [`Error::RanksDiffer`] when they hold different buffers: drop them and call it again.
    /// [`Error::Unrecoverable`] when the device cannot be released. [`Error::Timeout`].
    pub fn rebuild(&self) -> Result<()> {
        let start = Instant::now();
        let outcome = rebuild(self.inner());
        trace::rebuilt(self.inner().seat.rank, start.elapsed(), &outcome);
        outcome
    }
}

fn rebuild<B: Backend>(rank: &Arc<Rank<B>>) -> Result<()> {
    active::refuse(rank, "rebuilding a world", "end the capture first: drop it")?;
    let (vitals, seat) = (&rank.vitals, &rank.seat);
    if rank.check().is_ok() {
        sleep::awake(rank)?;
        vitals.poison(&Error::Config {
            what: "the world is being rebuilt".into(),
        });
    }
    vitals.wait_for_release()?;
    drain(rank)?;
    // Before ranks tell which groups they have.
    sleep::forget(rank)?;

    // Each attempt that all gave up has meetings of its own: ranks tell what they hold by then.
    let step = 4 * vitals.attempt();
    // Nobody goes on before all have drained: until then a released kernel may write to a peer.
    reclaim(rank, step)?;
    let mine = Inventory::of(rank);
    let told = seat
        .rendezvous
        .convene(step + 2, mine.encode(), seat.deadline)?;
    let others = told.iter().map(|told| Inventory::decode(told));
    let others: Option<Vec<Inventory>> = others.collect();
    let kept = others
        .as_deref()
        .ok_or_else(|| "a peer runs another version of symm-core".to_owned())
        .and_then(|others| mine.compare(seat.rank, others));
    let verdict = kept.as_ref().err().cloned().unwrap_or_default();
    let verdicts = seat
        .rendezvous
        .convene(step + 3, verdict.into_bytes(), seat.deadline)?;
    if let Some((other, why)) = verdicts.iter().enumerate().find(|(_, why)| !why.is_empty()) {
        let detail = format!("rank {other}: {}", String::from_utf8_lossy(why));
        vitals.try_again();
        return Err(Error::RanksDiffer {
            group: "the world".into(),
            what: "its rebuild".into(),
            detail: detail.into(),
        });
    }
    let (others, kept) = (others.unwrap_or_default(), kept.unwrap_or_default());

    B::recover(&rank.device)?;
    vitals.renew();
    anew(rank, &others, &kept).inspect_err(|error| vitals.poison(error))
}

/// The communicators of the new epoch, and the arenas' new histories.
fn anew<B: Backend>(rank: &Arc<Rank<B>>, others: &[Inventory], kept: &[Group]) -> Result<()> {
    let seat = &rank.seat;
    {
        let mut splits = rank.splits.lock().unwrap_or_else(PoisonError::into_inner);
        // Ranks may have failed at different ones, and no number is used twice.
        for other in others {
            splits.made = splits.made.max(other.splits.made);
            splits.groups = splits.groups.max(other.splits.groups);
        }
    }
    let trunk = connect(rank, Split::world(seat))?;
    let old = {
        let mut place = rank.trunk.lock().unwrap_or_else(PoisonError::into_inner);
        place.replace(trunk)
    };
    if let Some(old) = old {
        let device = Arc::clone(&rank.device);
        rank.pool.reaper.aside(move || old.release(&device));
    }
    let mut restarted = BTreeSet::new();
    for (group, kept) in rank.live_groups().iter().filter_map(|group| {
        let id = group.link().split?;
        Some((group, kept.iter().find(|kept| kept.id == id)?))
    }) {
        if restarted.insert(kept.arena.clone()) {
            group.arena.restart(kept.segments);
        }
        relink(rank, group, kept.id)?;
    }
    let everyone: Arc<[usize]> = (0..seat.ranks).collect();
    let topic = Topic {
        channel: Topic::channel(&[REBUILT]),
        step: 0,
    };
    let what = "the end of the rebuild";
    seat.rendezvous
        .exchange(topic, &everyone, Vec::new(), what, seat.deadline)?;
    Ok(())
}

/// Gives the group a new communicator; what lies in its arena is registered when it is used next.
fn relink<B: Backend>(rank: &Arc<Rank<B>>, group: &Arc<GroupCore<B>>, id: u64) -> Result<()> {
    let split = Split {
        id,
        color: 0,
        members: Arc::clone(&group.members),
        rank: group.rank,
    };
    let comm = connect(rank, split)?;
    let link = Link::new(
        &group.short_label(),
        rank,
        comm,
        Some(id),
        &group.members,
        &group.arena,
        &group.unsettled,
    )?;
    for (index, segment) in group.arena.survey().iter().enumerate() {
        if !segment.empty {
            let arena = &group.arena;
            link.ledger()
                .touch(arena.id, index, || arena.segment(index));
        }
    }
    // The reaper gives the old one back, unless a graph still holds it.
    drop(group.relink(link));
    start::again(group)
}

/// Waits until nothing of this rank's runs any more.
fn drain<B: Backend>(rank: &Arc<Rank<B>>) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let arenas = rank.live_groups();
    let streams = arenas.iter().flat_map(|group| group.arena.streams());
    let streams: Vec<B::Stream> = streams.chain([rank.stream.clone()]).collect();
    let end = Instant::now() + PATIENCE.min(rank.seat.deadline.max(Duration::from_secs(2)));
    for stream in &streams {
        // An error is an end too: what failed does not run.
        while matches!(B::is_done(stream), Ok(false)) {
            if Instant::now() > end {
                return Err(rank.vitals.unrecoverable(
                    "a kernel still waits for a peer, although its communicator was revoked",
                ));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Host;

    #[test]
    fn what_failed_before_a_rebuild_fails_nothing_after_it() {
        let late = Error::Config {
            what: "found before the rebuild".into(),
        };
        let all = std::sync::Barrier::new(2);
        let worlds = World::<Host>::run(2, |world| {
            for epoch in 0..3 {
                world.rebuild()?;
                // A thread that slept since then.
                world.inner().vitals.poison_in(epoch, &late);
                world.check()?;
                all.wait();
            }
            Ok(())
        });
        worlds.expect("a whole world");
    }
}
