//! A graph pool: the memory that captures allocate from, and that graphs share.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::arena::GraphArena;
use super::compare::{self, Statement, Words};
use super::guard::Capture;
use super::layout::Step;
use super::need::{Expected, Need, Part, Place};
use super::options::{CaptureMode, GraphOptions};
use super::order::Order;
use super::prime::Prime;
use super::stats::GraphPoolStats;
use super::{Graph, Pass, active};
use crate::Cuda;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::group::core::GroupCore;
use crate::group::world::Rank;
use crate::pool::arena::ArenaId;
use crate::pool::{GraphName, Pool};
use crate::registration::round::{self, Due};
use crate::site::Site;
use crate::trace;

/// Memory for captures, with arenas of its own: where a capture's blocks lie depends on the pool's
/// captures alone, not on what else ran on this rank before, so it is the same on all ranks.
///
/// Graphs of one pool share what their captures allocated and freed again, so fifty batch sizes cost
/// about what the largest costs; their launches follow each other. What outlives a capture belongs
/// to its graph, and lies where no other graph of the pool writes.
///
/// A cheap handle; the memory goes back to the device when the last handle, graph and buffer of the
/// pool is gone.
///
/// ```
/// use symm_core::{Backend, GraphPool, Host, ReduceOp, Result, World, groups, symm};
/// groups! { pub Tp = "tp"; }
///
/// fn rank<B: Backend>(world: World<B>) -> Result<Vec<f32>> {
///     let tp = world.split::<Tp>(0, 0)?;
///     let mut x = symm!(group = tp, { tp.from_slice(&[0.0f32; 4])? })?;
///
///     let graphs = GraphPool::new(world.pool());
///     let mut step = graphs.capture(world.stream(), |_pass| -> Result<_> {
///         let mut sum = symm!(group = tp, { tp.empty::<f32>(4)? })?;
///         tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?;
///         Ok(sum)
///     })?;
///
///     x.copy_from_slice(&[1.0, 2.0, 3.0, 4.0])?; // the graph's input
///     step.launch()?;
///     step.output().to_vec()
/// }
/// assert_eq!(World::<Host>::run(2, rank)?, [[2.0, 4.0, 6.0, 8.0]; 2]);
/// # Ok::<(), symm_core::Error>(())
/// ```
pub struct GraphPool<B: Backend = Cuda> {
    state: Rc<PoolState<B>>,
}

/// What handles, passes and graphs of one pool share.
#[derive(Debug)]
pub(crate) struct PoolState<B: Backend> {
    pub(crate) rank: Arc<Rank<B>>,
    pub(crate) options: GraphOptions,
    pub(crate) order: Rc<Order<B>>,
    /// By the eager arena that they stand for; `None` is memory outside scopes.
    #[allow(clippy::type_complexity)]
    arenas: RefCell<Vec<(Option<ArenaId>, Rc<GraphArena<B>>)>>,
    pub(crate) graphs: Cell<usize>,
    next: Cell<u64>,
    /// Among the rank's graph pools.
    pub(crate) number: u64,
}

