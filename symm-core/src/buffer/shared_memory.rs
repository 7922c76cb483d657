//! The untyped part of a shared buffer: memory that any thread may read, and give up.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::memory::{Place, record};
use super::redzone::Zone;
use crate::backend::Backend;
use crate::backend::driver::Access;
use crate::capture::active;
use crate::error::{Error, Result};
use crate::group::core::GroupCore;
use crate::group::world::Rank;
use crate::pool::arena::Block;
use crate::pool::reaper;
use crate::registration::returns::Dropped;
use crate::scope::routing;

/// Memory that all clones of a shared buffer own together. What orders its uses is its own: leases
/// and fences stay on the thread of their buffer.
#[derive(Debug)]
pub(crate) struct SharedMemory<B: Backend> {
    addr: u64,
    home: Home<B>,
    /// The stream on which it was allocated.
    stream: B::Stream,
    uses: Mutex<Uses<B>>,
}

#[derive(Debug)]
pub(crate) enum Home<B: Backend> {
    /// A block of the group's arena, and what lies behind the buffer in it.
    Block {
        group: Arc<GroupCore<B>>,
        block: Block,
        zone: Option<Zone>,
    },
    /// Memory of its own, of a scope that is switched off. Behind a lock because it is only `Send`.
    Plain {
        memory: Mutex<Option<B::Plain>>,
        rank: Arc<Rank<B>>,
        group: Option<Arc<GroupCore<B>>>,
        bytes: u64,
    },
}

/// The streams that used it since the last write, and those that wrote.
#[derive(Debug)]
struct Uses<B: Backend> {
    writes: Vec<B::Stream>,
    /// Each waited for the writes.
    reads: Vec<B::Stream>,
}

fn has<B: Backend>(streams: &[B::Stream], stream: &B::Stream) -> bool {
    streams.iter().any(|known| B::same_stream(known, stream))
}

impl<B: Backend> SharedMemory<B> {
    /// Memory whose uses so far are on `stream`, its own, and on `others`.
    pub(crate) fn new(
        addr: u64,
        home: Home<B>,
        stream: B::Stream,
        others: Vec<B::Stream>,
    ) -> Arc<Self> {
        let mut writes = vec![stream.clone()];
        for other in others {
            if !has::<B>(&writes, &other) {
                writes.push(other);
            }
        }
        let reads = Vec::new();
        Arc::new(Self {
            addr,
            home,
            stream,
            uses: Mutex::new(Uses { writes, reads }),
        })
    }

    pub(crate) fn addr(&self) -> u64 {
        self.addr
    }

    pub(crate) fn stream(&self) -> &B::Stream {
        &self.stream
    }

    pub(crate) fn rank(&self) -> &Arc<Rank<B>> {
        match &self.home {
            Home::Block { group, .. } => &group.world,
            Home::Plain { rank, .. } => rank,
        }
    }

    /// The group whose scope it was allocated in.
    pub(crate) fn group(&self) -> Option<&Arc<GroupCore<B>>> {
        match &self.home {
            Home::Block { group, .. } => Some(group),
            Home::Plain { group, .. } => group.as_ref(),
        }
    }

