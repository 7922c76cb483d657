//! A graph, which owns what its captured work uses.

use std::any::Any;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::active::{self, Active};
use super::pool::PoolState;
use super::stats::{CapturedCall, GraphStats};
use crate::Cuda;
use crate::agreement::fingerprint;
use crate::agreement::record::{ArenaMark, Record, What};
use crate::backend::Backend;
use crate::buffer::lease::{Holder, Lease};
use crate::buffer::redzone::Copies;
use crate::error::{Error, Result};
use crate::group::agree;
use crate::group::core::GroupCore;
use crate::group::link::Link;
use crate::group::path::Path;
use crate::group::twin::Lane;
use crate::pool::watch::GraphNote;
use crate::range;
use crate::site::Site;
use crate::trace;

/// Captured work that can be launched any number of times, with what the step returned.
///
/// It owns every byte that its work touches: buffers that were made in the capture, and **leases** on
/// those from outside that were used in it, whether they live on or not. It keeps its groups, so
/// that their communicators are destroyed behind it, and what it was told to
/// [`keep`](Graph::keep). Dropping it gives all of that back, behind its last launch, and never
/// waits.
///
/// Stays on the thread of its pool. Made by [`GraphPool::capture`](crate::GraphPool::capture).
///
/// ```
/// use symm_core::{Buf, GraphPool, Host, Result, World, plain};
///
/// World::<Host>::run(1, |world| {
///     let graphs = GraphPool::new(world.pool());
///     let mut input: Buf<f32, Host> = Buf::zeros(2)?;
///     let mut copy = graphs.capture(world.stream(), |_pass| -> Result<_> {
///         let mut output = Buf::<f32, Host>::empty(2)?;
///         output.copy_from(plain(&input))?;
///         Ok(output)
///     })?;
///     for round in [1.0, 2.0] {
///         input.copy_from_slice(&[round; 2])?;
///         copy.launch()?;
///         assert_eq!(copy.output().to_vec()?, [round; 2]);
///     }
///     assert_eq!(copy.stats().nodes, ["copy"]);
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
pub struct Graph<O, B: Backend = Cuda> {
    output: O,
    core: GraphCore<B>,
    stream: B::Stream,
}

/// What a graph owns; without a graph, what a capture came to own before it failed.
pub(crate) struct GraphCore<B: Backend> {
    /// `None` only while it is being dropped.
    owned: Option<Owned<B>>,
}

/// A group that the captured work uses.
struct Bound<B: Backend> {
    group: Arc<GroupCore<B>>,
    /// The communicator that was captured: it is destroyed behind the graph, also when the world
    /// was rebuilt and the group has another one.
    link: Arc<Link<B>>,
    /// Of what the ranks of the group captured, which is the same on all of them.
    digest: u64,
}

/// Given back when it is dropped.
pub(crate) struct Owned<B: Backend> {
    pool: Rc<PoolState<B>>,
    graph: Option<B::Graph>,
    /// The graph's number in its pool.
    number: u64,
    holder: Rc<Holder<B>>,
    /// Memory from elsewhere.
    leases: Vec<Rc<Lease<B>>>,
    /// Memory that was made in the capture and outlived it.
    made: Vec<Rc<Lease<B>>>,
    made_bytes: u64,
    groups: Vec<Bound<B>>,
    kept: Vec<Box<dyn Any + Send>>,
    calls: Vec<CapturedCall>,
    site: Site,
    redzones: Copies<B>,
}

impl<O, B: Backend> Graph<O, B> {
    pub(crate) fn new(core: GraphCore<B>, output: O, stream: B::Stream) -> Self {
        Self {
            output,
            core,
            stream,
        }
    }