impl<B: Backend> GraphPool<B> {
    /// A pool with the default settings.
    ///
    /// ```
    /// # use symm_core::{Buf, GraphPool, Host, World};
    /// # World::<Host>::run(1, |world| {
    /// let graphs = GraphPool::new(world.pool());
    /// let graph = graphs.capture(world.stream(), |_pass| Buf::<f32, Host>::zeros(4))?;
    /// assert_eq!(graphs.stats().graphs, 1);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn new(pool: &Pool<B>) -> Self {
        Self::start(pool, GraphOptions::default())
    }

    /// A pool with these settings.
    ///
    /// ```
    /// # use symm_core::{CaptureMode, Error, GraphOptions, GraphPool, Host, World};
    /// # World::<Host>::run(1, |world| {
    /// let growing = GraphOptions::default().growth(true);
    /// let graphs = GraphPool::with(world.pool(), growing)?;
    /// assert_eq!(graphs.stats().graphs, 0);
    /// let global = GraphPool::with(world.pool(), GraphOptions::default().mode(CaptureMode::Global));
    /// assert!(matches!(global, Err(Error::Config { .. })));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Config`] for [`CaptureMode::Global`].
    pub fn with(pool: &Pool<B>, options: GraphOptions) -> Result<Self> {
        match options.mode {
            CaptureMode::Global => Err(Error::Config {
                what: "captures in global mode are refused: they make calls of all threads of the process fail, such as those of the other ranks and of the thread that gives memory back; use ThreadLocal, or Relaxed".into(),
            }),
            CaptureMode::ThreadLocal | CaptureMode::Relaxed => Ok(Self::start(pool, options)),
        }
    }

    fn start(pool: &Pool<B>, options: GraphOptions) -> Self {
        Self {
            state: Rc::new(PoolState {
                rank: Arc::clone(pool.rank()),
                options,
                order: Rc::new(Order::new()),
                arenas: RefCell::default(),
                graphs: Cell::new(0),
                next: Cell::new(1),
                number: pool.rank().pool.watch.next_graph_pool(),
            }),
        }
    }

    /// **Runs `step` twice**: once as [`Pass::Prime`], executed, to learn what it needs, and then as
    /// [`Pass::Capture`], recorded on `stream`, which is the thread's current stream meanwhile. So
    /// what the step changes on the host changes twice, and the prime's work on the device is done;
    /// [`capture_reserved`](GraphPool::capture_reserved) runs it once.
    ///
    /// All ranks of the groups that the step uses capture at the same point, and allocate and call
    /// the same in each pass; the passes themselves may differ, as where the first run makes a
    /// workspace. In the step:
    /// - buffers that it returns (or puts elsewhere) stay the graph's and keep working;
    /// - buffers from outside that it uses are kept by the graph, also when they are dropped;
    /// - work on other streams of [`World::on_stream`](crate::World::on_stream) is captured too;
    /// - reading back, copying from host memory and waiting are refused ([`Error::InCapture`]).
    ///
    /// ```
    /// # use symm_core::{GraphPool, Host, Path, ReduceOp, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// # let graphs = GraphPool::new(world.pool());
    /// let mut x = symm!(group = tp, { tp.zeros::<f32>(2)? })?;
    /// let mut runs = 0;
    /// let mut step = graphs.capture(world.stream(), |_pass| {
    ///     runs += 1; // on the host: twice
    ///     tp.all_reduce_in_place(&mut x, ReduceOp::Sum)
    /// })?;
    /// x.copy_from_slice(&[1.0, 2.0])?;
    /// step.launch()?;
    /// assert_eq!((runs, step.output(), x.to_vec()?), (2, &Path::Symmetric, vec![2.0, 4.0]));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of the step; [`Error::CaptureMiss`], [`Error::GraphOverlap`], [`Error::RanksDiffer`],
    /// [`Error::PeerFailed`]. The pool is as usable as before.
    #[track_caller]
    pub fn capture<O, E: From<Error>>(
        &self,
        stream: &B::Stream,
        mut step: impl FnMut(Pass) -> Result<O, E>,
    ) -> Result<Graph<O, B>, E> {
        let site = Site::caller();
        let span = trace::pass(Pass::Prime, self.state.rank.seat.rank, site);
        let prime = Prime::start(self, stream, site)?;
        let primed = step(Pass::Prime)?;
        let need = prime.end()?;
        drop(primed);
        drop(span);
        self.record(&need, stream, site, || step(Pass::Capture))
    }

    /// Captures `step` without running it before: `need` says what it allocates.
    ///
    /// NCCL sets up what it needs for an operation the first time it sees it, and CUDA loads kernels
    /// when they are first used: run the step's operations once before.
    ///
    /// ```
    /// # use symm_core::{Buf, GraphPool, Host, Need, World, host, plain_mut};
    /// # World::<Host>::run(1, |world| {
    /// # let graphs = GraphPool::new(world.pool());
    /// let mut count: Buf<f32, Host> = Buf::zeros(1)?;
    /// let need = Need::new(); // the step allocates nothing
    /// let mut graph = graphs.capture_reserved(&need, world.stream(), |_pass| {
    ///     host::launch([], [plain_mut(&mut count)], |[], [count]| count[0] += 1.0)
    /// })?;
    /// assert_eq!(count.to_vec()?, [0.0]); // no prime ran
    /// graph.launch()?;
    /// assert_eq!(count.to_vec()?, [1.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`capture`](GraphPool::capture).
    #[track_caller]
    pub fn capture_reserved<O, E: From<Error>>(
        &self,
        need: &Need<B>,
        stream: &B::Stream,
        step: impl FnOnce(Pass) -> Result<O, E>,
    ) -> Result<Graph<O, B>, E> {
        self.record(need, stream, Site::caller(), || step(Pass::Capture))
    }

    fn record<O, E: From<Error>>(
        &self,
        need: &Need<B>,
        stream: &B::Stream,
        site: Site,
        step: impl FnOnce() -> Result<O, E>,
    ) -> Result<Graph<O, B>, E> {
        let _span = trace::pass(Pass::Capture, self.state.rank.seat.rank, site);
        let capture = Capture::start(self, need, stream, site)?;
        // An error that makes the capture worthless is the step's own, or else `end` reports it.
        let output = step()?;
        Ok(capture.end(output)?)
    }

    /// Makes sure that the pool has what `need` says, registered: captures of that size then find
    /// it. All ranks of the groups call it at the same point.
    ///
    /// ```
    /// # use symm_core::{GraphPool, Host, Need, World, groups};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// # let graphs = GraphPool::new(world.pool());
    /// let need = Need::new().group(&tp, 1 << 20);
    /// graphs.reserve(&need)?;
    /// let reserved = graphs.stats().reserved_bytes();
    /// assert!(reserved >= 1 << 20 && tp.windows() == 1);
    /// graphs.reserve(&need)?; // it is there already
    /// assert_eq!(graphs.stats().reserved_bytes(), reserved);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::BudgetExceeded`], [`Error::Sealed`],
    /// [`Error::Registration`]; [`Error::PeerFailed`] when a peer had one of these. Nothing is kept
    /// then.
    #[track_caller]
    pub fn reserve(&self, need: &Need<B>) -> Result<()> {
        let site = Site::caller();
        active::refuse(
            &self.state.rank,
            "reserving memory",
            "reserve before the capture",
        )?;
        self.state.make_room(need, site).map(drop)
    }

    /// What the pool holds now.
    ///
    /// ```
    /// # use symm_core::{Buf, GraphPool, Host, World};
    /// # World::<Host>::run(1, |world| {
    /// # let graphs = GraphPool::new(world.pool());
    /// let graph = graphs.capture(world.stream(), |_pass| Buf::<f32, Host>::zeros(128))?;
    /// let stats = graphs.stats();
    /// assert_eq!((stats.graphs, stats.live_bytes()), (1, 512));
    /// drop(graph);
    /// assert_eq!(graphs.stats().graphs, 0);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn stats(&self) -> GraphPoolStats {
        GraphPoolStats {
            graphs: self.state.graphs.get(),
            arenas: self
                .state
                .all_arenas()
                .iter()
                .map(|arena| arena.stats())
                .collect(),
        }
    }

    pub(crate) fn state(&self) -> &Rc<PoolState<B>> {
        &self.state
    }
}

