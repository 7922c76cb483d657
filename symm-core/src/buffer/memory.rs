//! The untyped part of a buffer: whose memory it is, and the order of its uses.

use std::cell::{Cell, OnceCell};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::lease::{Holder, Lease};
use super::redzone::{Redzone, Zone};
use super::shared_memory::{self, SharedMemory, not_shareable};
use crate::StaysOnItsThread;
use crate::backend::Backend;
use crate::backend::driver::Access;
use crate::capture::active;
use crate::capture::arena::{GraphArena, GraphBlock};
use crate::error::{Error, Result};
use crate::group::core::GroupCore;
use crate::group::world::Rank;
use crate::pool::arena::{ArenaId, Block};
use crate::scope::routing;

/// Memory that a buffer owns. Not `Send`: where a free falls among the allocations is part of the
/// arena's history, so it happens on the thread that allocates, in program order.
#[derive(Debug)]
pub(crate) struct Memory<B: Backend> {
    /// Dropped with the buffer, or handed to the graphs that need it.
    owned: ManuallyDrop<Owned<B>>,
    /// Made when a capture first uses the memory.
    lease: OnceCell<Rc<Lease<B>>>,
    /// The address of the window, and of which of the group's communicators: the window of a segment
    /// that has a block goes with the communicator only.
    window: Cell<(u64, usize)>,
    _thread: PhantomData<StaysOnItsThread>,
}

/// The memory itself; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Owned<B: Backend> {
    addr: u64,
    bytes: u64,
    home: Home<B>,
    /// The stream on which it was allocated, behind which it is freed.
    stream: B::Stream,
    /// Made at the first use on another stream, or by a kernel.
    fence: OnceCell<Rc<B::Fence>>,
    redzone: Option<Box<Redzone<B>>>,
}

#[derive(Debug)]
enum Home<B: Backend> {
    /// A block of the group's arena.
    Block {
        group: Arc<GroupCore<B>>,
        block: Block,
    },
    /// A block of a graph pool's arena. In a box, so that other buffers are no larger for it.
    Graph(Box<InGraph<B>>),
    /// Memory of its own; `group` is set where a scope that is switched off gave it.
    Plain {
        memory: Option<B::Plain>,
        rank: Arc<Rank<B>>,
        group: Option<Arc<GroupCore<B>>>,
    },
    /// It is a shared buffer's now, of this rank.
    Shared(Arc<Rank<B>>),
}

/// A block of a graph pool's arena; `group` is set where a scope gave it.
#[derive(Debug)]
struct InGraph<B: Backend> {
    arena: Rc<GraphArena<B>>,
    block: GraphBlock,
    group: Option<Arc<GroupCore<B>>>,
}

/// Where memory lies that can be in a window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a, B: Backend> {
    /// The group whose scope it was allocated in.
    pub(crate) group: &'a Arc<GroupCore<B>>,
    pub(crate) arena: ArenaId,
    pub(crate) block: &'a Block,
}

impl<B: Backend> Place<'_, B> {
    /// The handle of the window that it lies in.
    pub(crate) fn window(&self) -> Option<*mut c_void> {
        let segment = self.block.position.segment;
        self.group
            .with_ledger(|ledger| ledger.window(self.arena, segment).map(B::window_handle))
    }
}

impl<B: Backend> Memory<B> {
    /// A block of the group's arena, or in a capture of the graph pool's, which the group's next
    /// round registers.
    #[inline]
    pub(crate) fn in_arena(group: &Arc<GroupCore<B>>, bytes: u64) -> Result<Self> {
        if let Some(active) = active::on_this_thread(&group.world) {
            return active.allocate(Some(group), true, bytes);
        }
        let stream = routing::stream(&group.world);
        let (block, new) = group.arena.allocate(group.member, bytes, &stream)?;
        if let Some(segment) = new {
            group.touch(block.position.segment, segment);
        }
        let home = Home::Block {
            group: Arc::clone(group),
            block,
        };
        let mut memory = Self::new(block.addr, bytes, home, stream);
        if group.world.pool.redzones.is_some() {
            memory.add_redzone(None)?;
        }
        Ok(memory)
    }

