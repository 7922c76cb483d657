//! The thread that runs a device's work, in an order that the seed chooses, and as late as it may.
//!
//! Late, so that work which should have been waited for is still undone when it is needed. It runs
//! while a thread waits for the device, when much has piled up, and when nothing new came for a
//! moment, so that a peer that waits for this rank always gets on.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::collective::Collective;
use super::device::{Change, Shared, State};
use super::memory::Memory;
use super::queue::{Item, Next};
use crate::error::{Error, Result};

/// Nothing new for so long: run what is there.
const LULL: Duration = Duration::from_millis(1);
/// More than this has piled up: run it down to `LOW`. Two bounds, or every further item would wake
/// the engine for itself alone.
const HIGH: usize = 256;
const LOW: usize = 64;
/// A dropped device waits so long for peers when nothing else is left to do.
const GRACE: Duration = Duration::from_secs(1);

/// Whether work may run although no thread waits for it.
#[derive(Debug, Default)]
pub(super) struct Pace {
    lull: bool,
    piled_up: bool,
}

impl Pace {
    /// Notes a new item; says whether the engine should be woken.
    pub(super) fn enqueued(&mut self, backlog: usize) -> bool {
        self.lull = false;
        let wake = backlog > HIGH && !self.piled_up;
        self.piled_up |= wake;
        wake
    }
}

impl State {
    fn may_run(&mut self) -> bool {
        self.pace.piled_up &= self.queues.backlog() > LOW;
        self.waiting > 0 || self.pace.piled_up || self.pace.lull || self.closing.is_some()
    }
}

