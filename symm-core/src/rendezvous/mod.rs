//! Where the ranks of a world meet: each member of a [`Topic`] posts a value to it once, then every
//! member collects the values of all.
//!
//! One interface for ranks as threads, which share one [`Hub`], and for ranks as processes, where
//! every process has a hub of its own and [`tcp`] carries each post to the hubs of the other
//! members. It is the channel of set-up, and the wire of the host backend's collectives.
//!
//! A world that failed may be rebuilt, and begins a new **epoch**. Posts and failures belong to the
//! epoch of the end that sent them, so nothing of the failed world reaches the rebuilt one. Who
//! left or died stays away in every epoch.

mod hub;
mod state;
mod tcp;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::{Error, Result};
use hub::{Hub, Wait};
use tcp::Link;

/// Names one meeting: all of `members` post to it once, then all can collect. Never used twice in
/// one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Topic {
    pub(crate) channel: u64,
    pub(crate) step: u64,
}

impl Topic {
    /// A channel that no other purpose uses: a mix of the words that name it.
    pub(crate) fn channel(words: &[u64]) -> u64 {
        words.iter().fold(0x5EED_0F0C_4A27_11E5, |hash, &word| {
            let mixed = (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            (mixed ^ (mixed >> 32))
                .wrapping_mul(0xD6E8_FEB8_6659_FD93)
                .rotate_left(29)
        })
    }
}

/// What a meeting brought: the members' values, in the order of the members.
pub(crate) type Values = Arc<[Vec<u8>]>;

/// Called when something arrives or fails; must not wait.
pub(crate) type Wake = Arc<dyn Fn() + Send + Sync>;

/// A word of the channel on which all ranks convene.
const CONVENE: u64 = 0x636F_6E76;

/// One rank's end. Dropping it tells the others that this rank left.
#[doc(hidden)]
#[derive(Debug)]
pub struct Rendezvous {
    rank: usize,
    hub: Arc<Hub>,
    /// The way to the hubs of other processes.
    link: Option<Link>,
    /// It said goodbye.
    gone: AtomicBool,
}

impl Rendezvous {
    /// The ends of a world whose ranks are threads of this process.
    pub(crate) fn threads(ranks: usize) -> Vec<Rendezvous> {
        let hub = Arc::new(Hub::new(ranks, None));
        (0..ranks)
            .map(|rank| Rendezvous {
                rank,
                hub: Arc::clone(&hub),
                link: None,
                gone: AtomicBool::new(false),
            })
            .collect()
    }

    /// The end of a rank that is a process of its own. Rank 0 listens at the address; all wait
    /// there for all until the deadline.
    pub(crate) fn connect(
        rank: usize,
        ranks: usize,
        host: &str,
        port: u16,
        deadline: Duration,
    ) -> Result<Rendezvous> {
        Self::connect_with(tcp::token(port), rank, ranks, host, port, deadline)
    }

    fn connect_with(
        token: tcp::Token,
        rank: usize,
        ranks: usize,
        host: &str,
        port: u16,
        deadline: Duration,
    ) -> Result<Rendezvous> {
        if rank >= ranks {
            return Err(Error::Config {
                what: format!("rank {rank} does not exist in a world of {ranks}").into(),
            });
        }
        let hub = Arc::new(Hub::new(ranks, Some(rank)));
        if ranks == 1 {
            return Ok(Rendezvous {
                rank,
                hub,
                link: None,
                gone: AtomicBool::new(false),
            });
        }
        let link = tcp::join(&hub, token, rank, host, port, deadline)?;
        let end = Rendezvous {
            rank,
            hub,
            link: Some(link),
            gone: AtomicBool::new(false),
        };
        let all: Arc<[usize]> = (0..ranks).collect();
        let start = Topic {
            channel: Topic::channel(&[]),
            step: 0,
        };
        end.exchange(
            start,
            &all,
            Vec::new(),
            &format!("the start of the world at {host}:{port}"),
            deadline,
        )?;
        Ok(end)
    }

    /// This end's rank.
    pub(crate) fn rank(&self) -> usize {
        self.rank
    }

    /// Ranks of the world.
    pub(crate) fn ranks(&self) -> usize {
        self.hub.ranks()
    }

    /// How often this end was renewed.
    pub(crate) fn epoch(&self) -> u64 {
        self.hub.epoch(self.rank)
    }

    /// Posts this rank's value and does not wait. `members` are world ranks, this one among them;
    /// values are collected in their order.
    pub(crate) fn post(&self, topic: Topic, members: &Arc<[usize]>, value: Vec<u8>) -> Result<()> {
        if !members.contains(&self.rank) || members.iter().any(|&member| member >= self.ranks()) {
            let what = format!(
                "rank {} posted to a meeting of ranks {members:?} in a world of {}",
                self.rank,
                self.ranks()
            );
            return Err(Error::Config { what: what.into() });
        }
        let epoch = self.epoch();
        if let Some(link) = &self.link
            && members.len() > 1
        {
            link.post(self.rank, epoch, topic, members, &value)
                .map_err(|error| self.failure().unwrap_or(error))?;
        }
        self.hub.post(self.rank, epoch, topic, members, value)
    }

