//! Handles of streams, and what orders their work.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::device::{Shared, State};
use super::queue::{Item, Work};
use super::record::Point;
use super::step::Step;
use crate::backend::driver::Access;
use crate::error::Result;

/// A queue of work on a rank's device; a cheap handle.
///
/// ```
/// use symm_core::{Host, World};
///
/// World::<Host>::run(1, |world| {
///     assert!(format!("{:?}", world.stream()).starts_with("HostStream(host:0"));
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone)]
pub struct HostStream(Arc<Handle>);

struct Handle {
    device: Arc<Shared>,
    id: u64,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.device.lock().queues.abandon(self.id);
    }
}

impl HostStream {
    pub(super) fn new(device: &Arc<Shared>) -> Result<Self> {
        let id = device.alive()?.queues.open();
        Ok(Self(Arc::new(Handle {
            device: Arc::clone(device),
            id,
        })))
    }

    pub(super) fn device(&self) -> &Arc<Shared> {
        &self.0.device
    }

    pub(super) fn id(&self) -> u64 {
        self.0.id
    }

    /// Enqueues work that can run only once, so that no record can hold it. Errors that it returns,
    /// and panics, come up at the next call on the device.
    pub(super) fn submit(&self, label: &'static str, work: Work) -> Result<()> {
        let mut state = self.unrecorded(label)?;
        let item = Item::Run { label, work };
        self.0.device.enqueue(&mut state, self.0.id, item);
        Ok(())
    }

    /// Enqueues a step, or records it.
    pub(crate) fn push(&self, step: Step) -> Result<()> {
        let mut state = self.0.device.alive()?;
        step.check()?;
        if let Some((record, lane)) = state.records.of(self.0.id) {
            record.check()?;
            record.push(lane, step);
            return Ok(());
        }
        // Numbered under the device's lock, so that the order of a communicator's collectives is
        // that of the stream.
        let item = step.item();
        self.0.device.enqueue(&mut state, self.0.id, item);
        Ok(())
    }

    /// The device's state, if the stream does not record; else the record cannot hold the call.
    pub(super) fn unrecorded(&self, call: &str) -> Result<MutexGuard<'_, State>> {
        let mut state = self.0.device.alive()?;
        state.records.refuse(self.0.id, call)?;
        Ok(state)
    }

    pub(super) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// All that is on the stream now.
    fn now(&self) -> Point {
        let state = self.0.device.lock();
        match state.records.point(self.0.id) {
            Some(recorded) => Point::Recorded(recorded),
            None => Point::Queued(state.queues.mark(self.0.id)),
        }
    }

    /// Makes later work wait for what was on a stream at that point. On its own it never waits.
    fn wait_for(&self, point: Point) -> Result<()> {
        if point.stream() == self.0.id {
            return Ok(());
        }
        let mut state = self.0.device.alive()?;
        if state.records.wait(self.0.id, point)? {
            return Ok(());
        }
        let mark = match point {
            Point::Queued(mark) => mark,
            // Of a record that has ended: its launches, if any, are most likely on that stream.
            Point::Recorded(recorded) => state.queues.mark(recorded.stream),
        };
        if !state.queues.is_done(mark) {
            let item = Item::Wait(mark);
            self.0.device.enqueue(&mut state, self.0.id, item);
        }
        Ok(())
    }

    /// Makes later work wait for all that is on the other stream now.
    pub(super) fn wait_stream(&self, on: &Self) -> Result<()> {
        self.wait_for(on.now())
    }

    /// Waits until all that is on the stream now is done.
    pub(super) fn synchronize(&self) -> Result<()> {
        let mark = self.unrecorded("synchronize")?.queues.mark(self.0.id);
        self.0.device.wait(mark)
    }

    /// Whether all that is on the stream is done, as it is on a device that died. As in CUDA, a
    /// capture cannot hold the question.
    pub(super) fn is_done(&self) -> Result<bool> {
        let mut state = self.0.device.lock();
        state.records.refuse(self.0.id, "is_done")?;
        let mark = state.queues.mark(self.0.id);
        Ok(state.queues.is_done(mark))
    }

    /// Frees memory behind all that is queued on the stream. No record takes it up: memory that a
    /// graph uses and that is freed here is found at the graph's launch.
    fn free(&self, base: u64) {
        let mut state = self.0.device.lock();
        if state.dead.is_some() {
            // Nothing is queued, and the memory outlives the device's death.
            drop(state);
            return self.0.device.free(base);
        }
        let free = Item::Free(base);
        if state.records.point(self.0.id).is_none() {
            self.0.device.enqueue(&mut state, self.0.id, free);
            return;
        }
        let (queued, aside) = (state.queues.mark(self.0.id), state.queues.open());
        self.0.device.enqueue(&mut state, aside, Item::Wait(queued));
        self.0.device.enqueue(&mut state, aside, free);
        state.queues.abandon(aside);
    }
}

impl fmt::Debug for HostStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "HostStream(host:{} #{})",
            self.0.device.rank(),
            self.0.id
        )
    }
}

/// Ordinary memory; freed behind the work that is on its stream when it is dropped.
#[derive(Debug)]
pub struct Plain {
    base: u64,
    stream: HostStream,
}

impl Plain {
    pub(super) fn new(stream: &HostStream, bytes: u64) -> Result<Self> {
        drop(stream.unrecorded("alloc_plain")?);
        let base = stream.device().allocate(bytes, 512, "ordinary memory")?;
        Ok(Self {
            base,
            stream: stream.clone(),
        })
    }

    pub(super) fn base(&self) -> u64 {
        self.base
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.stream.free(self.base);
    }
}

/// The last uses of one buffer.
#[derive(Debug)]
pub struct Fence(Mutex<Uses>);

#[derive(Debug)]
struct Uses {
    write: Point,
    /// The last read of each stream since the write.
    reads: Vec<Point>,
}

impl Fence {
    pub(super) fn new(owner: &HostStream) -> Self {
        Self(Mutex::new(Uses {
            write: owner.now(),
            reads: Vec::new(),
        }))
    }

    pub(super) fn before(&self, stream: &HostStream, access: Access) -> Result<()> {
        let uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stream.wait_for(uses.write)?;
        match access {
            Access::Read => Ok(()),
            Access::Write => uses
                .reads
                .iter()
                .try_for_each(|&read| stream.wait_for(read)),
        }
    }

    pub(super) fn after(&self, stream: &HostStream, access: Access) {
        let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stream.now();
        match access {
            Access::Read => match uses
                .reads
                .iter_mut()
                .find(|read| read.stream() == now.stream())
            {
                Some(read) => *read = now,
                None => uses.reads.push(now),
            },
            // It waited for the reads.
            Access::Write => {
                *uses = Uses {
                    write: now,
                    reads: Vec::new(),
                }
            }
        }
    }
}
