//! Who needs a buffer's memory beside the buffer: graphs whose captured work uses its address.

use std::cell::{Cell, RefCell};
#[cfg(feature = "cuda")]
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use super::memory::Owned;
use crate::backend::Backend;
use crate::backend::driver::Access;
use crate::capture::uses;
use crate::error::Result;

/// One graph's side of its leases: the stream it is launched on, and what its next launch has to
/// come after.
#[derive(Debug)]
pub(crate) struct Holder<B: Backend> {
    pub(crate) stream: B::Stream,
    /// Streams that used leased memory since the last launch.
    late: RefCell<Vec<B::Stream>>,
    /// Fences of leased memory that kernels took since the last launch, on streams that only the
    /// framework knows.
    fences: RefCell<Vec<Rc<B::Fence>>>,
    /// Whether one of the two holds anything.
    waits: Cell<bool>,
    launches: Cell<u64>,
    /// Graphs on other streams that use some of the same memory.
    peers: RefCell<Vec<Weak<Holder<B>>>>,
}

impl<B: Backend> Holder<B> {
    pub(crate) fn new(stream: &B::Stream) -> Rc<Self> {
        Rc::new(Self {
            stream: stream.clone(),
            late: RefCell::default(),
            fences: RefCell::default(),
            waits: Cell::new(false),
            peers: RefCell::default(),
            launches: Cell::new(0),
        })
    }

    /// Launches so far.
    pub(crate) fn launches(&self) -> u64 {
        self.launches.get()
    }

    /// The graph is gone, and comes after nothing.
    pub(crate) fn clear(&self) {
        self.late.take();
        self.fences.take();
        self.peers.take();
    }

    /// The two graphs use the same memory: launches of one come after those of the other.
    fn meet(self: &Rc<Self>, other: &Rc<Self>) {
        if !B::same_stream(&self.stream, &other.stream) {
            self.peers.borrow_mut().push(Rc::downgrade(other));
            other.peers.borrow_mut().push(Rc::downgrade(self));
            self.launch_after(&other.stream);
        }
    }

    /// The next launch comes after the work that is on `stream` by then.
    pub(crate) fn launch_after(&self, stream: &B::Stream) {
        let mut late = self.late.borrow_mut();
        let known = |other: &B::Stream| B::same_stream(other, stream);
        if !known(&self.stream) && !late.iter().any(known) {
            late.push(stream.clone());
            self.waits.set(true);
        }
    }

    /// The next launch comes after the uses that the fence knows of by then.
    pub(crate) fn launch_after_fence(&self, fence: &Rc<B::Fence>) {
        let mut fences = self.fences.borrow_mut();
        if !fences.iter().any(|known| Rc::ptr_eq(known, fence)) {
            fences.push(Rc::clone(fence));
            self.waits.set(true);
        }
    }

    /// Enqueues the graph behind the other uses of the memory that it leases.
    pub(crate) fn launch(&self, device: &B::Device, graph: &B::Graph) -> Result<()> {
        self.before_launch()?;
        // SAFETY: the graph's captured work uses memory on which this holder has leases, that of its
        // pool's arenas, which live as long as the graph, and what it was told to keep; with its
        // groups it keeps their communicators and windows.
        unsafe { B::launch_graph(device, graph, &self.stream) }?;
        self.launches.set(self.launches.get() + 1);
        for peer in self.peers.borrow().iter().filter_map(Weak::upgrade) {
            peer.launch_after(&self.stream);
        }
        Ok(())
    }

    fn before_launch(&self) -> Result<()> {
        if !self.waits.replace(false) {
            return Ok(());
        }
        for stream in self.late.take() {
            B::wait_stream(&self.stream, &stream)?;
        }
        for fence in self.fences.take() {
            B::fence_before(&fence, &self.stream, Access::Write)?;
        }
        Ok(())
    }
}

/// The graphs that use one buffer's memory.
#[derive(Debug)]
pub(crate) struct Lease<B: Backend> {
    holders: RefCell<Vec<Rc<Holder<B>>>>,
    /// Streams on which graphs with a lease are, or were, launched: other uses wait for them.
    streams: RefCell<Vec<B::Stream>>,
    /// The memory, once its buffer is gone.
    orphan: RefCell<Option<Owned<B>>>,
    /// Whether the buffer is gone, with its memory or without.
    gone: Cell<bool>,
    /// Places that hold addresses for kernel arguments in captures.
    #[cfg(feature = "cuda")]
    addresses: RefCell<BTreeMap<u64, Box<u64>>>,
}