    /// The values, once all members have posted; this rank has posted before, and takes them once.
    pub(crate) fn try_collect(&self, topic: Topic) -> Result<Option<Values>> {
        self.hub.try_collect(self.rank, topic, "a meeting with it")
    }

    /// Waits for the values. `Timeout` names the missing ranks and leaves everything as it was, so
    /// that a rank may wait in short turns; `PeerFailed` comes at once when a peer failed or a
    /// missing one left.
    pub(crate) fn collect(&self, topic: Topic, what: &str, deadline: Duration) -> Result<Values> {
        self.collect_unless(topic, what, deadline, &|| None)
    }

    /// As `collect`, until `stop` gives an error: asked at the start and after each `nudge`, under a
    /// lock of the rendezvous, so it must not call it.
    pub(crate) fn collect_unless(
        &self,
        topic: Topic,
        what: &str,
        deadline: Duration,
        stop: &dyn Fn() -> Option<Error>,
    ) -> Result<Values> {
        let wait = Wait {
            what,
            deadline,
            convenes: false,
            stop,
        };
        self.hub.collect(self.rank, topic, &wait)
    }

    /// Has those who wait as this rank in `collect_unless` ask again whether to stop.
    pub(crate) fn nudge(&self) {
        self.hub.nudge(self.rank);
    }

    /// Posts and collects.
    pub(crate) fn exchange(
        &self,
        topic: Topic,
        members: &Arc<[usize]>,
        value: Vec<u8>,
        what: &str,
        deadline: Duration,
    ) -> Result<Values> {
        self.post(topic, members, value)?;
        self.collect(topic, what, deadline)
    }

    /// The members that have not posted to a topic that this rank still waits for.
    pub(crate) fn missing(&self, topic: Topic) -> Box<[usize]> {
        self.hub.missing(self.rank, topic)
    }

    /// Tells all ranks that this one failed, in its epoch. The first failure of an epoch stays.
    pub(crate) fn fail(&self, cause: &str) {
        let epoch = self.epoch();
        if self.hub.fail(self.rank, epoch, cause)
            && let Some(link) = &self.link
        {
            link.fail(self.rank, epoch, cause);
        }
    }

    /// The first failure of any rank in this end's epoch, or the death of one, as `PeerFailed`;
    /// cheap while there is none.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.hub.failure(self.rank)
    }

    /// Waits until a rank fails, at most for `deadline`.
    pub(crate) fn wait_failure(&self, deadline: Duration) -> Option<Error> {
        self.hub.wait_failure(self.rank, deadline)
    }

    /// Ranks that will never come again: they said goodbye, or their process died.
    #[cfg(test)]
    pub(crate) fn gone(&self) -> Vec<usize> {
        self.hub.gone()
    }

    /// Whether the rank said goodbye.
    pub(crate) fn has_left(&self, rank: usize) -> bool {
        self.hub.has_left(rank)
    }

    /// Whether the rank's process ended without a goodbye. Never known of threads.
    #[cfg(test)]
    pub(crate) fn has_died(&self, rank: usize) -> bool {
        self.hub.has_died(rank)
    }

    /// An exchange of all ranks of the world although their epoch has failed, by which they make
    /// ready for the next one. `PeerFailed` at once when a rank that has not come is gone, `Timeout`
    /// names those who are not.
    ///
    /// Apart from [`renew`](Self::renew), so that several exchanges can be made before the epoch
    /// changes: a rank that finds in the last of them that it cannot go on is still in the epoch
    /// that failed, with all others.
    ///
    /// Each `step` is one exchange of the epoch. A rank may repeat one, after a `Timeout` or from
    /// the start of an attempt that came to nothing: its first value counts, and the values of a
    /// finished step stay to be had until the epoch ends.
    pub(crate) fn convene(&self, step: u64, value: Vec<u8>, deadline: Duration) -> Result<Values> {
        let topic = Topic {
            channel: Topic::channel(&[CONVENE]),
            step,
        };
        if !self.hub.has_posted(self.rank, self.epoch(), topic) {
            let everyone: Arc<[usize]> = (0..self.ranks()).collect();
            self.post(topic, &everyone, value)?;
        }
        let wait = Wait {
            what: "the rebuild of the world",
            deadline,
            convenes: true,
            stop: &|| None,
        };
        self.hub.collect(self.rank, topic, &wait)
    }

    /// Moves this end to the next epoch: posts, meetings and failures of the one before are over
    /// for it. All ranks have agreed to by a [`convene`](Self::convene); each moves on its own, and
    /// what one that is ahead posts is kept for the others.
    pub(crate) fn renew(&self) {
        self.hub.renew(self.rank);
    }

    /// Has `wake` called whenever a meeting of this rank is complete, or a rank failed or left.
    pub(crate) fn notify(&self, wake: Wake) {
        self.hub.set_wake(self.rank, Some(wake));
    }
}

impl Rendezvous {
    /// Says goodbye to the others, once: this rank posts nothing any more.
    pub(crate) fn leave(&self) {
        if self.gone.swap(true, Ordering::AcqRel) {
            return;
        }
        self.hub.leave(self.rank);
        if let Some(link) = &self.link {
            link.leave(self.rank);
        }
    }
}

impl Drop for Rendezvous {
    fn drop(&mut self) {
        self.hub.set_wake(self.rank, None);
        self.leave();
    }
}

#[cfg(test)]
mod tests;
