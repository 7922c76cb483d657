//! The untyped part of a buffer: whose memory it is, and how it is given back.

pub(super) mod record;

use std::cell::{Cell, OnceCell};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::panic::Location;
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::lease::Holder;
use super::redzone::{Redzone, Zone};
use super::shared_memory::{self, SharedMemory, not_shareable};
use super::uses::Extras;
use crate::StaysOnItsThread;
use crate::backend::Backend;
use crate::backend::driver::Access;
use crate::capture::arena::{GraphArena, GraphBlock};
use crate::capture::{active, uses};
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
    /// The stream on which it was allocated, behind which it is freed; `None` for the world's.
    stream: Option<B::Stream>,
    extras: OnceCell<Box<Extras<B>>>,
}

#[derive(Debug)]
enum Home<B: Backend> {
    /// A block of the group's arena.
    Block {
        group: Arc<GroupCore<B>>,
        block: Block,
    },
    /// A block of a graph pool's arena. This and the next in boxes, so that others are no larger.
    Graph(Box<InGraph<B>>),
    /// Memory of its own.
    Plain(Box<OfItsOwn<B>>),
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

/// Ordinary memory; `group` is set where a scope that is switched off gave it.
#[derive(Debug)]
struct OfItsOwn<B: Backend> {
    memory: B::Plain,
    rank: Arc<Rank<B>>,
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
    /// round registers. An error comes in a box, so that the result is no larger than the memory, which
    /// is copied on its way to the user.
    #[inline(always)]
    pub(crate) fn in_arena(
        group: &Arc<GroupCore<B>>,
        bytes: u64,
        site: &'static Location<'static>,
    ) -> Result<Self, Box<Error>> {
        if routing::has_stream::<B>() || group.world.pool.watch.is_attentive() {
            return Self::in_arena_with(group, bytes, site).map_err(Box::new);
        }
        Self::block(group, bytes, None)
    }

    /// The same on a thread with a stream of its own, with a capture, with redzones, or while the pool
    /// records.
    #[cold]
    fn in_arena_with(
        group: &Arc<GroupCore<B>>,
        bytes: u64,
        site: &'static Location<'static>,
    ) -> Result<Self> {
        if let Some(active) = active::on_this_thread(&group.world) {
            let memory = active.allocate(Some(group), true, bytes)?;
            return Ok(memory.recorded(site));
        }
        let stream = routing::pushed_stream(&group.world);
        match Self::block(group, bytes, stream) {
            Ok(memory) => memory.recorded(site).with_redzone(None),
            Err(error) => Err(*error),
        }
    }

    /// A block of the group's arena for a use on `stream`, or on the world's.
    fn block(
        group: &Arc<GroupCore<B>>,
        bytes: u64,
        stream: Option<B::Stream>,
    ) -> Result<Self, Box<Error>> {
        let on = stream.as_ref().unwrap_or(&group.world.stream);
        let (block, new) = group.arena.allocate(group.member, bytes, on)?;
        if let Some(segment) = new {
            group.touch(block.position.segment, segment);
        }
        let home = Home::Block {
            group: Arc::clone(group),
            block,
        };
        Ok(Self::new(block.addr, bytes, home, stream))
    }

    /// Ordinary memory; in a capture, of the graph pool's private arena.
    pub(crate) fn plain(
        rank: &Arc<Rank<B>>,
        group: Option<&Arc<GroupCore<B>>>,
        bytes: u64,
        site: &'static Location<'static>,
    ) -> Result<Self> {
        rank.check()?;
        if let Some(active) = active::on_this_thread(rank) {
            return active
                .allocate(group, false, bytes)
                .map(|memory| memory.recorded(site));
        }
        let stream = routing::stream(rank);
        let memory = B::alloc_plain(&stream, bytes.max(1))?;
        Ok(Self::of_its_own(rank, group, memory, bytes, stream, site))
    }

    /// Ordinary memory that is there already.
    pub(crate) fn of_its_own(
        rank: &Arc<Rank<B>>,
        group: Option<&Arc<GroupCore<B>>>,
        memory: B::Plain,
        bytes: u64,
        stream: B::Stream,
        site: &'static Location<'static>,
    ) -> Self {
        rank.pool.plain.fetch_add(bytes, Ordering::Relaxed);
        let addr = B::plain_base(&memory);
        let home = Home::Plain(Box::new(OfItsOwn {
            memory,
            rank: Arc::clone(rank),
            group: group.cloned(),
        }));
        Self::new(addr, bytes, home, Some(stream)).recorded(site)
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
        Self::new(addr, bytes, home, Some(stream))
    }

    #[inline]
    fn new(addr: u64, bytes: u64, home: Home<B>, stream: Option<B::Stream>) -> Self {
        let owned = Owned {
            addr,
            bytes,
            home,
            stream,
            extras: OnceCell::new(),
        };
        Self {
            owned: ManuallyDrop::new(owned),
            window: Cell::new((0, 0)),
            _thread: PhantomData,
        }
    }

    /// Puts a redzone behind a block of an arena, if they are on. `graph` is the one whose launches
    /// fill it.
    pub(crate) fn with_redzone(self, graph: Option<&Rc<Holder<B>>>) -> Result<Self> {
        if self.rank().pool.redzones.is_some()
            && let Some(zone) = self.owned.zone()
        {
            self.on_stream(Access::Write, |stream| zone.fill::<B>(stream))?;
            let redzone = &self.extras().redzone;
            redzone.get_or_init(|| Redzone::new(zone, graph));
        }
        Ok(self)
    }

    pub(crate) fn addr(&self) -> u64 {
        self.owned.addr
    }

    /// Bytes of the buffer, at most those of the memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.owned.bytes
    }

