//! Handles of streams, and what orders their work.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::device::Shared;
use super::queue::{Item, Mark, Work};
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

    /// Enqueues work. Errors that it returns, and panics, come up at the next call on the device.
    pub(crate) fn submit(&self, label: &'static str, work: Work) -> Result<()> {
        self.push(Item::Run { label, work })
    }

    pub(super) fn push(&self, item: Item) -> Result<()> {
        self.0.device.push(self.0.id, item)
    }

    pub(super) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// All that is on the stream now.
    fn mark(&self) -> Mark {
        self.0.device.lock().queues.mark(self.0.id)
    }

    /// Makes later work wait for the mark.
    fn wait_for(&self, mark: Mark) -> Result<()> {
        let passed = mark.stream == self.0.id || self.0.device.alive()?.queues.is_done(mark);
        if passed {
            Ok(())
        } else {
            self.push(Item::Wait(mark))
        }
    }

    /// Makes later work wait for all that is on the other stream now.
    pub(super) fn wait_stream(&self, on: &Self) -> Result<()> {
        self.wait_for(on.mark())
    }

    /// Waits until all that is on the stream now is done.
    pub(super) fn synchronize(&self) -> Result<()> {
        let mark = self.mark();
        self.0.device.wait(mark)
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
        let base = self.base;
        // Fails on a dead device only, whose memory goes as a whole.
        let _ = self.stream.submit(
            "free",
            Box::new(move |memory| {
                memory.free(base);
                Ok(())
            }),
        );
    }
}

/// The last uses of one buffer.
#[derive(Debug)]
pub struct Fence(Mutex<Uses>);

#[derive(Debug)]
struct Uses {
    write: Mark,
    /// The last read of each stream since the write.
    reads: Vec<Mark>,
}

impl Fence {
    pub(super) fn new(owner: &HostStream) -> Self {
        Self(Mutex::new(Uses {
            write: owner.mark(),
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
        let mark = stream.mark();
        match access {
            Access::Read => match uses
                .reads
                .iter_mut()
                .find(|read| read.stream == mark.stream)
            {
                Some(read) => *read = mark,
                None => uses.reads.push(mark),
            },
            // It waited for the reads.
            Access::Write => {
                *uses = Uses {
                    write: mark,
                    reads: Vec::new(),
                }
            }
        }
    }
}
