//! The prime or capture that is under way on a thread: where allocations go meanwhile, which groups
//! and streams take part, and what it refuses.

use std::any::Any;
use std::cell::{RefCell, RefMut};
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::arena::Miss;
use super::pool::PoolState;
use super::stats::CapturedCall;
use super::uses::Uses;
use super::{Pass, compare, graph};
use crate::backend::{Backend, defects};
use crate::buffer::lease::{Holder, Lease};
use crate::buffer::memory::{Memory, Owned};
use crate::buffer::redzone::Copies;
use crate::error::{Error, Result};
use crate::group::core::GroupCore;
use crate::group::twin::Lane;
use crate::group::world::Rank;
use crate::pool::watch::Spot;
use crate::registration::ledger::Standing;
use crate::scope::routing;
use crate::site::Site;

/// From this version on NCCL registers windows in a capture by itself (`nccl.md`, section 3).
const REGISTERS_IN_CAPTURE: u32 = 23_006;

/// A pass that is under way.
pub(crate) struct Active<B: Backend> {
    pub(crate) pool: Rc<PoolState<B>>,
    pub(crate) pass: Pass,
    pub(crate) site: Site,
    /// The stream that is captured, and the thread's current one unless a stream scope says
    /// otherwise.
    pub(crate) stream: B::Stream,
    /// The graph's side of its leases.
    pub(crate) holder: Rc<Holder<B>>,
    pub(super) found: RefCell<Found<B>>,
}

/// What was found out so far.
pub(crate) struct Found<B: Backend> {
    /// Streams that take part: the captured one first.
    streams: Vec<B::Stream>,
    /// Uses of memory in this capture, by its address.
    pub(super) uses: HashMap<u64, Uses<B>>,
    /// Groups that were used, in this order.
    pub(crate) groups: Vec<Arc<GroupCore<B>>>,
    /// Memory from elsewhere that the graph keeps.
    pub(crate) leases: Vec<Rc<Lease<B>>>,
    /// Where in arenas it lies, that of shared buffers too.
    pub(crate) leased: Vec<Spot>,
    /// Memory that was made here.
    pub(crate) made: Vec<(Rc<Lease<B>>, u64)>,
    /// Memory from elsewhere that was freed meanwhile: the capture must not see it.
    pub(super) deferred: Vec<(Owned<B>, Vec<B::Stream>)>,
    /// Graphs that were dropped meanwhile.
    pub(super) dropped: Vec<graph::Owned<B>>,
    pub(crate) calls: Vec<CapturedCall>,
    /// For each call the group's number, and what ranks compare.
    pub(crate) compared: Vec<(u64, [u64; 4])>,
    pub(crate) kept: Vec<Box<dyn Any + Send>>,
    /// Of blocks that were freed in the capture.
    pub(crate) redzones: Copies<B>,
    /// For each group, the communicator that was used last and its stream.
    pub(super) lanes: Vec<(u64, Lane, B::Stream)>,
    /// The first thing that makes the capture worthless.
    failed: Option<Error>,
}

impl<B: Backend> Active<B> {
    pub(crate) fn new(
        pool: &Rc<PoolState<B>>,
        pass: Pass,
        stream: &B::Stream,
        site: Site,
        groups: Vec<Arc<GroupCore<B>>>,
    ) -> Rc<Self> {
        Rc::new(Self {
            pool: Rc::clone(pool),
            pass,
            site,
            stream: stream.clone(),
            holder: Holder::new(stream),
            found: RefCell::new(Found {
                streams: vec![stream.clone()],
                uses: HashMap::new(),
                groups,
                leases: Vec::new(),
                leased: Vec::new(),
                made: Vec::new(),
                deferred: Vec::new(),
                dropped: Vec::new(),
                calls: Vec::new(),
                compared: Vec::new(),
                kept: Vec::new(),
                redzones: Copies::default(),
                lanes: Vec::new(),
                failed: None,
            }),
        })
    }

    /// Whether work is recorded, not run.
    pub(crate) fn is_capture(&self) -> bool {
        self.pass == Pass::Capture
    }

    pub(crate) fn is_of(&self, rank: &Arc<Rank<B>>) -> bool {
        Arc::ptr_eq(&self.pool.rank, rank)
    }

