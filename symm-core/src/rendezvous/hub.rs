//! What one process knows of its world's meetings: who posted what, who left, who failed.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::state::State;
use super::{Topic, Values, Wake};
use crate::error::{Error, Result};

/// The meetings of a world, for the ranks that live in this process.
pub(super) struct Hub {
    /// `None` where all ranks live in this process.
    only: Option<usize>,
    state: Mutex<State>,
    /// One for each rank, so that a meeting wakes its members alone.
    seats: Box<[Seat]>,
    /// Whether any failure or death is known.
    failed: AtomicBool,
}

/// What can be reached of a rank without the lock.
#[derive(Default)]
struct Seat {
    bell: Condvar,
    /// A copy of the place's, which changes under the lock.
    epoch: AtomicU64,
}

/// How a rank waits for a meeting.
pub(super) struct Wait<'a> {
    pub(super) what: &'a str,
    pub(super) deadline: Duration,
    /// Goes on although the epoch failed, and leaves the values where they are.
    pub(super) convenes: bool,
    /// Ends the wait with an error; asked again after each `nudge`.
    pub(super) stop: &'a dyn Fn() -> Option<Error>,
}

impl Hub {
    /// A hub for all ranks, or for one of them when the others are processes of their own.
    pub(super) fn new(ranks: usize, only: Option<usize>) -> Self {
        Self {
            only,
            state: Mutex::new(State::new(ranks, only)),
            seats: (0..ranks).map(|_| Seat::default()).collect(),
            failed: AtomicBool::new(false),
        }
    }

    pub(super) fn ranks(&self) -> usize {
        self.seats.len()
    }

    /// The epoch of a rank of this process.
    pub(super) fn epoch(&self, rank: usize) -> u64 {
        self.seats[rank].epoch.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of others runs under the lock, so a panic cannot leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the threads that wait as these ranks; returns what else is to be called, once the lock
    /// is released.
    fn wakes(&self, state: &State, ranks: &[usize]) -> Vec<Wake> {
        let here = ranks
            .iter()
            .filter_map(|&rank| Some((rank, state.ranks.get(rank).filter(|place| place.here)?)));
        here.filter_map(|(rank, place)| {
            self.seats[rank].bell.notify_all();
            place.wake.clone()
        })
        .collect()
    }

    /// Changes what is known of the ranks, and wakes all that wait for any.
    fn announce<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let (changed, wakes) = {
            let mut state = self.lock();
            let changed = change(&mut state);
            self.failed.store(state.any_failure(), Ordering::Release);
            let all: Vec<usize> = (0..self.ranks()).collect();
            (changed, self.wakes(&state, &all))
        };
        wakes.iter().for_each(|wake| wake());
        changed
    }

    /// Takes the value of any rank, of this process or from the wire.
    pub(super) fn post(
        &self,
        from: usize,
        epoch: u64,
        topic: Topic,
        members: &Arc<[usize]>,
        value: Vec<u8>,
    ) -> Result<()> {
        let wakes = {
            let mut state = self.lock();
            let released = state.post(from, (epoch, topic), members, value)?;
            self.wakes(&state, &released)
        };
        wakes.iter().for_each(|wake| wake());
        Ok(())
    }

    /// Whether the rank has posted to a meeting whose values it can still get.
    pub(super) fn has_posted(&self, rank: usize, epoch: u64, topic: Topic) -> bool {
        self.lock().has_posted(rank, (epoch, topic))
    }

    pub(super) fn try_collect(
        &self,
        rank: usize,
        topic: Topic,
        what: &str,
    ) -> Result<Option<Values>> {
        let mut state = self.lock();
        let key = (state.ranks[rank].epoch, topic);
        match state.ranks[rank].inbox.remove(&key) {
            Some(values) => Ok(Some(values)),
            None => state.refusal(rank, key, what, false).map_or(Ok(None), Err),
        }
    }