    /// Ordinary memory; in a capture, of the graph pool's private arena.
    pub(crate) fn plain(
        rank: &Arc<Rank<B>>,
        group: Option<&Arc<GroupCore<B>>>,
        bytes: u64,
    ) -> Result<Self> {
        rank.check()?;
        if let Some(active) = active::on_this_thread(rank) {
            return active.allocate(group, false, bytes);
        }
        let stream = routing::stream(rank);
        let memory = B::alloc_plain(&stream, bytes.max(1))?;
        Ok(Self::of_its_own(rank, group, memory, bytes, stream))
    }

    /// Ordinary memory that is there already.
    pub(crate) fn of_its_own(
        rank: &Arc<Rank<B>>,
        group: Option<&Arc<GroupCore<B>>>,
        memory: B::Plain,
        bytes: u64,
        stream: B::Stream,
    ) -> Self {
        rank.pool.plain.fetch_add(bytes, Ordering::Relaxed);
        let addr = B::plain_base(&memory);
        let home = Home::Plain {
            memory: Some(memory),
            rank: Arc::clone(rank),
            group: group.cloned(),
        };
        Self::new(addr, bytes, home, stream)
    }

    /// A block of a graph pool, allocated in the pass that is active.
    pub(crate) fn of_graphs(
        arena: &Rc<GraphArena<B>>,
        group: Option<&Arc<GroupCore<B>>>,
        block: GraphBlock,
        bytes: u64,
        stream: B::Stream,
    ) -> Self {
        let addr = block.block.addr;
        let home = Home::Graph(Box::new(InGraph {
            arena: Rc::clone(arena),
            block,
            group: group.cloned(),
        }));
        Self::new(addr, bytes, home, stream)
    }

    #[inline]
    fn new(addr: u64, bytes: u64, home: Home<B>, stream: B::Stream) -> Self {
        let owned = Owned {
            addr,
            bytes,
            home,
            stream,
            fence: OnceCell::new(),
            redzone: None,
        };
        Self {
            owned: ManuallyDrop::new(owned),
            lease: OnceCell::new(),
            window: Cell::new((0, 0)),
            _thread: PhantomData,
        }
    }

    /// Puts a redzone behind a block of an arena, if they are on. `graph` is the one whose launches
    /// fill it.
    pub(crate) fn with_redzone(mut self, graph: Option<&Rc<Holder<B>>>) -> Result<Self> {
        if self.rank().pool.redzones.is_some() {
            self.add_redzone(graph)?;
        }
        Ok(self)
    }

    #[cold]
    fn add_redzone(&mut self, graph: Option<&Rc<Holder<B>>>) -> Result<()> {
        if let Some(zone) = self.owned.zone() {
            self.on_stream(Access::Write, |stream| zone.fill::<B>(stream))?;
            self.owned.redzone = Some(Redzone::new(zone, graph));
        }
        Ok(())
    }

    pub(crate) fn addr(&self) -> u64 {
        self.owned.addr
    }

    pub(crate) fn stream(&self) -> &B::Stream {
        &self.owned.stream
    }

    pub(crate) fn rank(&self) -> &Arc<Rank<B>> {
        self.owned.rank()
    }

    /// The group whose scope it was allocated in.
    pub(crate) fn group(&self) -> Option<&Arc<GroupCore<B>>> {
        match &self.owned.home {
            Home::Block { group, .. } => Some(group),
            Home::Graph(graph) => graph.group.as_ref(),
            Home::Plain { group, .. } => group.as_ref(),
            Home::Shared(_) => None,
        }
    }