    pub(crate) fn stream(&self) -> &B::Stream {
        self.owned.stream()
    }

    pub(crate) fn rank(&self) -> &Arc<Rank<B>> {
        self.owned.rank()
    }

    /// The group whose scope it was allocated in.
    pub(crate) fn group(&self) -> Option<&Arc<GroupCore<B>>> {
        match &self.owned.home {
            Home::Block { group, .. } => Some(group),
            Home::Graph(graph) => graph.group.as_ref(),
            Home::Plain(plain) => plain.group.as_ref(),
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
            Home::Graph(_) | Home::Plain(_) | Home::Shared(_) => None,
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

    /// What few buffers have, made if it is not there.
    pub(super) fn extras(&self) -> &Extras<B> {
        self.owned.extras.get_or_init(Box::default)
    }

    pub(super) fn extras_if_made(&self) -> Option<&Extras<B>> {
        self.owned.extras.get().map(|extras| &**extras)
    }

    /// The memory as all threads may use it, behind its uses so far.
    #[allow(clippy::result_large_err)] // the memory comes back
    pub(crate) fn share(mut self) -> Result<Arc<SharedMemory<B>>, (Self, Error)> {
        let streams = match self.may_share() {
            Ok(streams) => streams,
            Err(error) => return Err((self, error)),
        };
        let owned = &mut *self.owned;
        let stream = owned.stream().clone();
        let zone = owned.extras.get_mut().and_then(|extras| {
            extras.fence.take();
            extras.redzone.take()
        });
        let taken = Home::Shared(Arc::clone(owned.rank()));
        let home = match std::mem::replace(&mut owned.home, taken) {
            Home::Block { group, block } => {
                group.arena.share();
                let zone = zone.map(Redzone::into_zone);
                shared_memory::Home::Block { group, block, zone }
            }
            Home::Plain(plain) => shared_memory::Home::Plain {
                memory: Mutex::new(Some(plain.memory)),
                rank: plain.rank,
                group: plain.group,
                bytes: owned.bytes,
            },
            other @ (Home::Graph(_) | Home::Shared(_)) => {
                owned.home = other;
                return Err((self, not_shareable("it is being dropped")));
            }
        };
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
        let Some(extras) = self.extras_if_made() else {
            return Ok(Vec::new());
        };
        let lease = extras.lease.get();
        if lease.is_some_and(|lease| lease.is_held()) {
            return Err(not_shareable(
                "a graph that was captured before uses it: share it before the capture, or drop the graph",
            ));
        }
        if let Some(fence) = extras.fence.get() {
            B::fence_before(fence, self.stream(), Access::Write)?;
        }
        Ok(lease.map_or_else(Vec::new, |lease| lease.streams()))
    }
}

impl<B: Backend> Owned<B> {
    pub(crate) fn rank(&self) -> &Arc<Rank<B>> {
        match &self.home {
            Home::Block { group, .. } => &group.world,
            Home::Graph(graph) => graph.arena.rank(),
            Home::Plain(plain) => &plain.rank,
            Home::Shared(rank) => rank,
        }
    }

    #[inline]
    fn stream(&self) -> &B::Stream {
        self.stream.as_ref().unwrap_or(&self.rank().stream)
    }

    pub(crate) fn graph_block(&self) -> Option<(&Rc<GraphArena<B>>, &GraphBlock)> {
        match &self.home {
            Home::Graph(graph) => Some((&graph.arena, &graph.block)),
            Home::Block { .. } | Home::Plain(_) | Home::Shared(_) => None,
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
            Home::Plain(_) | Home::Shared(_) => return None,
        };
        Some(Zone {
            arena: arena.into(),
            block,
            buffer: self.bytes,
        })
    }

    /// Gives the memory back behind the work on `streams`.
    pub(crate) fn free_behind(self, streams: &[B::Stream]) -> Result<()> {
        let own = self.stream();
        let mut others = streams.iter().filter(|stream| !B::same_stream(stream, own));
        others.try_for_each(|stream| B::wait_stream(own, stream))
    }
}

impl<B: Backend> Drop for Memory<B> {
    fn drop(&mut self) {
        let bare = self.owned.extras.get().is_none() && !routing::has_pass::<B>();
        let Owned { home, stream, .. } = &mut *self.owned;
        if let (true, Home::Block { group, block }) = (bare, home) {
            // What most buffers come to: the same as for any `Owned`, in fewer steps.
            group
                .arena
                .release(block, stream.as_ref().unwrap_or(&group.world.stream));
            // SAFETY: both are dropped once, here: `owned` is not used after it.
            unsafe {
                ptr::drop_in_place(group);
                ptr::drop_in_place(stream);
            }
            return;
        }
        // SAFETY: taken once, here, and not used after it.
        free(unsafe { ManuallyDrop::take(&mut self.owned) });
    }
}

#[cold]
fn free<B: Backend>(mut owned: Owned<B>) {
    let extras = owned.extras.get_mut();
    match extras.and_then(|extras| extras.lease.take()) {
        Some(lease) => lease.outlive(owned),
        None => uses::free(owned, &[]),
    }
}

impl<B: Backend> Drop for Owned<B> {
    fn drop(&mut self) {
        if let Some(extras) = self.extras.take() {
            extras.end(self.rank(), self.stream());
        }
        match &self.home {
            Home::Block { group, block } => group.arena.release(block, self.stream()),
            Home::Graph(graph) => graph.arena.release(&graph.block, self.stream()),
            // Before it is freed: another thread may get the same address at once.
            Home::Plain(plain) => record::gave_plain(&plain.rank, self.addr, self.bytes),
            Home::Shared(_) => {}
        }
    }
}