    /// Enqueues the captured work on the stream that was captured, behind the pool's earlier
    /// launches and the uses of the graph's buffers on other streams. All ranks of the graph's
    /// groups launch it at the same point; ranks that launch different graphs are told, and nothing
    /// hangs.
    ///
    /// ```
    /// # use symm_core::{Buf, GraphPool, Host, World, host, plain_mut};
    /// # World::<Host>::run(1, |world| {
    /// # let graphs = GraphPool::new(world.pool());
    /// let mut count: Buf<f32, Host> = Buf::zeros(1)?;
    /// let mut graph = graphs.capture(world.stream(), |_pass| {
    ///     host::launch([], [plain_mut(&mut count)], |[], [count]| count[0] += 1.0)
    /// })?;
    /// assert_eq!(count.to_vec()?, [1.0]); // the prime's
    /// graph.launch()?;
    /// graph.launch()?;
    /// assert_eq!(count.to_vec()?, [3.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Poisoned`], [`Error::RanksDiffer`], [`Error::InCapture`]; [`Error::StaleGraph`] when
    /// the world was rebuilt since the capture; those of the backend.
    #[track_caller]
    pub fn launch(&mut self) -> Result<()> {
        let here = Site::caller();
        let owned = self.core.owned()?;
        let rank = &owned.pool.rank;
        rank.check()?;
        let _range = range::local!(owned.number, "graph launch");
        active::refuse(
            rank,
            "launching a graph",
            "a graph of graphs is not supported: launch one after the other",
        )?;
        owned.agree(here)?;
        owned.pool.order.follow(&owned.holder.stream)?;
        for bound in &owned.groups {
            bound.link.order_lanes(Lane::Both, &owned.holder.stream)?;
        }
        if let Some(graph) = &owned.graph {
            let _launching = rank.vitals.launching()?;
            let launched = owned.holder.launch(&rank.device, graph);
            // Peers passed this point too, and wait for this rank.
            launched.map_err(|error| rank.vitals.first(error))?;
        }
        Ok(())
    }

    /// What the step returned. Its buffers hold what the last launch wrote, and nothing defined
    /// before the first.
    ///
    /// ```
    /// # use symm_core::{Buf, GraphPool, Host, Result, World, plain};
    /// # World::<Host>::run(1, |world| {
    /// # let graphs = GraphPool::new(world.pool());
    /// let x: Buf<f32, Host> = Buf::from_slice(&[1.0, 2.0])?;
    /// let mut graph = graphs.capture(world.stream(), |_pass| -> Result<_> {
    ///     let mut copy: Buf<f32, Host> = Buf::empty(2)?;
    ///     copy.copy_from(plain(&x))?;
    ///     Ok(copy)
    /// })?;
    /// graph.launch()?;
    /// assert_eq!(graph.output().to_vec()?, [1.0, 2.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn output(&self) -> &O {
        &self.output
    }

    /// The same, to write to: also a step's inputs may be among what it returned.
    ///
    /// ```
    /// # use symm_core::{Buf, GraphPool, Host, Result, World, plain};
    /// # World::<Host>::run(1, |world| {
    /// # let graphs = GraphPool::new(world.pool());
    /// let mut graph = graphs.capture(world.stream(), |_pass| -> Result<_> {
    ///     let input: Buf<f32, Host> = Buf::empty(2)?;
    ///     let mut output: Buf<f32, Host> = Buf::empty(2)?;
    ///     output.copy_from(plain(&input))?;
    ///     Ok((input, output))
    /// })?;
    /// graph.output_mut().0.copy_from_slice(&[1.0, 2.0])?;
    /// graph.launch()?;
    /// assert_eq!(graph.output().1.to_vec()?, [1.0, 2.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn output_mut(&mut self) -> &mut O {
        &mut self.output
    }

    /// Ends the graph and returns what the step returned; its buffers keep their contents.
    ///
    /// ```
    /// # use symm_core::{Buf, GraphPool, Host, Result, World, plain};
    /// # World::<Host>::run(1, |world| {
    /// # let graphs = GraphPool::new(world.pool());
    /// let x: Buf<f32, Host> = Buf::from_slice(&[1.0, 2.0])?;
    /// let mut graph = graphs.capture(world.stream(), |_pass| -> Result<_> {
    ///     let mut copy: Buf<f32, Host> = Buf::empty(2)?;
    ///     copy.copy_from(plain(&x))?;
    ///     Ok(copy)
    /// })?;
    /// graph.launch()?;
    /// let copy: Buf<f32, Host> = graph.into_output();
    /// assert_eq!((copy.to_vec()?, graphs.stats().graphs), (vec![1.0, 2.0], 0));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn into_output(self) -> O {
        self.output
    }

    /// Has the graph keep a value as long as it lives: a module whose kernels were captured, memory
    /// that captured work uses by its address. It is dropped on another thread, behind the graph.
    ///
    /// ```
    /// # use symm_core::{GraphPool, Host, Result, World};
    /// # World::<Host>::run(1, |world| {
    /// # let graphs = GraphPool::new(world.pool());
    /// use std::sync::Arc;
    ///
    /// let module = Arc::new("a module of kernels");
    /// let mut graph = graphs.capture(world.stream(), |_pass| -> Result<()> { Ok(()) })?;
    /// graph.keep(Arc::clone(&module));
    /// assert_eq!(Arc::strong_count(&module), 2);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn keep(&mut self, value: impl Any + Send) {
        if let Some(owned) = &mut self.core.owned {
            owned.kept.push(Box::new(value));
        }
    }

    /// The stream on which it is launched.
    ///
    /// ```
    /// # use symm_core::{GraphPool, Host, Result, World};
    /// # World::<Host>::run(1, |world| {
    /// # let graphs = GraphPool::new(world.pool());
    /// let side = world.new_stream()?;
    /// let graph = graphs.capture(&side, |_pass| -> Result<()> { Ok(()) })?;
    /// assert_eq!(format!("{:?}", graph.stream()), format!("{side:?}"));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    pub fn stream(&self) -> &B::Stream {
        &self.stream
    }

    /// What the graph holds now. The list of nodes is empty where the backend could not list them.
    ///
    /// ```
    /// # use symm_core::{Buf, GraphPool, Host, Result, World};
    /// # World::<Host>::run(1, |world| {
    /// # let graphs = GraphPool::new(world.pool());
    /// let mut x: Buf<f32, Host> = Buf::zeros(128)?;
    /// let mut graph = graphs.capture(world.stream(), |_pass| -> Result<_> {
    ///     x.fill_zero()?;
    ///     Buf::<f32, Host>::zeros(128)
    /// })?;
    /// graph.launch()?;
    /// let stats = graph.stats();
    /// assert_eq!(stats.nodes, ["zero", "zero"]);
    /// assert_eq!((stats.leases, stats.owned_bytes, stats.launches), (1, 512, 1));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn stats(&self) -> GraphStats {
        let Some(owned) = &self.core.owned else {
            return GraphStats::default();
        };
        let nodes = owned.graph.as_ref().map(|graph| {
            let device = &owned.pool.rank.device;
            B::graph_nodes(device, graph).unwrap_or_default()
        });
        GraphStats {
            nodes: nodes.unwrap_or_default(),
            calls: owned.calls.clone(),
            leases: owned.leases.len(),
            owned_bytes: owned.made_bytes,
            launches: owned.holder.launches(),
        }
    }
}

