//! What one process knows of its world's meetings: who posted what, who left, who failed.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Topic, Values, Wake};
use crate::error::{Error, Result};

/// The meetings of a world, for the ranks that live in this process.
pub(super) struct Hub {
    /// `None` where all ranks live in this process.
    only: Option<usize>,
    state: Mutex<State>,
    /// One for each rank, so that a meeting wakes its members alone.
    seats: Box<[Condvar]>,
    failed: AtomicBool,
}

struct State {
    open: HashMap<Topic, Meeting>,
    ranks: Box<[Place]>,
    failure: Option<(usize, Box<str>)>,
    /// The connection to the other processes ended.
    cut: bool,
}

/// One rank.
#[derive(Default)]
struct Place {
    left: bool,
    /// Complete meetings that the rank has not taken yet; empty for ranks of other processes.
    inbox: HashMap<Topic, Values>,
    wake: Option<Wake>,
}

/// A meeting that some member has not come to yet.
struct Meeting {
    members: Arc<[usize]>,
    values: Vec<Option<Vec<u8>>>,
    missing: usize,
    /// Two members named different members.
    conflict: Option<Box<str>>,
}

impl Meeting {
    fn missing(&self) -> impl Iterator<Item = usize> {
        self.members
            .iter()
            .zip(&self.values)
            .filter_map(|(&member, value)| value.is_none().then_some(member))
    }
}

impl Hub {
    /// A hub for all ranks, or for one of them when the others are processes of their own.
    pub(super) fn new(ranks: usize, only: Option<usize>) -> Self {
        let state = State {
            open: HashMap::new(),
            ranks: (0..ranks).map(|_| Place::default()).collect(),
            failure: None,
            cut: false,
        };
        let seats = (0..ranks).map(|_| Condvar::new()).collect();
        Self {
            only,
            state: Mutex::new(state),
            seats,
            failed: AtomicBool::new(false),
        }
    }