    /// Where it lies, if that is an arena of symmetric memory.
    #[inline]
    pub(crate) fn place(&self) -> Option<Place<'_, B>> {
        match &self.owned.home {
            Home::Block { group, block } => Some(Place {
                group,
                arena: group.arena.id,
                block,
            }),
            Home::Graph(graph) if graph.arena.is_symmetric() => Some(Place {
                group: graph.group.as_ref()?,
                arena: graph.arena.id(),
                block: &graph.block.block,
            }),
            Home::Graph(_) | Home::Plain { .. } | Home::Shared(_) => None,
        }
    }

    /// The window of its place; looked up once.
    #[inline]
    pub(crate) fn window(&self, place: &Place<'_, B>) -> Option<*mut c_void> {
        let (of, address) = self.window.get();
        let link = place.group.links();
        if of == link {
            return Some(ptr::with_exposed_provenance_mut(address));
        }
        let handle = place.window()?;
        self.window.set((link, handle.expose_provenance()));
        Some(handle)
    }

    /// The block of a graph pool that it owns, if it does.
    pub(crate) fn graph_block(&self) -> Option<(&Rc<GraphArena<B>>, &GraphBlock)> {
        self.owned.graph_block()
    }

    /// The memory as all threads may use it, behind its uses so far.
    #[allow(clippy::result_large_err)] // the memory comes back
    pub(crate) fn share(mut self) -> Result<Arc<SharedMemory<B>>, (Self, Error)> {
        let streams = match self.may_share() {
            Ok(streams) => streams,
            Err(error) => return Err((self, error)),
        };
        let owned = &mut *self.owned;
        owned.fence.take();
        let zone = owned.redzone.take().map(|redzone| redzone.into_zone());
        let taken = Home::Shared(Arc::clone(owned.rank()));
        let home = match std::mem::replace(&mut owned.home, taken) {
            Home::Block { group, block } => {
                group.arena.share();
                shared_memory::Home::Block { group, block, zone }
            }
            Home::Plain {
                memory,
                rank,
                group,
            } => shared_memory::Home::Plain {
                memory: Mutex::new(memory),
                rank,
                group,
                bytes: owned.bytes,
            },
            other @ (Home::Graph(_) | Home::Shared(_)) => {
                owned.home = other;
                return Err((self, not_shareable("it is being dropped")));
            }
        };
        let stream = owned.stream.clone();
        Ok(SharedMemory::new(owned.addr, home, stream, streams))
    }

    /// Whether it can be shared; makes its own stream, and those that are returned, the only ones
    /// that later uses have to wait for.
    fn may_share(&self) -> Result<Vec<B::Stream>> {
        active::refuse(
            self.rank(),
            "sharing a buffer",
            "the graph would leave the thread with it: share it before the capture",
        )?;
        if let Home::Graph(_) = self.owned.home {
            return Err(not_shareable(
                "it is memory of a graph pool, which stays on its thread: copy it to a buffer that was made outside of captures",
            ));
        }
        let lease = self.lease.get();
        if lease.is_some_and(|lease| lease.is_held()) {
            return Err(not_shareable(
                "a graph that was captured before uses it: share it before the capture, or drop the graph",
            ));
        }
        if let Some(fence) = self.owned.fence.get() {
            B::fence_before(fence, self.stream(), Access::Write)?;
        }
        Ok(lease.map_or_else(Vec::new, |lease| lease.streams()))
    }

    /// What holds the memory for graphs; made when it is first asked for.
    pub(crate) fn lease(&self) -> &Rc<Lease<B>> {
        self.lease.get_or_init(Lease::new)
    }

    /// Makes `stream` wait for the uses of this memory that `access` conflicts with.
    pub(crate) fn before(&self, stream: &B::Stream, access: Access) -> Result<()> {
        if let Some(capture) = active::capture_on_this_thread(self.rank()) {
            return capture.before_use(self, stream, access);
        }
        if let Some(lease) = self.lease.get() {
            lease.before(stream)?;
        }
        match self.owned.fence.get() {
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
        if let Some(lease) = self.lease.get() {
            lease.after(stream);
        }
        match self.owned.fence.get() {
            Some(fence) => B::fence_after(fence, stream, access),
            None => Ok(()),
        }
    }

    /// The fence, behind all that the owner's stream holds now if it is new.
    pub(crate) fn fence(&self) -> Result<&Rc<B::Fence>> {
        if let Some(fence) = self.owned.fence.get() {
            return Ok(fence);
        }
        // SAFETY: the memory is this buffer's, and the fence is dropped with it, before the memory
        // is given back; graphs that share the fence have a lease on the memory.
        let fence = unsafe { B::fence(self.stream(), self.addr(), self.owned.bytes.max(1)) }?;
        Ok(self.owned.fence.get_or_init(|| Rc::new(fence)))
    }

    /// The fence, if the memory was used on more than its own stream, or by a kernel.
    pub(crate) fn fence_if_made(&self) -> Option<&Rc<B::Fence>> {
        self.owned.fence.get()
    }

    /// The lease, if a capture used the memory.
    #[cfg(feature = "cuda")]
    pub(crate) fn lease_if_made(&self) -> Option<&Rc<Lease<B>>> {
        self.lease.get()
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
        active::refuse(
            self.rank(),
            "reading a buffer",
            "nothing has run yet: return the buffer from the step, and read graph.output() after a launch",
        )?;
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
            Some(end) if end <= self.owned.bytes => Ok(()),
            _ => Err(Error::Range {
                start: offset as usize,
                end: offset.saturating_add(bytes) as usize,
                len: self.owned.bytes as usize,
            }),
        }
    }
}