    /// Memory for a scope of the group, symmetric if the scope is switched on; without a group,
    /// memory outside scopes.
    pub(crate) fn allocate(
        &self,
        group: Option<&Arc<GroupCore<B>>>,
        symmetric: bool,
        bytes: u64,
    ) -> Result<Memory<B>> {
        self.place(group, symmetric, bytes)
            .inspect_err(|error| self.fail(error))
    }

    fn place(
        &self,
        group: Option<&Arc<GroupCore<B>>>,
        symmetric: bool,
        bytes: u64,
    ) -> Result<Memory<B>> {
        self.check()?;
        let stream = routing::stream(&self.pool.rank);
        self.join(&stream)?;
        let of = group.filter(|_| symmetric);
        let arena = self.pool.arena(of, self.pass);
        if let Some(group) = group {
            self.uses_group(group);
        }
        let miss = match self.pass {
            Pass::Prime => Miss::Grow,
            Pass::Capture if !self.pool.options.growth => Miss::Refuse,
            Pass::Capture => match of {
                Some(group) if !registers_in_capture(group) => Miss::Refuse,
                _ => Miss::Grow,
            },
        };
        let block = arena.allocate(bytes, &stream, miss, self.site)?;
        if let Some(group) = of {
            let segment = block.block.position.segment;
            let standing = group.link().ledger().standing(arena.id(), segment);
            if miss == Miss::Refuse && standing == Standing::None && group.size() > 1 {
                let have = 0; // of memory that is registered with this group
                arena.release(&block, &stream);
                return Err(Error::CaptureMiss {
                    arena: group.label().into(),
                    need: block.block.bytes,
                    have,
                    site: self.site,
                });
            }
            arena.touch(group, segment);
        }
        let graph = (self.pass == Pass::Capture).then_some(&self.holder);
        let memory = Memory::of_graphs(&arena, group, block, bytes, stream).with_redzone(graph)?;
        let made = (Rc::clone(memory.lease()), block.block.bytes);
        self.found.borrow_mut().made.push(made);
        Ok(memory)
    }

    /// Has the graph keep a value.
    pub(crate) fn keep_value(&self, value: Box<dyn Any + Send>) {
        self.found.borrow_mut().kept.push(value);
    }

    /// The stream of this capture that is wanted; that there is none makes the capture worthless.
    #[cfg(feature = "cuda")]
    pub(crate) fn own_stream(&self, wanted: impl Fn(&B::Stream) -> bool) -> Result<B::Stream> {
        let found = self.found.borrow();
        let own = found.streams.iter().find(|stream| wanted(stream)).cloned();
        drop(found);
        own.ok_or_else(|| {
            let error = Error::InCapture {
                what: "work on a stream that takes no part",
                why: "it would run now and not in replays: make it the current one with world.on_stream(&stream)",
                site: self.site,
            };
            self.fail(&error);
            error
        })
    }

    /// A stream takes part from now on: it waits for the captured one.
    pub(crate) fn join(&self, stream: &B::Stream) -> Result<()> {
        let mut found = self.found.borrow_mut();
        let known = |other: &B::Stream| B::same_stream(other, stream);
        if !found.streams.iter().any(known) {
            B::wait_stream(stream, &self.stream)?;
            found.streams.push(stream.clone());
        }
        Ok(())
    }

    /// Makes the captured stream wait for all others that took part.
    pub(crate) fn join_back(&self) -> Result<()> {
        let streams = self.found.borrow().streams.clone();
        let others = streams.iter().skip(1);
        others
            .into_iter()
            .try_for_each(|other| B::wait_stream(&self.stream, other))
    }

    /// The group takes part.
    pub(crate) fn uses_group(&self, group: &Arc<GroupCore<B>>) {
        let mut found = self.found.borrow_mut();
        if !found.groups.iter().any(|known| Arc::ptr_eq(known, group)) {
            found.groups.push(Arc::clone(group));
        }
    }

    /// A collective is part of the pass.
    pub(crate) fn called(&self, group: &Arc<GroupCore<B>>, call: CapturedCall) {
        self.uses_group(group);
        let mut found = self.found.borrow_mut();
        found
            .compared
            .push((group.generation, compare::of_call(&call)));
        found.calls.push(call);
    }