impl<B: Backend> GraphCore<B> {
    /// Takes over what the capture found out. Without a graph, all of it is given back with this.
    /// `digests` are of what the groups did, in their order.
    pub(crate) fn new(
        pool: &Rc<PoolState<B>>,
        active: &Rc<Active<B>>,
        graph: Option<B::Graph>,
        number: u64,
        digests: &[u64],
    ) -> Self {
        let mut found = active.found();
        let groups = std::mem::take(&mut found.groups).into_iter().enumerate();
        let groups = groups.map(|(at, group)| Bound {
            link: group.link(),
            group,
            digest: digests.get(at).copied().unwrap_or_default(),
        });
        let holder = Rc::clone(&active.holder);
        let alive: Vec<_> = found
            .made
            .drain(..)
            .filter(|(lease, _)| graph.is_some() && !lease.is_gone())
            .collect();
        for (lease, _) in &alive {
            lease.hold(&holder);
        }
        pool.graphs.set(pool.graphs.get() + 1);
        let made_bytes = alive.iter().map(|(_, bytes)| bytes).sum();
        if graph.is_some() {
            pool.rank.pool.watch.add_graph(GraphNote {
                name: pool.name_of(number),
                site: active.site,
                collectives: found.calls.len(),
                owned_bytes: made_bytes,
                leased: std::mem::take(&mut found.leased),
            });
        }
        Self {
            owned: Some(Owned {
                pool: Rc::clone(pool),
                graph,
                number,
                holder,
                leases: std::mem::take(&mut found.leases),
                made_bytes,
                made: alive.into_iter().map(|(lease, _)| lease).collect(),
                groups: groups.collect(),
                site: active.site,
                kept: std::mem::take(&mut found.kept),
                calls: std::mem::take(&mut found.calls),
                redzones: std::mem::take(&mut found.redzones),
            }),
        }
    }