impl<B: Backend> Owned<B> {
    pub(crate) fn rank(&self) -> &Arc<Rank<B>> {
        match &self.home {
            Home::Block { group, .. } => &group.world,
            Home::Graph(graph) => graph.arena.rank(),
            Home::Plain { rank, .. } | Home::Shared(rank) => rank,
        }
    }

    pub(crate) fn graph_block(&self) -> Option<(&Rc<GraphArena<B>>, &GraphBlock)> {
        match &self.home {
            Home::Graph(graph) => Some((&graph.arena, &graph.block)),
            Home::Block { .. } | Home::Plain { .. } | Home::Shared(_) => None,
        }
    }

    pub(crate) fn addr(&self) -> u64 {
        self.addr
    }

    fn zone(&self) -> Option<Zone> {
        let (arena, block) = match &self.home {
            Home::Block { group, block } => (group.arena.name().into(), *block),
            Home::Graph(graph) => {
                let arena = format!("{} of a graph pool", graph.arena.name());
                (arena, graph.block.block)
            }
            Home::Plain { .. } | Home::Shared(_) => return None,
        };
        Some(Zone {
            arena: arena.into(),
            block,
            buffer: self.bytes,
        })
    }

    /// Gives the memory back behind the work on `streams`.
    pub(crate) fn free_behind(self, streams: &[B::Stream]) -> Result<()> {
        let others = streams
            .iter()
            .filter(|stream| !B::same_stream(stream, &self.stream));
        others
            .into_iter()
            .try_for_each(|stream| B::wait_stream(&self.stream, stream))
    }
}

impl<B: Backend> Drop for Memory<B> {
    fn drop(&mut self) {
        let lease = self.lease.get();
        if lease.is_none() && !routing::has_pass::<B>() {
            // SAFETY: dropped once, here, and not used after it.
            return unsafe { ManuallyDrop::drop(&mut self.owned) };
        }
        // SAFETY: taken once, here, and not used after it.
        let owned = unsafe { ManuallyDrop::take(&mut self.owned) };
        match lease {
            Some(lease) => lease.outlive(owned),
            None => active::free(owned, &[]),
        }
    }
}

impl<B: Backend> Drop for Owned<B> {
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
        if let Some(redzone) = self.redzone.take() {
            redzone.check(self.rank(), &self.stream);
        }
        match &mut self.home {
            Home::Block { group, block } => group.arena.release(block, &self.stream),
            Home::Graph(graph) => graph.arena.release(&graph.block, &self.stream),
            Home::Plain { memory, rank, .. } => {
                drop(memory.take());
                rank.pool.plain.fetch_sub(self.bytes, Ordering::Relaxed);
            }
            Home::Shared(_) => {}
        }
    }
}
