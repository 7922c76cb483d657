//! What a hub knows, under its lock: the open meetings, the ranks, and the failures of each epoch.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{Topic, Values, Wake};
use crate::error::{Error, Result};

/// A meeting, in the epoch whose ranks hold it.
pub(super) type Key = (u64, Topic);

/// The meetings and ranks of a world.
pub(super) struct State {
    pub(super) open: HashMap<Key, Meeting>,
    pub(super) ranks: Box<[Place]>,
    /// The first failure of each epoch that some rank of this process is in, or will be.
    failures: BTreeMap<u64, (usize, Box<str>)>,
    /// The first rank whose process died: a failure in every epoch.
    death: Option<(usize, Box<str>)>,
    /// The connection to the other processes ended.
    pub(super) cut: bool,
}

/// One rank.
#[derive(Default)]
pub(super) struct Place {
    pub(super) left: bool,
    pub(super) died: bool,
    /// Lives in this process.
    pub(super) here: bool,
    /// Of a rank of this process.
    pub(super) epoch: u64,
    /// Complete meetings that the rank has not taken yet; empty for ranks of other processes.
    pub(super) inbox: HashMap<Key, Values>,
    pub(super) wake: Option<Wake>,
}

/// A meeting that some member has not come to yet.
pub(super) struct Meeting {
    pub(super) members: Arc<[usize]>,
    values: Vec<Option<Vec<u8>>>,
    /// Two members named different members.
    conflict: Option<Box<str>>,
}

impl Meeting {
    pub(super) fn missing(&self) -> impl Iterator<Item = usize> {
        self.members
            .iter()
            .zip(&self.values)
            .filter_map(|(&member, value)| value.is_none().then_some(member))
    }
}

impl State {
    pub(super) fn new(ranks: usize, only: Option<usize>) -> Self {
        let place = |rank| Place {
            here: only.is_none_or(|only| only == rank),
            ..Place::default()
        };
        Self {
            open: HashMap::new(),
            ranks: (0..ranks).map(place).collect(),
            failures: BTreeMap::new(),
            death: None,
            cut: false,
        }
    }

    /// Takes a value; returns whom that may release.
    pub(super) fn post(
        &mut self,
        from: usize,
        key: Key,
        members: &Arc<[usize]>,
        value: Vec<u8>,
    ) -> Result<Vec<usize>> {
        if self.oldest().is_none_or(|oldest| key.0 < oldest) {
            return Ok(Vec::new()); // nobody here will ever collect it
        }
        let open = self.open.entry(key).or_insert_with(|| Meeting {
            members: Arc::clone(members),
            values: vec![None; members.len()],
            conflict: None,
        });
        if open.members != *members {
            let detail = format!(
                "rank {from} meets ranks {members:?}, others meet ranks {:?}",
                open.members
            );
            open.conflict.get_or_insert(detail.into());
        }
        if let Some(place) = open.members.iter().position(|&member| member == from)
            && open.values[place].replace(value).is_some()
        {
            return Err(Error::Rendezvous {
                rank: from,
                why: format!("it posted twice to {:?}", key.1).into(),
            });
        }
        if open.conflict.is_some() {
            return Ok(open.members.iter().chain(members.iter()).copied().collect());
        }
        if open.missing().next().is_some() {
            return Ok(Vec::new());
        }
        self.deliver(key);
        Ok(members.to_vec())
    }

    /// Moves a complete meeting to the inboxes of its members.
    fn deliver(&mut self, key: Key) {
        let Some(meeting) = self.open.remove(&key) else {
            return;
        };
        let values: Values = meeting.values.into_iter().flatten().collect();
        for &member in meeting.members.iter() {
            if let Some(place) = self.ranks.get_mut(member)
                && place.here
                && !place.left
                && place.epoch <= key.0
            {
                place.inbox.insert(key, Arc::clone(&values));
            }
        }
    }

    /// Whether the rank has posted to a meeting whose values it can still get.
    pub(super) fn has_posted(&self, rank: usize, key: Key) -> bool {
        self.ranks[rank].inbox.contains_key(&key)
            || self.open.get(&key).is_some_and(|open| {
                open.members.contains(&rank) && open.missing().all(|missing| missing != rank)
            })
    }

    /// The members that have not come to a meeting that is open.
    pub(super) fn missing(&self, key: Key) -> Box<[usize]> {
        self.open
            .get(&key)
            .map(|open| open.missing().collect())
            .unwrap_or_default()
    }

    /// Notes a failure; says whether it is the first of its epoch.
    pub(super) fn fail(&mut self, rank: usize, epoch: u64, cause: &str) -> bool {
        let first = self.death.is_none()
            && !self.failures.contains_key(&epoch)
            && self.oldest().is_some_and(|oldest| oldest <= epoch);
        if first {
            self.failures.insert(epoch, (rank, cause.into()));
        }
        first
    }

    /// Notes a death. What failed before it in an epoch stays that epoch's failure.
    pub(super) fn die(&mut self, rank: usize, cause: &str) {
        self.ranks[rank].died = true;
        self.death.get_or_insert_with(|| (rank, cause.into()));
    }

    pub(super) fn leave(&mut self, rank: usize) {
        self.ranks[rank].left = true;
        self.ranks[rank].inbox.clear();
        self.purge();
    }