impl<B: Backend> PoolState<B> {
    /// The name of the pool's graph with this number.
    pub(crate) fn name_of(&self, number: u64) -> GraphName {
        let pool = self.number;
        GraphName { pool, number }
    }

    /// A number for the pool's next graph.
    pub(crate) fn next_graph(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }

    /// The arena for the group's scopes, or for memory outside scopes; a new one where there is
    /// none yet, in the pass that is under way.
    pub(crate) fn arena(&self, group: Option<&Arc<GroupCore<B>>>, pass: Pass) -> Rc<GraphArena<B>> {
        let place = group.map_or(Place::Private, |group| Place::Group(Arc::clone(group)));
        self.arena_of(&place).unwrap_or_else(|| {
            let arena = self.new_arena(&place);
            arena.begin(pass == Pass::Prime, Expected::default());
            arena
        })
    }

    /// The same, if there is one.
    pub(crate) fn arena_of(&self, place: &Place<B>) -> Option<Rc<GraphArena<B>>> {
        let arenas = self.arenas.borrow();
        let known = arenas.iter().find(|(key, _)| *key == place.arena());
        known.map(|(_, arena)| Rc::clone(arena))
    }

    fn new_arena(&self, place: &Place<B>) -> Rc<GraphArena<B>> {
        let (name, symmetric) = match place {
            Place::Private => ("private", false),
            Place::Group(group) => (group.arena.name(), true),
        };
        let arena = GraphArena::new(name, self.number, &self.rank, &self.order, symmetric);
        self.arenas
            .borrow_mut()
            .push((place.arena(), Rc::clone(&arena)));
        arena
    }

