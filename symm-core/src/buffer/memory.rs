//! The untyped part of a buffer: whose memory it is, and the order of its uses.

use std::cell::OnceCell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::StaysOnItsThread;
use crate::backend::Backend;
use crate::backend::driver::Access;
use crate::error::{Error, Result};
use crate::group::core::GroupCore;
use crate::group::world::Rank;
use crate::pool::arena::Block;
use crate::scope::routing;

/// Memory that a buffer owns. Not `Send`: where a free falls among the allocations is part of the
/// arena's history, so it happens on the thread that allocates, in program order.
#[derive(Debug)]
pub(crate) struct Memory<B: Backend> {
    addr: u64,
    bytes: u64,
    home: Home<B>,
    /// The stream on which it was allocated, behind which it is freed.
    stream: B::Stream,
    /// Made at the first use on another stream, or by a kernel.
    fence: OnceCell<B::Fence>,
    _thread: PhantomData<StaysOnItsThread>,
}

#[derive(Debug)]
enum Home<B: Backend> {
    /// A block of the group's arena.
    Block {
        group: Arc<GroupCore<B>>,
        block: Block,
    },
    /// Memory of its own; `group` is set where a scope that is switched off gave it.
    Plain {
        memory: Option<B::Plain>,
        rank: Arc<Rank<B>>,
        group: Option<Arc<GroupCore<B>>>,
    },
}

impl<B: Backend> Memory<B> {
    /// A block of the group's arena, which the group's next round registers.
    pub(crate) fn in_arena(group: &Arc<GroupCore<B>>, bytes: u64) -> Result<Self> {
        let stream = routing::stream(&group.world);
        let block = group.arena.allocate(bytes, &stream)?;
        group.ledger().touch(block.position.segment);
        Ok(Self::new(
            block.addr,
            bytes,
            Home::Block {
                group: Arc::clone(group),
                block,
            },
            stream,
        ))
    }

    /// Ordinary memory.
    pub(crate) fn plain(
        rank: &Arc<Rank<B>>,
        group: Option<&Arc<GroupCore<B>>>,
        bytes: u64,
    ) -> Result<Self> {
        rank.check()?;
        let stream = routing::stream(rank);
        let memory = B::alloc_plain(&stream, bytes.max(1))?;
        rank.pool.plain.fetch_add(bytes, Ordering::Relaxed);
        let addr = B::plain_base(&memory);
        Ok(Self::new(
            addr,
            bytes,
            Home::Plain {
                memory: Some(memory),
                rank: Arc::clone(rank),
                group: group.cloned(),
            },
            stream,
        ))
    }

    fn new(addr: u64, bytes: u64, home: Home<B>, stream: B::Stream) -> Self {
        Self {
            addr,
            bytes,
            home,
            stream,
            fence: OnceCell::new(),
            _thread: PhantomData,
        }
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

    /// The block it owns, and the group whose arena it is of.
    pub(crate) fn block(&self) -> Option<(&Arc<GroupCore<B>>, &Block)> {
        match &self.home {
            Home::Block { group, block } => Some((group, block)),
            Home::Plain { .. } => None,
        }
    }

    /// Makes `stream` wait for the uses of this memory that `access` conflicts with.
    pub(crate) fn before(&self, stream: &B::Stream, access: Access) -> Result<()> {
        match self.fence.get() {
            Some(fence) => B::fence_before(fence, stream, access),
            None if B::same_stream(&self.stream, stream) => Ok(()),
            None => B::fence_before(self.fence()?, stream, access),
        }
    }

    /// Notes a use that was just enqueued on `stream`.
    pub(crate) fn after(&self, stream: &B::Stream, access: Access) -> Result<()> {
        match self.fence.get() {
            Some(fence) => B::fence_after(fence, stream, access),
            None => Ok(()),
        }
    }

    /// The fence, behind all that the owner's stream holds now if it is new.
    pub(crate) fn fence(&self) -> Result<&B::Fence> {
        if let Some(fence) = self.fence.get() {
            return Ok(fence);
        }
        // SAFETY: the memory is this buffer's, and the fence is dropped with it, before the memory
        // is given back.
        let fence = unsafe { B::fence(&self.stream, self.addr, self.bytes.max(1)) }?;
        Ok(self.fence.get_or_init(|| fence))
    }

    /// The fence, if the memory was used on more than its own stream, or by a kernel.
    #[cfg(feature = "cuda")]
    pub(crate) fn fence_if_made(&self) -> Option<&B::Fence> {
        self.fence.get()
    }

    /// Runs `work` on the thread's stream, ordered with the other uses.
    pub(crate) fn on_stream<R>(
        &self,
        access: Access,
        work: impl FnOnce(&B::Stream) -> Result<R>,
    ) -> Result<R> {
        self.rank().check()?;
        let stream = routing::stream(self.rank());
        self.before(&stream, access)?;
        let done = work(&stream)?;
        self.after(&stream, access)?;
        Ok(done)
    }

    /// Copies `src` to `offset` bytes from the start.
    pub(crate) fn upload(&self, offset: u64, src: &[u8]) -> Result<()> {
        self.in_bounds(offset, src.len() as u64)?;
        if src.is_empty() {
            return Ok(());
        }
        // SAFETY: the range lies inside this memory, which is given back only behind the work of
        // its streams.
        self.on_stream(Access::Write, |stream| unsafe {
            B::upload(stream, self.addr + offset, src)
        })
    }

    /// Waits for the work before it and copies from `offset` bytes on.
    pub(crate) fn download(&self, offset: u64, dst: &mut [u8]) -> Result<()> {
        self.in_bounds(offset, dst.len() as u64)?;
        if dst.is_empty() {
            return Ok(());
        }
        // SAFETY: the range lies inside this memory.
        self.on_stream(Access::Read, |stream| unsafe {
            B::download(stream, self.addr + offset, dst)
        })
    }

    /// Enqueues zeros.
    pub(crate) fn zero(&self, offset: u64, bytes: u64) -> Result<()> {
        self.in_bounds(offset, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the range lies inside this memory, which is given back only behind the work of
        // its streams.
        self.on_stream(Access::Write, |stream| unsafe {
            B::zero(stream, self.addr + offset, bytes)
        })
    }

    fn in_bounds(&self, offset: u64, bytes: u64) -> Result<()> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.bytes => Ok(()),
            _ => Err(Error::Range {
                start: offset as usize,
                end: offset.saturating_add(bytes) as usize,
                len: self.bytes as usize,
            }),
        }
    }
}

impl<B: Backend> Drop for Memory<B> {
    fn drop(&mut self) {
        if let Some(fence) = self.fence.take() {
            // Freed behind the work of its own stream, which therefore has to come after all the
            // others that used it.
            if let Err(error) = B::fence_before(&fence, &self.stream, Access::Write) {
                self.rank().poison(&error);
                // Nobody else may ever ask: the world's end reports it.
                self.rank().pool.reaper.report(Err(error));
            }
        }
        match &mut self.home {
            Home::Block { group, block } => group.arena.release(block, &self.stream),
            Home::Plain { memory, rank, .. } => {
                drop(memory.take());
                rank.pool.plain.fetch_sub(self.bytes, Ordering::Relaxed);
            }
        }
    }
}
