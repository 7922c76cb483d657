//! A rank's device: its streams and addresses as host threads see them. What runs, runs on the
//! engine thread.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use super::clock::Clock;
use super::engine::{self, Engine};
use super::fault::{CallKind, Calls};
use super::memory::{Block, Space};
use super::options::Options;
use super::queue::{Item, Mark, Queues};
use super::record::Records;
use crate::backend::driver::Seat;
use crate::error::{Error, Result};
use crate::rendezvous::Rendezvous;

/// A device. Dropping it lets the engine finish what is queued and end.
#[derive(Debug)]
pub struct Device(Arc<Shared>);

/// What host threads and the engine thread share.
pub(super) struct Shared {
    pub(super) calls: Calls,
    pub(super) rendezvous: Arc<Rendezvous>,
    pub(super) options: Options,
    pub(super) clock: Arc<Clock>,
    state: Mutex<State>,
    /// Wakes the engine.
    pub(super) work: Condvar,
    /// Wakes threads that wait for work to be done.
    pub(super) done: Condvar,
}

pub(super) struct State {
    pub(super) queues: Queues,
    pub(super) records: Records,
    pub(super) space: Space,
    /// What the engine does to its memory before it goes on.
    pub(super) changes: Vec<Change>,
    /// The first error of queued work. Nothing runs after it.
    pub(super) dead: Option<Error>,
    /// How often the device died, and of what it did last.
    pub(super) deaths: u64,
    pub(super) last: Option<Error>,
    /// Threads that wait for this device.
    pub(super) waiting: usize,
    /// The engine sleeps until it is woken.
    pub(super) asleep: bool,
    /// Peers have posted something since the engine last looked.
    pub(super) mail: bool,
    pub(super) pace: engine::Pace,
    /// When the device was dropped.
    pub(super) closing: Option<Instant>,
}

pub(super) enum Change {
    Add(Block),
    Free(u64),
}

impl Device {
    pub(super) fn open(seat: &Seat, options: &Options) -> Result<Self> {
        let calls = Calls::new(seat, &options.faults()?)?;
        calls.enter(CallKind::Open)?;
        let rng = options.rng(seat.rank)?;
        let state = State {
            queues: Queues::new(rng.clone()),
            records: Records::new(seat.rank),
            space: Space::new(seat.rank, options.memory, rng),
            changes: Vec::new(),
            dead: None,
            deaths: 0,
            last: None,
            waiting: 0,
            asleep: false,
            mail: false,
            pace: engine::Pace::default(),
            closing: None,
        };
        let shared = Arc::new(Shared {
            calls,
            rendezvous: Arc::clone(&seat.rendezvous),
            options: options.clone(),
            clock: Arc::new(Clock::new(options.costs)),
            state: Mutex::new(state),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        let engine = Engine::new(&shared);
        thread::Builder::new()
            .name(format!("symm-host-{}", seat.rank))
            .spawn(|| engine.run())
            .map_err(|e| Error::Unavailable {
                backend: "host",
                why: format!("its thread does not start: {e}").into(),
            })?;
        // Weak, or the rendezvous would keep the device that keeps the rendezvous.
        let woken = Arc::downgrade(&shared);
        seat.rendezvous.notify(Arc::new(move || {
            if let Some(shared) = woken.upgrade() {
                shared.mail();
            }
        }));
        Ok(Self(shared))
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.0.lock().closing = Some(Instant::now());
        self.0.work.notify_one();
    }
}

impl Shared {
    pub(super) fn rank(&self) -> usize {
        self.rendezvous.rank()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Work runs outside the lock, so a panic of it cannot leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, or the error that ended the device.
    pub(super) fn alive(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.lock();
        match &state.dead {
            Some(error) => Err(error.clone()),
            None => Ok(state),
        }
    }

    /// Adds an item to a stream's queue, in this device's state.
    pub(super) fn enqueue(&self, state: &mut State, stream: u64, item: Item) {
        state.queues.push(stream, item);
        let backlog = state.queues.backlog();
        if state.pace.enqueued(backlog) | std::mem::take(&mut state.asleep) {
            self.work.notify_one();
        }
    }

    /// Waits until the mark is reached.
    pub(super) fn wait(&self, mark: Mark) -> Result<()> {
        if engine::is_current() {
            return Err(Error::Config { what: "work on a stream may not wait for a device: wait on the thread that enqueues it".into() });
        }
        let mut state = self.alive()?;
        if state.queues.is_done(mark) {
            return Ok(());
        }
        state.waiting += 1;
        self.work.notify_one();
        let deaths = state.deaths;
        while state.deaths == deaths && !state.queues.is_done(mark) {
            state.queues.watch(mark);
            state = self
                .done
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
        // It may live again by now, but what this thread waited for was thrown away.
        match state.deaths == deaths {
            true => Ok(()),
            false => state.last.clone().map_or(Ok(()), Err),
        }
    }

    /// Zeroed memory; its address is never handed out again.
    pub(super) fn allocate(&self, bytes: u64, align: u64, what: &str) -> Result<u64> {
        let first = self.alive()?.space.take(bytes, align);
        let range = match first {
            Some(range) => range,
            // As on a GPU, memory whose free is still queued counts only when nothing else is left.
            None => {
                let marks = self.lock().queues.marks();
                marks.into_iter().try_for_each(|mark| self.wait(mark))?;
                let mut state = self.alive()?;
                state
                    .space
                    .take(bytes, align)
                    .ok_or_else(|| state.space.out_of_memory(bytes, what))?
            }
        };
        match Block::new(range) {
            Some(block) => {
                self.lock().changes.push(Change::Add(block));
                Ok(range.base)
            }
            None => {
                let mut state = self.lock();
                state.space.release(bytes);
                Err(state.space.out_of_memory(bytes, what))
            }
        }
    }

    /// Frees memory, ahead of all that is queued.
    pub(super) fn free(&self, base: u64) {
        let mut state = self.lock();
        state.changes.push(Change::Free(base));
        if std::mem::take(&mut state.asleep) {
            self.work.notify_one();
        }
    }

    /// Lets collectives go, by a change of what they look at: no work is enqueued meanwhile.
    pub(super) fn release<R>(&self, change: impl FnOnce() -> R) -> R {
        let mut state = self.lock();
        let changed = change();
        state.mail = true;
        state.asleep = false;
        self.work.notify_one();
        changed
    }

    /// The device died, and what was queued is gone. Returns that.
    pub(super) fn die(&self, error: &Error) -> Vec<Item> {
        let mut state = self.lock();
        if state.dead.is_none() {
            state.dead = Some(error.clone());
            state.last = Some(error.clone());
            state.deaths += 1;
        }
        let items = state.queues.clear();
        let freed = items.iter().filter_map(|item| match item {
            Item::Free(base) => Some(Change::Free(*base)),
            _ => None,
        });
        state.changes.extend(freed);
        items
    }

    /// Lets a dead device live again: its queues are empty, its memory is as it was.
    pub(super) fn recover(&self) -> Result<()> {
        let mut state = self.lock();
        match state.dead.take() {
            // Its engine is gone.
            Some(ended @ Error::Unavailable { .. }) => {
                state.dead = Some(ended.clone());
                Err(ended)
            }
            _ => Ok(()),
        }
    }

    /// Called by peers' threads: something arrived, or failed.
    fn mail(&self) {
        let mut state = self.lock();
        if state.queues.in_flight() > 0 {
            state.mail = true;
            self.work.notify_one();
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Host").field(&self.rank()).finish()
    }
}
