//! Agreed points: what a rank states before it goes on, and where it waits for its peers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::core::GroupCore;
use super::link::Link;
use crate::agreement::fingerprint;
use crate::agreement::group::Agreement;
use crate::agreement::record::{ArenaMark, Record, What, Words};
use crate::agreement::ring::Step;
use crate::backend::Backend;
use crate::backend::call::Op;
use crate::error::{Error, Result};
use crate::registration::round::Due;
use crate::registration::statement::ALIKE;
use crate::rendezvous::{Topic, Values};
use crate::site::Site;

/// What a channel of a communicator is for, beside the others.
const ROUNDS: u64 = 0x726f_756e;
/// Between two looks at what else may have happened, in a wait for peers.
const SLICE: Duration = Duration::from_millis(10);

/// The history of the group's arena, for what depends on it. Graph pools have arenas of their own:
/// what a rank did before on its own changes nothing there.
pub(crate) fn history<B: Backend>(group: &GroupCore<B>) -> ArenaMark {
    group.arena.history().into()
}

/// States what this rank is about to do as the group's next point. Waits only for a peer that is a
/// lap behind. Fails, and ends the world, if a peer that came before stated something else.
pub(crate) fn step<B: Backend>(
    group: &GroupCore<B>,
    link: &Link<B>,
    what: What,
    arena: ArenaMark,
    site: Site,
) -> Result<()> {
    if link.agreement.is_none() {
        return Ok(());
    }
    let words = Record::new(what, arena, site).words();
    step_words(group, link, &words, fingerprint::of(&words))
}

/// The same, of words that were made before.
#[inline]
pub(crate) fn step_words<B: Backend>(
    group: &GroupCore<B>,
    link: &Link<B>,
    words: &Words,
    fingerprint: u64,
) -> Result<()> {
    let Some(agreement) = &link.agreement else {
        return Ok(());
    };
    match agreement.step(words, fingerprint) {
        Step::Passed => Ok(()),
        Step::Differs => Err(differs(group, agreement, words)),
        Step::Full { behind } => wait_for_room(group, agreement, words, fingerprint, behind),
    }
}

#[cold]
fn differs<B: Backend>(group: &GroupCore<B>, agreement: &Agreement, words: &Words) -> Error {
    // What a peer that failed before stated is no difference of its own.
    if let Err(error) = group.world.check() {
        return error;
    }
    let error = Error::RanksDiffer {
        group: group.label().into(),
        what: format!("step {}", agreement.seq() + 1).into(),
        detail: format!(
            "{}: call the same on all ranks; {ALIKE}",
            agreement.difference(words)
        )
        .into(),
    };
    group.world.vitals.first(error)
}

/// A message that its peer stated otherwise.
#[cold]
pub(crate) fn message_differs<B: Backend>(
    group: &GroupCore<B>,
    op: Op,
    bytes: u64,
    site: Site,
) -> Error {
    if let Err(error) = group.world.check() {
        return error;
    }
    let (peer, way) = match op {
        Op::Send { peer } => (peer, "to"),
        Op::Recv { peer } => (peer, "from"),
        _ => (0, "with"),
    };
    let world = |rank: usize| group.members.get(rank).copied().unwrap_or(rank);
    let (mine, peer) = (world(group.rank), world(peer));
    let detail = format!(
        "rank {mine} came to {} of {bytes} bytes {way} rank {peer} at {site}, where the peer has another length or type: send and receive the same, in the same order",
        op.name(),
    );
    let error = Error::RanksDiffer {
        group: group.label().into(),
        what: format!("a message between ranks {mine} and {peer}").into(),
        detail: detail.into(),
    };
    group.world.vitals.first(error)
}

/// This rank is a lap ahead of a peer.
#[cold]
fn wait_for_room<B: Backend>(
    group: &GroupCore<B>,
    agreement: &Agreement,
    words: &Words,
    fingerprint: u64,
    behind: usize,
) -> Result<()> {
    let what = format!("step {} of {}", agreement.seq() + 1, group.label());
    let mut wait = Wait::begin(group, agreement.rank_at(behind), what);
    loop {
        match agreement.step(words, fingerprint) {
            Step::Passed => return Ok(()),
            Step::Differs => return Err(differs(group, agreement, words)),
            Step::Full { behind } => wait.on(agreement.rank_at(behind))?,
        }
    }
}