    pub(super) fn ranks(&self) -> usize {
        self.seats.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of others runs under the lock, so a panic cannot leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_here(&self, rank: usize) -> bool {
        self.only.is_none_or(|only| only == rank)
    }

    /// Takes the value of any rank, of this process or from the wire.
    pub(super) fn post(
        &self,
        from: usize,
        topic: Topic,
        members: &Arc<[usize]>,
        value: Vec<u8>,
    ) -> Result<()> {
        let wakes = {
            let mut state = self.lock();
            let open = state.open.entry(topic).or_insert_with(|| Meeting {
                members: Arc::clone(members),
                values: vec![None; members.len()],
                missing: members.len(),
                conflict: None,
            });
            if open.members != *members {
                let detail = format!(
                    "rank {from} meets ranks {members:?}, others meet ranks {:?}",
                    open.members
                );
                open.conflict.get_or_insert(detail.into());
            }
            if let Some(place) = open.members.iter().position(|&member| member == from) {
                if open.values[place].replace(value).is_some() {
                    return Err(Error::Rendezvous {
                        rank: from,
                        why: format!("it posted twice to {topic:?}").into(),
                    });
                }
                open.missing -= 1;
            }
            if open.conflict.is_some() {
                let both: Vec<usize> = open.members.iter().chain(members.iter()).copied().collect();
                self.wakes(&state, &both)
            } else if open.missing == 0 {
                self.deliver(&mut state, topic);
                self.wakes(&state, members)
            } else {
                return Ok(());
            }
        };
        wakes.iter().for_each(|wake| wake());
        Ok(())
    }

    /// Moves a complete meeting to the inboxes of its members.
    fn deliver(&self, state: &mut State, topic: Topic) {
        if let Some(meeting) = state.open.remove(&topic) {
            let values: Values = meeting.values.into_iter().flatten().collect();
            for &member in meeting
                .members
                .iter()
                .filter(|&&member| self.is_here(member))
            {
                if let Some(place) = state.ranks.get_mut(member).filter(|place| !place.left) {
                    place.inbox.insert(topic, Arc::clone(&values));
                }
            }
        }
    }

    /// Wakes the threads that wait as these ranks; returns what else is to be called, once the lock
    /// is released.
    fn wakes(&self, state: &State, ranks: &[usize]) -> Vec<Wake> {
        let here = ranks.iter().filter(|&&rank| self.is_here(rank));
        here.filter_map(|&rank| {
            self.seats.get(rank)?.notify_all();
            state.ranks[rank].wake.clone()
        })
        .collect()
    }

    /// Changes what is known of the ranks, and wakes all that wait for any.
    fn announce(&self, change: impl FnOnce(&mut State)) {
        let wakes = {
            let mut state = self.lock();
            change(&mut state);
            let all: Vec<usize> = (0..self.ranks()).collect();
            self.wakes(&state, &all)
        };
        wakes.iter().for_each(|wake| wake());
    }

    pub(super) fn try_collect(
        &self,
        rank: usize,
        topic: Topic,
        what: &str,
    ) -> Result<Option<Values>> {
        let mut state = self.lock();
        match state.ranks[rank].inbox.remove(&topic) {
            Some(values) => Ok(Some(values)),
            None => state.refusal(rank, topic, what).map_or(Ok(None), Err),
        }
    }

    pub(super) fn collect(
        &self,
        rank: usize,
        topic: Topic,
        what: &str,
        deadline: Duration,
    ) -> Result<Values> {
        let start = Instant::now();
        let mut state = self.lock();
        loop {
            if let Some(values) = state.ranks[rank].inbox.remove(&topic) {
                return Ok(values);
            }
            if let Some(error) = state.refusal(rank, topic, what) {
                return Err(error);
            }
            let Some(left) = deadline
                .checked_sub(start.elapsed())
                .filter(|left| !left.is_zero())
            else {
                let missing = state
                    .open
                    .get(&topic)
                    .map(|open| open.missing().collect())
                    .unwrap_or_default();
                return Err(Error::Timeout {
                    rank,
                    missing,
                    what: what.into(),
                    after: start.elapsed(),
                });
            };
            state = self.seats[rank]
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    pub(super) fn missing(&self, topic: Topic) -> Box<[usize]> {
        self.lock()
            .open
            .get(&topic)
            .map(|open| open.missing().collect())
            .unwrap_or_default()
    }

    /// Whether this was the first failure.
    pub(super) fn fail(&self, rank: usize, cause: &str) -> bool {
        let mut first = false;
        self.announce(|state| {
            first = state.failure.is_none();
            state.failure.get_or_insert_with(|| (rank, cause.into()));
            self.failed.store(true, Ordering::Release);
        });
        first
    }

    pub(super) fn failure(&self) -> Option<Error> {
        // Only a hint that saves the lock; what it guards is read under the lock.
        self.failed
            .load(Ordering::Acquire)
            .then(|| self.lock().failed())
            .flatten()
    }

    pub(super) fn wait_failure(&self, rank: usize, deadline: Duration) -> Option<Error> {
        let state = self.lock();
        let (state, _) = self.seats[rank]
            .wait_timeout_while(state, deadline, |state| state.failure.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        state.failed()
    }

    pub(super) fn leave(&self, rank: usize) {
        self.announce(|state| {
            state.ranks[rank].left = true;
            state.ranks[rank].inbox.clear();
        });
    }

    /// No rank of another process can be heard any more. That is a failure unless rank 0, which
    /// carries the posts, said goodbye.
    pub(super) fn cut(&self, why: &str) {
        let mut expected = false;
        self.announce(|state| {
            state.cut = true;
            expected = state.ranks[0].left || self.only.is_some_and(|only| state.ranks[only].left);
        });
        if !expected {
            self.fail(0, &format!("its process died ({why})"));
        }
    }

    pub(super) fn set_wake(&self, rank: usize, wake: Option<Wake>) {
        // The old one is dropped when the lock is not held any more.
        let _old = std::mem::replace(&mut self.lock().ranks[rank].wake, wake);
    }
}

impl State {
    fn failed(&self) -> Option<Error> {
        self.failure
            .as_ref()
            .map(|(rank, cause)| Error::PeerFailed {
                rank: *rank,
                cause: cause.clone(),
            })
    }

    /// Why waiting for an incomplete meeting makes no sense.
    fn refusal(&self, rank: usize, topic: Topic, what: &str) -> Option<Error> {
        let Some(open) = self
            .open
            .get(&topic)
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
        if let Some(error) = self.failed() {
            return Some(error);
        }
        let gone = |rank: usize, with: &str| Error::PeerFailed {
            rank,
            cause: format!("it left before {what}{with}").into(),
        };
        if let Some(left) = open.missing().find(|&missing| self.ranks[missing].left) {
            return Some(gone(left, ""));
        }
        self.cut
            .then(|| gone(0, ", and with it the way to the other ranks"))
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("ranks", &self.ranks())
            .field("only", &self.only)
            .finish_non_exhaustive()
    }
}