    /// The capture is of no use: whatever the step makes of the error, it does not become a graph.
    pub(crate) fn fail(&self, error: &Error) {
        self.found
            .borrow_mut()
            .failed
            .get_or_insert_with(|| error.clone());
    }

    /// Whether symmetric kernels of this NCCL, captured now, would read too early: see
    /// [`EARLY_READ`](defects::EARLY_READ).
    pub(crate) fn reads_early(&self, version: u32) -> bool {
        defects::EARLY_READ.affects(version) && !self.pool.options.early_reads
    }

    /// The first thing that made the capture worthless.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.found.borrow().failed {
            Some(error) if self.pass == Pass::Capture => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Keeps a graph that is dropped during the capture until its end.
    pub(crate) fn defer_graph(&self, graph: graph::Owned<B>) {
        self.found.borrow_mut().dropped.push(graph);
    }

    /// Groups that take part.
    pub(crate) fn groups(&self) -> Vec<Arc<GroupCore<B>>> {
        self.found.borrow().groups.clone()
    }

    /// What was found out.
    pub(crate) fn found(&self) -> RefMut<'_, Found<B>> {
        self.found.borrow_mut()
    }
}

/// The pass that is under way on this thread for the rank.
#[inline]
pub(crate) fn on_this_thread<B: Backend>(rank: &Arc<Rank<B>>) -> Option<Rc<Active<B>>> {
    routing::active(|active| active.is_of(rank))
}

/// The same, if it is a capture.
#[inline]
pub(crate) fn capture_on_this_thread<B: Backend>(rank: &Arc<Rank<B>>) -> Option<Rc<Active<B>>> {
    routing::active(|active| active.is_of(rank) && active.pass == Pass::Capture)
}

/// Whether a pass may begin on this thread.
pub(crate) fn may_begin<B: Backend>(rank: &Arc<Rank<B>>, stream: &B::Stream) -> Result<()> {
    rank.check()?;
    if let Some(active) = on_this_thread(rank) {
        return Err(Error::InCapture {
            what: "another capture, or a prime",
            why: "end the one that is open first",
            site: active.site,
        });
    }
    match B::stream_on(&rank.device, stream) {
        true => Ok(()),
        false => Err(Error::WrongDevice {
            what: "capture: the stream".into(),
            found: "another device".into(),
            device: B::describe(&rank.device).into(),
        }),
    }
}

/// Refuses what a capture cannot hold, before CUDA would and breaks the capture.
pub(crate) fn refuse<B: Backend>(
    rank: &Arc<Rank<B>>,
    what: &'static str,
    why: &'static str,
) -> Result<()> {
    match capture_on_this_thread(rank) {
        None => Ok(()),
        Some(capture) => {
            let error = Error::InCapture {
                what,
                why,
                site: capture.site,
            };
            capture.fail(&error);
            Err(error)
        }
    }
}

/// Refuses to read memory that only a launch will fill.
pub(crate) fn refuse_reading<B: Backend>(rank: &Arc<Rank<B>>) -> Result<()> {
    refuse(
        rank,
        "reading a buffer",
        "nothing has run yet: return the buffer from the step, and read graph.output() after a launch",
    )
}

/// Whether the group may register what is pending now: not in a capture, unless that was asked for.
pub(crate) fn may_register<B: Backend>(group: &GroupCore<B>) -> Result<()> {
    let Some(capture) = capture_on_this_thread(&group.world) else {
        return Ok(());
    };
    if capture.pool.options.growth && registers_in_capture(group) {
        return Ok(());
    }
    let error = Error::InCapture {
        what: "registering a window",
        why: "it waits for peers, and the captured kernels could not use it: name the group in Need, or close its scopes before the capture",
        site: capture.site,
    };
    capture.fail(&error);
    Err(error)
}

/// Whether windows may be made in a capture.
fn registers_in_capture<B: Backend>(group: &GroupCore<B>) -> bool {
    group.link().version >= REGISTERS_IN_CAPTURE
}

impl<B: Backend> fmt::Debug for Active<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Active")
            .field("pass", &self.pass)
            .field("site", &self.site)
            .finish_non_exhaustive()
    }
}