impl<B: Backend> Lease<B> {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            holders: RefCell::default(),
            streams: RefCell::default(),
            orphan: RefCell::default(),
            gone: Cell::new(false),
            #[cfg(feature = "cuda")]
            addresses: RefCell::default(),
        })
    }

    /// Keeps the memory for the holder's graph; `false` if it is kept already.
    pub(crate) fn hold(&self, holder: &Rc<Holder<B>>) -> bool {
        let mut holders = self.holders.borrow_mut();
        if holders.iter().any(|known| Rc::ptr_eq(known, holder)) {
            return false;
        }
        for other in holders.iter() {
            holder.meet(other);
        }
        holders.push(Rc::clone(holder));
        let mut streams = self.streams.borrow_mut();
        let known = streams
            .iter()
            .any(|known| B::same_stream(known, &holder.stream));
        if !known {
            streams.push(holder.stream.clone());
        }
        true
    }

    /// The holder's graph needs the memory no more. Memory that nobody needs is given back behind
    /// the graph's launches.
    pub(crate) fn end(&self, holder: &Rc<Holder<B>>) -> Result<()> {
        self.holders
            .borrow_mut()
            .retain(|known| !Rc::ptr_eq(known, holder));
        match self.holders.borrow().is_empty() {
            true => self
                .orphan
                .take()
                .map_or(Ok(()), |memory| memory.free_behind(&self.streams.borrow())),
            false => Ok(()),
        }
    }

    /// The buffer is gone: its memory stays as long as a graph needs it.
    pub(crate) fn outlive(&self, memory: Owned<B>) {
        self.gone.set(true);
        match self.holders.borrow().is_empty() {
            true => uses::free(memory, &self.streams.borrow()),
            false => *self.orphan.borrow_mut() = Some(memory),
        }
    }

    /// Whether a graph needs the memory.
    pub(crate) fn is_held(&self) -> bool {
        !self.holders.borrow().is_empty()
    }

    /// Streams on which graphs that used the memory were launched.
    pub(crate) fn streams(&self) -> Vec<B::Stream> {
        self.streams.borrow().clone()
    }

    /// Whether the buffer is gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// Makes `stream` wait for the launches of all graphs that used the memory.
    pub(crate) fn before(&self, stream: &B::Stream) -> Result<()> {
        let streams = self.streams.borrow();
        let others = streams
            .iter()
            .filter(|other| !B::same_stream(other, stream));
        others
            .into_iter()
            .try_for_each(|other| B::wait_stream(stream, other))
    }

    /// Whether all launches of graphs that used the memory are on such streams.
    #[cfg(feature = "cuda")]
    pub(crate) fn is_used_on(&self, wanted: impl Fn(&B::Stream) -> bool) -> bool {
        self.streams.borrow().iter().all(wanted)
    }

    /// Notes a use on `stream`, after which the graphs' next launches come.
    pub(crate) fn after(&self, stream: &B::Stream) {
        for holder in self.holders.borrow().iter() {
            holder.launch_after(stream);
        }
    }

    /// Notes that a kernel takes the memory, on a stream that only the framework knows: by the
    /// memory's fence it waits for the graphs' launches, and the next launches for it.
    #[cfg(feature = "cuda")]
    pub(crate) fn taken_by_kernel(&self, fence: &Rc<B::Fence>) -> Result<()> {
        for stream in self.streams.borrow().iter() {
            B::fence_after(fence, stream, Access::Write)?;
        }
        for holder in self.holders.borrow().iter() {
            holder.launch_after_fence(fence);
        }
        Ok(())
    }

    /// A place that holds the address as long as the memory is leased or its buffer lives.
    #[cfg(feature = "cuda")]
    pub(crate) fn address(&self, address: u64) -> *const u64 {
        let mut addresses = self.addresses.borrow_mut();
        let place = addresses
            .entry(address)
            .or_insert_with(|| Box::new(address));
        &raw const **place
    }
}