    /// Where it lies, if that is an arena.
    pub(crate) fn place(&self) -> Option<Place<'_, B>> {
        match &self.home {
            Home::Block { group, block, .. } => Some(Place {
                group,
                arena: group.arena.id,
                block,
            }),
            Home::Plain { .. } => None,
        }
    }

    /// Makes `stream` wait for the uses that `access` conflicts with. In a capture the graph keeps
    /// the memory, so that nobody writes to it as long as the graph lives.
    pub(crate) fn before(self: &Arc<Self>, stream: &B::Stream, access: Access) -> Result<()> {
        if let Some(capture) = active::capture_on_this_thread(self.rank()) {
            if access == Access::Write {
                return active::refuse(
                    self.rank(),
                    "writing to a shared buffer",
                    "its replays would write what other threads read: write to it before the capture, or share it after the graph is gone",
                );
            }
            let writes = self.uses().writes.clone();
            let clone: Box<dyn Any + Send> = Box::new(Arc::clone(self));
            let place = self.place().map(|place| place.spot());
            return capture.reads_shared(self.addr, stream, &writes, place, clone);
        }
        let uses = self.uses();
        let waited = access == Access::Read && has::<B>(&uses.reads, stream);
        let reads = uses.reads.iter().filter(|_| access == Access::Write);
        let mut others = uses.writes.iter().chain(reads);
        others.try_for_each(|other| match waited || B::same_stream(other, stream) {
            true => Ok(()),
            false => B::wait_stream(stream, other),
        })
    }

    /// Notes a use that was just enqueued on `stream`.
    pub(crate) fn after(&self, stream: &B::Stream, access: Access) {
        if active::capture_on_this_thread(self.rank()).is_some() {
            return;
        }
        let mut uses = self.uses();
        match access {
            // It waited for all others.
            Access::Write => {
                uses.reads.clear();
                uses.writes = vec![stream.clone()];
            }
            Access::Read if has::<B>(&uses.reads, stream) => {}
            Access::Read => uses.reads.push(stream.clone()),
        }
    }

    /// Copies from `offset` bytes on, behind the writes; the caller knows that so much is there.
    pub(crate) fn download(self: &Arc<Self>, offset: u64, dst: &mut [u8]) -> Result<()> {
        active::refuse_reading(self.rank())?;
        if dst.is_empty() {
            return Ok(());
        }
        // SAFETY: views lie inside the memory, which a clone keeps.
        self.on_stream(Access::Read, |stream| unsafe {
            B::download(stream, self.addr + offset, dst)
        })?;
        // The wait may have ended because the world failed, with garbage.
        self.rank().check()
    }

    /// Enqueues a copy of `src` to its start; the caller knows that it fits, and is alone.
    pub(crate) fn upload(self: &Arc<Self>, src: &[u8]) -> Result<()> {
        if src.is_empty() {
            return Ok(());
        }
        // SAFETY: the length is the buffer's; the memory is given back behind its streams' work.
        self.on_stream(Access::Write, |stream| unsafe {
            B::upload(stream, self.addr, src)
        })
    }

    /// Enqueues zeros from the start on; as for `upload`.
    pub(crate) fn zero(self: &Arc<Self>, bytes: u64) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: as above.
        self.on_stream(Access::Write, |stream| unsafe {
            B::fill(stream, self.addr, 0, bytes)
        })
    }

    fn on_stream(
        self: &Arc<Self>,
        access: Access,
        work: impl FnOnce(&B::Stream) -> Result<()>,
    ) -> Result<()> {
        self.rank().check()?;
        let stream = routing::stream(self.rank());
        self.before(&stream, access)?;
        work(&stream)?;
        self.after(&stream, access);
        Ok(())
    }

    fn uses(&self) -> MutexGuard<'_, Uses<B>> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> Drop for SharedMemory<B> {
    /// On any thread, also one that captures: so it calls nothing of the device, and a block only
    /// becomes one that this rank has dropped.
    fn drop(&mut self) {
        let uses = self.uses.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut streams = vec![self.stream.clone()];
        for stream in uses.writes.drain(..).chain(uses.reads.drain(..)) {
            if !has::<B>(&streams, &stream) {
                streams.push(stream);
            }
        }
        match &mut self.home {
            Home::Block { group, block, zone } => {
                // The arena may end before any round.
                for stream in &streams {
                    group.arena.note_stream(stream);
                }
                group.arena.returns.note(Dropped {
                    block: *block,
                    streams,
                    zone: zone.take(),
                });
            }
            Home::Plain {
                memory,
                rank,
                bytes,
                ..
            } => {
                let memory = memory.get_mut().unwrap_or_else(PoisonError::into_inner);
                let (memory, of) = (memory.take(), Arc::clone(rank));
                let (addr, bytes) = (self.addr, *bytes);
                rank.pool.reaper.later(move || {
                    let waited = reaper::drain::<B>(&streams);
                    record::gave_plain(&of, addr, bytes);
                    drop(memory);
                    waited
                });
            }
        }
    }
}

/// Why a buffer cannot be shared.
pub(crate) fn not_shareable(why: &str) -> Error {
    Error::Unsupported {
        what: "sharing this buffer",
        why: why.into(),
    }
}
