//! The order in which a buffer's memory is used, and the copies from and to it.

use std::cell::OnceCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::lease::Lease;
use super::memory::Memory;
use super::redzone::Redzone;
use crate::backend::Backend;
use crate::backend::driver::Access;
use crate::capture::active;
use crate::error::{Error, Result};
use crate::group::world::Rank;
use crate::scope::routing;

/// What few buffers have: those in a capture, on several streams, in kernels of the user's own, or
/// with a redzone. Made when it is first needed, so that the others are small and drop at once.
pub(crate) struct Extras<B: Backend> {
    /// Made when a capture first uses the memory.
    pub(super) lease: OnceCell<Rc<Lease<B>>>,
    /// Made at the first use on another stream, or by a kernel.
    pub(super) fence: OnceCell<Rc<B::Fence>>,
    pub(super) redzone: OnceCell<Redzone<B>>,
}

impl<B: Backend> Default for Extras<B> {
    fn default() -> Self {
        Self {
            lease: OnceCell::new(),
            fence: OnceCell::new(),
            redzone: OnceCell::new(),
        }
    }
}

impl<B: Backend> Extras<B> {
    /// Nothing of the memory is used any more but on `stream`, its own, behind which it is about to be
    /// given back.
    pub(super) fn end(self, rank: &Arc<Rank<B>>, stream: &B::Stream) {
        if let Some(fence) = self.fence.into_inner() {
            // The memory's own stream has to come after all the others that used it.
            if let Err(error) = B::fence_before(&fence, stream, Access::Write) {
                rank.poison(&error);
                // Nobody else may ever ask: the world's end reports it.
                rank.pool.reaper.report(Err(error));
            }
        }
        if let Some(redzone) = self.redzone.into_inner() {
            redzone.check(rank, stream);
        }
    }
}

impl<B: Backend> Memory<B> {
    /// What holds the memory for graphs; made when it is first asked for.
    pub(crate) fn lease(&self) -> &Rc<Lease<B>> {
        self.extras().lease.get_or_init(Lease::new)
    }

    /// Makes `stream` wait for the uses of this memory that `access` conflicts with.
    pub(crate) fn before(&self, stream: &B::Stream, access: Access) -> Result<()> {
        if let Some(capture) = active::capture_on_this_thread(self.rank()) {
            return capture.before_use(self, stream, access);
        }
        if let Some(lease) = self.lease_if_made() {
            lease.before(stream)?;
        }
        match self.fence_if_made() {
            Some(fence) => B::fence_before(fence, stream, access),
            None if B::same_stream(self.stream(), stream) => Ok(()),
            None => B::fence_before(self.fence()?, stream, access),
        }
    }

    /// Notes a use that was just enqueued on `stream`.
    pub(crate) fn after(&self, stream: &B::Stream, access: Access) -> Result<()> {
        if let Some(capture) = active::capture_on_this_thread(self.rank()) {
            capture.after_use(self, stream, access);
            return Ok(());
        }
        if let Some(lease) = self.lease_if_made() {
            lease.after(stream);
        }
        match self.fence_if_made() {
            Some(fence) => B::fence_after(fence, stream, access),
            None => Ok(()),
        }
    }

    /// The fence, behind all that the owner's stream holds now if it is new.
    pub(crate) fn fence(&self) -> Result<&Rc<B::Fence>> {
        if let Some(fence) = self.fence_if_made() {
            return Ok(fence);
        }
        // SAFETY: the memory is this buffer's, and the fence is dropped with it, before the memory
        // is given back; graphs that share the fence have a lease on the memory.
        let fence = unsafe { B::fence(self.stream(), self.addr(), self.bytes().max(1)) }?;
        Ok(self.extras().fence.get_or_init(|| Rc::new(fence)))
    }

    /// The fence, if the memory was used on more than its own stream, or by a kernel.
    pub(crate) fn fence_if_made(&self) -> Option<&Rc<B::Fence>> {
        self.extras_if_made()?.fence.get()
    }

    /// The lease, if a capture used the memory.
    pub(crate) fn lease_if_made(&self) -> Option<&Rc<Lease<B>>> {
        self.extras_if_made()?.lease.get()
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
        active::refuse(
            self.rank(),
            "a copy from host memory",
            "its replays would read host memory that is gone: make the buffer before the capture, and copy to it between launches",
        )?;
        if src.is_empty() {
            return Ok(());
        }
        // SAFETY: the range lies inside this memory, which is given back only behind the work of
        // its streams.
        self.on_stream(Access::Write, |stream| unsafe {
            B::upload(stream, self.addr() + offset, src)
        })
    }

    /// Waits for the work before it and copies from `offset` bytes on.
    pub(crate) fn download(&self, offset: u64, dst: &mut [u8]) -> Result<()> {
        self.in_bounds(offset, dst.len() as u64)?;
        active::refuse_reading(self.rank())?;
        if dst.is_empty() {
            return Ok(());
        }
        // SAFETY: the range lies inside this memory.
        self.on_stream(Access::Read, |stream| unsafe {
            B::download(stream, self.addr() + offset, dst)
        })?;
        // The wait may have ended because the world failed, with garbage.
        self.rank().check()
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
            B::fill(stream, self.addr() + offset, 0, bytes)
        })
    }

    fn in_bounds(&self, offset: u64, bytes: u64) -> Result<()> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.bytes() => Ok(()),
            _ => Err(Error::Range {
                start: offset as usize,
                end: offset.saturating_add(bytes) as usize,
                len: self.bytes() as usize,
            }),
        }
    }
}

impl<B: Backend> fmt::Debug for Extras<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extras").finish_non_exhaustive()
    }
}