thread_local! {
    static CURRENT: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is an engine, which would wait for itself.
pub(super) fn is_current() -> bool {
    CURRENT.get()
}

/// What the thread does next.
enum Step {
    Work(Next),
    /// Look at the collectives that are in flight.
    Poll,
    End,
}

/// What the thread has just done.
enum Did {
    Nothing,
    Item(u64),
    Collective(u64),
}

struct InFlight {
    stream: u64,
    collective: Box<Collective>,
    arrived: bool,
}

/// The engine of one device. Its memory is touched by its thread alone, so a missing event is wrong
/// data and not a data race.
pub(super) struct Engine {
    device: Arc<Shared>,
    memory: Memory,
    in_flight: Vec<InFlight>,
}

impl Engine {
    pub(super) fn new(device: &Arc<Shared>) -> Self {
        Self {
            device: Arc::clone(device),
            memory: Memory::new(device.rank()),
            in_flight: Vec::new(),
        }
    }

    pub(super) fn run(mut self) {
        CURRENT.set(true);
        let mut did = Did::Nothing;
        loop {
            let result = match self.next(did) {
                Step::Work(Next::Run(stream, Item::Run { label, work })) => self
                    .call(label, |memory| work(memory))
                    .map(|()| Did::Item(stream)),
                Step::Work(Next::Run(stream, Item::Collective(collective))) => {
                    self.begin(stream, collective)
                }
                Step::Work(Next::Run(stream, Item::Free(base))) => {
                    self.memory.free(base);
                    Ok(Did::Item(stream))
                }
                Step::Work(Next::Run(stream, Item::Wait(_))) => Ok(Did::Item(stream)),
                Step::Work(Next::Finish(stream)) => self.finish(stream),
                Step::Poll => self.poll(),
                Step::End => {
                    return self.end(Error::Unavailable {
                        backend: "host",
                        why: "the world of this device has ended".into(),
                    });
                }
            };
            did = result.unwrap_or_else(|error| {
                self.end(error);
                Did::Nothing
            });
        }
    }

    /// Notes what was done, and waits until something is to be done.
    fn next(&mut self, did: Did) -> Step {
        let alarm = self
            .in_flight
            .iter()
            .filter(|one| !one.arrived)
            .map(|one| one.collective.alarm())
            .min();
        let mut state = self.device.lock();
        match did {
            Did::Nothing => {}
            Did::Item(stream) => state.queues.complete(stream),
            Did::Collective(stream) => state.queues.complete_collective(stream),
        }
        loop {
            for change in std::mem::take(&mut state.changes) {
                match change {
                    Change::Add(block) => self.memory.add(block),
                    Change::Free(base) => self.memory.free(base),
                }
            }
            state.space.release(self.memory.take_freed());
            let now = Instant::now();
            if std::mem::take(&mut state.mail) || alarm.is_some_and(|alarm| now >= alarm) {
                return Step::Poll;
            }
            let next = if state.may_run() {
                state.queues.pick()
            } else {
                None
            };
            if state.queues.take_reached() {
                self.device.done.notify_all();
            }
            if let Some(next) = next {
                return Step::Work(next);
            }
            let end = state.closing.map(|closing| closing + GRACE);
            if end.is_some_and(|end| state.queues.backlog() == 0 || now >= end) {
                return Step::End;
            }
            let lull = state.queues.has_ready().then(|| now + LULL);
            let until = [alarm, end, lull].into_iter().flatten().min();
            let total = state.queues.total();
            state.asleep = lull.is_none();
            state = match until {
                Some(until) => {
                    self.device
                        .work
                        .wait_timeout(state, until.saturating_duration_since(now))
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None => self
                    .device
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
            };
            state.asleep = false;
            if state.queues.total() == total && lull.is_some_and(|lull| Instant::now() >= lull) {
                state.pace.lull = true;
            }
        }
    }

    /// Runs work on memory; a panic is an error of the device like any other.
    fn call(
        &mut self,
        label: &'static str,
        work: impl FnOnce(&mut Memory) -> Result<()>,
    ) -> Result<()> {
        self.memory.label = label;
        let rank = self.device.rank();
        panic::catch_unwind(AssertUnwindSafe(|| work(&mut self.memory))).unwrap_or_else(|panic| {
            Err(Error::Backend {
                rank,
                call: label,
                code: -1,
                text: format!("it panicked: {}", text(&*panic)).into(),
            })
        })
    }

    fn begin(&mut self, stream: u64, mut collective: Box<Collective>) -> Result<Did> {
        self.call(collective.label(), |memory| collective.begin(memory))?;
        if collective.poll()? {
            self.call(collective.label(), |memory| collective.finish(memory))?;
            return Ok(Did::Collective(stream));
        }
        self.in_flight.push(InFlight {
            stream,
            collective,
            arrived: false,
        });
        Ok(Did::Nothing)
    }

    fn poll(&mut self) -> Result<Did> {
        let now = Instant::now();
        for one in self.in_flight.iter_mut().filter(|one| !one.arrived) {
            if one.collective.poll()? {
                one.arrived = true;
                self.device.lock().queues.arrived(one.stream);
            } else if now >= one.collective.alarm() {
                return Err(one.collective.overdue());
            }
        }
        Ok(Did::Nothing)
    }

    fn finish(&mut self, stream: u64) -> Result<Did> {
        if let Some(at) = self.in_flight.iter().position(|one| one.stream == stream) {
            let mut collective = self.in_flight.swap_remove(at).collective;
            self.call(collective.label(), |memory| collective.finish(memory))?;
        }
        Ok(Did::Collective(stream))
    }

    /// The device takes no more work, and all who wait for it or for this rank get the error.
    fn end(&mut self, error: Error) {
        // Peers know of a peer's failure, and of the end of a world. Told first: who hears of the
        // death here may rebuild the world, and this belongs to the old one.
        if !matches!(error, Error::PeerFailed { .. } | Error::Unavailable { .. }) {
            self.device.rendezvous.fail(&error.to_string());
        }
        self.in_flight.clear();
        let items = self.device.die(&error);
        self.device.done.notify_all();
        drop(items);
    }
}

/// What a panic says.
fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