    /// Waits for a meeting of the rank's epoch. What ends without values leaves everything as it
    /// was, so that the rank may wait again.
    pub(super) fn collect(&self, rank: usize, topic: Topic, wait: &Wait<'_>) -> Result<Values> {
        let start = Instant::now();
        let mut state = self.lock();
        let key = (state.ranks[rank].epoch, topic);
        loop {
            let inbox = &mut state.ranks[rank].inbox;
            let values = match wait.convenes {
                true => inbox.get(&key).cloned(),
                false => inbox.remove(&key),
            };
            if let Some(values) = values {
                return Ok(values);
            }
            if let Some(error) = (wait.stop)() {
                return Err(error);
            }
            if let Some(error) = state.refusal(rank, key, wait.what, wait.convenes) {
                return Err(error);
            }
            let Some(left) = wait
                .deadline
                .checked_sub(start.elapsed())
                .filter(|left| !left.is_zero())
            else {
                return Err(Error::Timeout {
                    rank,
                    missing: state.missing(key),
                    what: wait.what.into(),
                    after: start.elapsed(),
                });
            };
            state = self.seats[rank]
                .bell
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Has the threads that wait as this rank ask again whether to stop.
    pub(super) fn nudge(&self, rank: usize) {
        // Under the lock, or a thread that has asked and does not wait yet would miss it.
        let _state = self.lock();
        self.seats[rank].bell.notify_all();
    }

    pub(super) fn missing(&self, rank: usize, topic: Topic) -> Box<[usize]> {
        let state = self.lock();
        state.missing((state.ranks[rank].epoch, topic))
    }

    /// Whether this was the epoch's first failure.
    pub(super) fn fail(&self, rank: usize, epoch: u64, cause: &str) -> bool {
        self.announce(|state| state.fail(rank, epoch, cause))
    }

    pub(super) fn failure(&self, rank: usize) -> Option<Error> {
        // Only a hint that saves the lock; what it guards is read under the lock.
        if !self.failed.load(Ordering::Acquire) {
            return None;
        }
        let state = self.lock();
        state.failed(state.ranks[rank].epoch)
    }

    pub(super) fn wait_failure(&self, rank: usize, deadline: Duration) -> Option<Error> {
        let state = self.lock();
        let epoch = state.ranks[rank].epoch;
        let (state, _) = self.seats[rank]
            .bell
            .wait_timeout_while(state, deadline, |state| {
                state.failed(epoch).is_none() && state.ranks[rank].epoch == epoch
            })
            .unwrap_or_else(PoisonError::into_inner);
        state.failed(epoch)
    }

    pub(super) fn leave(&self, rank: usize) {
        self.announce(|state| state.leave(rank));
    }

    /// The rank's process is gone without a goodbye.
    pub(super) fn die(&self, rank: usize, cause: &str) {
        self.announce(|state| state.die(rank, cause));
    }

    /// No rank of another process can be heard any more. Rank 0, which carries the posts, died
    /// unless it said goodbye.
    pub(super) fn cut(&self, why: &str) {
        self.announce(|state| {
            state.cut = true;
            let left = |rank: usize| state.ranks[rank].left;
            if !left(0) && !self.only.is_some_and(left) {
                state.die(0, &format!("its process died ({why})"));
            }
        });
    }

    /// Moves a rank of this process to its next epoch.
    pub(super) fn renew(&self, rank: usize) {
        self.announce(|state| {
            let epoch = state.renew(rank);
            self.seats[rank].epoch.store(epoch, Ordering::Release);
        });
    }

    pub(super) fn has_left(&self, rank: usize) -> bool {
        self.lock().ranks.get(rank).is_some_and(|place| place.left)
    }

    #[cfg(test)]
    pub(super) fn has_died(&self, rank: usize) -> bool {
        self.lock().ranks.get(rank).is_some_and(|place| place.died)
    }

    #[cfg(test)]
    pub(super) fn gone(&self) -> Vec<usize> {
        let state = self.lock();
        let gone = |&rank: &usize| state.ranks[rank].left || state.ranks[rank].died;
        (0..self.ranks()).filter(gone).collect()
    }

    pub(super) fn set_wake(&self, rank: usize, wake: Option<Wake>) {
        // The old one is dropped when the lock is not held any more.
        let _old = std::mem::replace(&mut self.lock().ranks[rank].wake, wake);
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