    /// Tells subscribers that it was captured.
    pub(crate) fn tell(&self, took: Duration) {
        if let Some(owned) = &self.owned {
            let name = owned.pool.name_of(owned.number);
            let counts = (owned.calls.len(), owned.leases.len());
            let rank = owned.pool.rank.seat.rank;
            trace::captured(rank, name, counts, owned.made_bytes, took, owned.site);
        }
    }

    fn owned(&self) -> Result<&Owned<B>> {
        self.owned.as_ref().ok_or_else(|| Error::Config {
            what: "the graph is being dropped".into(),
        })
    }
}

impl<B: Backend> Owned<B> {
    /// States the launch to the peers of each group.
    fn agree(&self, here: Site) -> Result<()> {
        let symmetric = self.calls.iter().any(|call| call.path == Path::Symmetric);
        for Bound {
            group,
            link,
            digest,
        } in &self.groups
        {
            if !Arc::ptr_eq(link, &group.link()) {
                return Err(Error::StaleGraph { site: self.site });
            }
            link.check()?;
            let what = What::GraphLaunch { graph: self.number };
            let words = Record::new(what, ArenaMark::default(), here).words();
            let fingerprint = fingerprint::join(fingerprint::of(&words), *digest);
            agree::step_words(group, link, &words, fingerprint)?;
            if symmetric {
                agree::all_first(group, link)?;
            }
        }
        Ok(())
    }
}

impl<B: Backend> Drop for GraphCore<B> {
    fn drop(&mut self) {
        let Some(owned) = self.owned.take() else {
            return;
        };
        match active::capture_on_this_thread(&owned.pool.rank) {
            // Streams are made to wait for one another, which is no part of the capture.
            Some(capture) => capture.defer_graph(owned),
            None => drop(owned),
        }
    }
}

impl<B: Backend> Drop for Owned<B> {
    /// Memory is free for others at once, behind the last launch by the order of streams; the graph
    /// itself goes on the reaper, once that launch is done, and before its communicators.
    fn drop(&mut self) {
        let rank = Arc::clone(&self.pool.rank);
        self.holder.clear();
        // First, because what the leases let go may be the last of another pool, whose windows the
        // graph still names.
        let graph = self.graph.take();
        // Groups end on this thread: whether one of a shared arena is left must not depend on time.
        let links: Vec<_> = self.groups.drain(..).map(|bound| bound.link).collect();
        let kept = std::mem::take(&mut self.kept);
        let stream = self.holder.stream.clone();
        let launched = self.holder.launches() > 0;
        let (redzones, of) = (std::mem::take(&mut self.redzones), Arc::clone(&rank));
        let device = Arc::clone(&rank.device);
        rank.pool.reaper.later(move || {
            let mut outcome = match launched {
                true => B::synchronize(&stream).and_then(|()| redzones.check(&of)),
                false => Ok(()),
            };
            if let Some(graph) = graph {
                outcome = outcome.and(B::destroy_graph(&device, graph));
            }
            drop(kept);
            drop(links);
            outcome
        });
        for lease in self.leases.drain(..).chain(self.made.drain(..)) {
            if let Err(error) = lease.end(&self.holder) {
                rank.poison(&error);
                rank.pool.reaper.report(Err(error));
            }
        }
        rank.pool.watch.remove_graph(self.pool.name_of(self.number));
        for arena in self.pool.all_arenas() {
            arena.remove_graph(self.number);
        }
        self.pool.graphs.set(self.pool.graphs.get() - 1);
    }
}

impl<O: fmt::Debug, B: Backend> fmt::Debug for Graph<O, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let launches = self
            .core
            .owned
            .as_ref()
            .map(|owned| owned.holder.launches());
        f.debug_struct("Graph")
            .field("output", &self.output)
            .field("launches", &launches)
            .finish_non_exhaustive()
    }
}

impl<B: Backend> fmt::Debug for Owned<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owned")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}