/// A wait for peers on the board.
struct Wait<'a, B: Backend> {
    group: &'a GroupCore<B>,
    missing: usize,
    what: String,
    begun: Instant,
    looks: u32,
}

impl<'a, B: Backend> Wait<'a, B> {
    fn begin(group: &'a GroupCore<B>, missing: usize, what: String) -> Self {
        Self {
            group,
            missing,
            what,
            begun: Instant::now(),
            looks: 0,
        }
    }

    /// One look is over, and `missing` is not there. Fails when the world failed, and ends it at the
    /// deadline.
    fn on(&mut self, missing: usize) -> Result<()> {
        self.missing = missing;
        self.looks += 1;
        match self.looks {
            0..1_000 => std::hint::spin_loop(),
            1_000..2_000 => thread::yield_now(),
            _ => thread::sleep(Duration::from_micros(50)),
        }
        if self.looks.is_multiple_of(64) {
            self.group.world.check()?;
            let world = &self.group.world;
            if self.begun.elapsed() > world.vitals.limits.deadline {
                let error = Error::Timeout {
                    rank: world.seat.rank,
                    missing: [self.missing].into(),
                    what: self.what.as_str().into(),
                    after: self.begun.elapsed(),
                };
                return Err(world.vitals.first(error));
            }
        }
        Ok(())
    }
}

/// Waits until all ranks have come to the point that this one has just passed, where a kernel on
/// windows could not be released if one of them never came.
#[inline]
pub(crate) fn all_first<B: Backend>(group: &GroupCore<B>, link: &Link<B>) -> Result<()> {
    match &link.agreement {
        Some(agreement) if link.all_first => wait_for_all(group, agreement),
        _ => Ok(()),
    }
}

fn wait_for_all<B: Backend>(group: &GroupCore<B>, agreement: &Agreement) -> Result<()> {
    let mut wait = None;
    while let Some(missing) = agreement.missing_here() {
        let what = || format!("step {} of {}", agreement.seq(), group.label());
        let wait = wait.get_or_insert_with(|| Wait::begin(group, missing, what()));
        wait.on(missing)?;
    }
    Ok(())
}

/// Meets all ranks of the group: each tells something, and hears what the others told. For rounds,
/// which may wait. Of a group that spans hosts too.
pub(crate) fn meet<B: Backend>(
    group: &Arc<GroupCore<B>>,
    link: &Link<B>,
    what: &str,
    value: Vec<u8>,
    due: Option<Due>,
) -> Result<Values> {
    let (world, id) = (&group.world, link.split.unwrap_or_default());
    let topic = Topic {
        channel: Topic::channel(&[ROUNDS, id]),
        step: link.meetings.fetch_add(1, Ordering::Relaxed),
    };
    let what = format!("{what} of {}", group.label());
    world.seat.rendezvous.post(topic, &group.members, value)?;
    collect(group, link, topic, &what, due)
}

/// Waits for what the others told on the topic, and looks at poison and at ranks that left
/// meanwhile.
pub(crate) fn collect<B: Backend>(
    group: &GroupCore<B>,
    link: &Link<B>,
    topic: Topic,
    what: &str,
    due: Option<Due>,
) -> Result<Values> {
    let (world, begun) = (&group.world, Instant::now());
    let deadline = world.vitals.limits.deadline;
    loop {
        let left = deadline.saturating_sub(begun.elapsed());
        match world.seat.rendezvous.collect(topic, what, left.min(SLICE)) {
            Err(Error::Timeout { .. }) if left > SLICE => {
                world.check()?;
                if let (Some(Due::Scope(scope)), Some(agreement)) = (due, &link.agreement)
                    && let Some(error) = agreement.left_by(scope)
                {
                    return Err(error);
                }
            }
            Err(Error::Timeout {
                rank,
                missing,
                what,
                ..
            }) => {
                return Err(Error::Timeout {
                    rank,
                    missing,
                    what,
                    after: begun.elapsed(),
                });
            }
            // The board says more than the wire: who failed first, and why.
            Err(error) => return Err(world.check().err().unwrap_or(error)),
            Ok(values) => return Ok(values),
        }
    }
}