    /// Moves the rank to its next epoch, and returns that.
    pub(super) fn renew(&mut self, rank: usize) -> u64 {
        let place = &mut self.ranks[rank];
        place.epoch += 1;
        let epoch = place.epoch;
        place.inbox.retain(|&(of, _), _| of >= epoch);
        self.purge();
        epoch
    }

    /// The oldest epoch that a rank of this process is in.
    fn oldest(&self) -> Option<u64> {
        let here = self.ranks.iter().filter(|place| place.here && !place.left);
        here.map(|place| place.epoch).min()
    }

    /// Forgets the epochs that all ranks of this process have left.
    fn purge(&mut self) {
        match self.oldest() {
            Some(oldest) => {
                self.open.retain(|&(epoch, _), _| epoch >= oldest);
                self.failures = self.failures.split_off(&oldest);
            }
            None => self.open.clear(),
        }
    }

    /// Whether `failed` may have something to say.
    pub(super) fn any_failure(&self) -> bool {
        self.death.is_some() || !self.failures.is_empty()
    }

    /// The first failure of the epoch, or the first death.
    pub(super) fn failed(&self, epoch: u64) -> Option<Error> {
        let (rank, cause) = self.failures.get(&epoch).or(self.death.as_ref())?;
        Some(Error::PeerFailed {
            rank: *rank,
            cause: cause.clone(),
        })
    }

    /// Why waiting for an incomplete meeting makes no sense. `despite` the failure of its epoch, a
    /// meeting can still be held by all whose processes live.
    pub(super) fn refusal(
        &self,
        rank: usize,
        key: Key,
        what: &str,
        despite: bool,
    ) -> Option<Error> {
        let (epoch, topic) = key;
        if self.ranks[rank].epoch != epoch {
            return Some(self.failed(epoch).unwrap_or_else(|| Error::Rendezvous {
                rank,
                why: format!("it was rebuilt while it waited for {what}").into(),
            }));
        }
        let Some(open) = self
            .open
            .get(&key)
            .filter(|open| open.missing().all(|missing| missing != rank))
        else {
            return Some(Error::Rendezvous {
                rank,
                why: format!("it collected {what} before it posted, or twice ({topic:?})").into(),
            });
        };
        if let Some(detail) = &open.conflict {
            return Some(Error::RanksDiffer {
                group: "the world".into(),
                what: what.into(),
                detail: detail.clone(),
            });
        }
        if !despite && let Some(error) = self.failed(epoch) {
            return Some(error);
        }
        let is_gone = |&rank: &usize| self.ranks[rank].died || self.ranks[rank].left;
        if let Some(missing) = open.missing().find(is_gone) {
            return Some(self.absence(missing, what, ""));
        }
        self.cut
            .then(|| self.absence(0, what, ", and with it the way to the other ranks"))
    }

    /// That a rank which died or left will not come.
    fn absence(&self, rank: usize, what: &str, with: &str) -> Error {
        let cause = match &self.death {
            Some((dead, cause)) if *dead == rank => cause.clone(),
            _ if self.ranks[rank].died => format!("its process died before {what}{with}").into(),
            _ => format!("it left before {what}{with}").into(),
        };
        Error::PeerFailed { rank, cause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: Topic = Topic {
        channel: 1,
        step: 2,
    };

    fn post(state: &mut State, from: usize, epoch: u64) {
        let all: Arc<[usize]> = [0, 1].into();
        state
            .post(from, (epoch, TOPIC), &all, vec![])
            .expect("post");
    }

    #[test]
    fn epochs_that_all_ranks_here_have_left_are_forgotten() {
        let mut state = State::new(2, None);
        post(&mut state, 0, 0);
        assert!(state.fail(0, 0, "first") && !state.fail(1, 0, "second"));
        state.renew(0);
        assert_eq!((state.open.len(), state.any_failure()), (1, true));
        assert!(state.failed(0).is_some() && state.failed(1).is_none());
        // What one rank has left is delivered to the others alone.
        post(&mut state, 1, 0);
        assert_eq!([0, 1].map(|rank| state.ranks[rank].inbox.len()), [0, 1]);
        post(&mut state, 0, 1);
        state.renew(1);
        assert_eq!((state.open.len(), state.any_failure()), (1, false));
        assert!(state.ranks[1].inbox.is_empty() && state.failed(0).is_none());
        // Late ones from the wire.
        post(&mut state, 0, 0);
        assert!(!state.fail(0, 0, "late") && state.open.len() == 1);
        // One that left holds nothing up.
        assert!(state.fail(0, 1, "again"));
        state.renew(0);
        state.leave(1);
        assert_eq!((state.open.len(), state.any_failure()), (0, false));
    }

    #[test]
    fn a_death_is_a_failure_of_every_epoch() {
        let mut state = State::new(3, Some(0));
        assert!(state.fail(1, 0, "a cause"));
        state.die(2, "killed");
        let failed = |state: &State, epoch| match state.failed(epoch) {
            Some(Error::PeerFailed { rank, .. }) => Some(rank),
            _ => None,
        };
        assert_eq!(
            [0, 1].map(|epoch| failed(&state, epoch)),
            [Some(1), Some(2)]
        );
        state.renew(0);
        assert!(!state.fail(1, 1, "later"));
        assert_eq!([1, 2].map(|epoch| failed(&state, epoch)), [Some(2); 2]);
    }
}