    pub(crate) fn all_arenas(&self) -> Vec<Rc<GraphArena<B>>> {
        let arenas = self.arenas.borrow();
        arenas.iter().map(|(_, arena)| Rc::clone(arena)).collect()
    }

    /// All arenas, with what their captures are going to do.
    pub(crate) fn begin(&self, need: &Need<B>) {
        for (key, arena) in self.arenas.borrow().iter() {
            let part = need.parts.iter().find(|part| part.place.arena() == *key);
            let steps = part.map(Part::steps).unwrap_or_default();
            arena.begin(false, Expected::of(&steps));
        }
    }

    /// Takes from the device what `need` lacks, and registers it once all ranks have it. Nothing
    /// stays where one of them has not.
    pub(crate) fn make_room(&self, need: &Need<B>, site: Site) -> Result<()> {
        self.rank.check()?;
        let mut added: Vec<(Rc<GraphArena<B>>, usize)> = Vec::new();
        let mut grow = |part: &Part<B>| {
            let known = self.arena_of(&part.place);
            let arena = known.unwrap_or_else(|| self.new_arena(&part.place));
            if let Some((log, primed)) = &part.log {
                primed.check_kept(log, site)?;
            }
            let steps: Vec<Step> = part.steps();
            let room = self.rank.pool.config.room(part.bytes);
            let segments = arena.make_room(room, &steps)?;
            added.push((arena, segments));
            Ok(())
        };
        let grown: Result<()> = need.parts.iter().try_for_each(&mut grow);
        let agreed = match &grown {
            Ok(()) => self.agree_on_room(need, site),
            Err(error) => {
                compare::tell_failure(&need.groups, &error.to_string(), site);
                Ok(())
            }
        };
        if let Err(error) = grown.and(agreed) {
            for (arena, segments) in added {
                arena.shrink(segments);
            }
            return Err(error);
        }
        for group in &need.groups {
            if let Some(arena) = self.arena_of(&Place::Group(Arc::clone(group))) {
                arena.touch_all(group);
            }
            round::settle(group, site, Due::Call)?;
        }
        Ok(())
    }

    fn agree_on_room(&self, need: &Need<B>, site: Site) -> Result<()> {
        let segments = |group: &Arc<GroupCore<B>>| -> Vec<Words> {
            let arena = self.arena_of(&Place::Group(Arc::clone(group)));
            let bytes = arena.map(|arena| arena.segment_bytes()).unwrap_or_default();
            let words = bytes.iter().enumerate();
            words
                .map(|(index, bytes)| compare::of_segment(index, *bytes))
                .collect()
        };
        let statements: Vec<Statement<'_, B>> = need
            .groups
            .iter()
            .map(|group| Statement {
                group,
                did: Ok(segments(group)),
            })
            .collect();
        compare::agree(
            &format!("the graph pool's room at {site}"),
            &statements,
            site,
        )
    }
}

impl<B: Backend> Clone for GraphPool<B> {
    fn clone(&self) -> Self {
        Self {
            state: Rc::clone(&self.state),
        }
    }
}

impl<B: Backend> fmt::Debug for GraphPool<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GraphPool")
            .field("stats", &self.stats())
            .finish()
    }
}
