//! The second pass: the step is recorded and becomes a graph.

use std::any::Any;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::active::Active;
use super::arena::GraphArena;
use super::compare::{self, ENDED_EARLY, Statement, Words};
use super::graph::{Graph, GraphCore};
use super::need::{Log, Need, Place};
use super::pool::{GraphPool, PoolState};
use super::{Pass, active};
use crate::Cuda;
use crate::backend::Backend;
use crate::error::Result;
use crate::group::core::GroupCore;
use crate::pool::arena::ArenaId;
use crate::pool::reaper::Held;
use crate::scope::Frame;
use crate::scope::routing::Kind;
use crate::site::Site;
use crate::trace;

/// A capture that is under way, for code that cannot pass a closure to [`GraphPool::capture`].
///
/// Between [`begin`](Capture::begin) and [`end`](Capture::end) this thread's work on the stream is
/// recorded instead of executed, and its allocations come from the pool. Dropping it discards what
/// was recorded, on every path.
///
/// [`Prime`](crate::Prime) has an example of both passes; this is the second one alone, of a step
/// that allocates nothing:
///
/// ```
/// # use symm_core::{Buf, Capture, GraphPool, Host, Need, World};
/// # World::<Host>::run(1, |world| {
/// # let graphs = GraphPool::new(world.pool());
/// let mut x: Buf<f32, Host> = Buf::from_slice(&[1.0, 2.0])?;
/// let capture = Capture::begin(&graphs, &Need::new(), world.stream())?;
/// x.fill_zero()?; // recorded
/// let mut graph = capture.end(())?;
/// assert_eq!(x.to_vec()?, [1.0, 2.0]); // nothing has run
/// graph.launch()?;
/// assert_eq!(x.to_vec()?, [0.0, 0.0]);
/// # Ok(())
/// # })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[must_use = "dropping a capture discards it: end() it"]
pub struct Capture<B: Backend = Cuda> {
    pool: Rc<PoolState<B>>,
    active: Rc<Active<B>>,
    /// `None` once it has ended. In the order of their ends.
    recording: Option<B::Recording>,
    frame: Option<Frame<B>>,
    reaper: Option<Held>,
    began: Instant,
}

impl<B: Backend> Capture<B> {
    /// Makes room for `need`, agrees on it with the peers of its groups, and begins to record.
    ///
    /// ```
    /// # use symm_core::{Buf, Capture, Error, GraphPool, Host, Need, World};
    /// # World::<Host>::run(1, |world| {
    /// # let graphs = GraphPool::new(world.pool());
    /// let need = Need::new().plain(512);
    /// let capture = Capture::begin(&graphs, &need, world.stream())?;
    /// assert_eq!(graphs.stats().arenas[0].segments, 1); // room for `need`
    /// let inside = Capture::begin(&graphs, &need, world.stream());
    /// assert!(matches!(inside, Err(Error::InCapture { .. })));
    /// let y: Buf<f32, Host> = Buf::empty(128)?;
    /// let graph = capture.end(y)?;
    /// assert_eq!(graph.stats().owned_bytes, 512);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`GraphPool::reserve`]; [`Error::InCapture`](crate::Error::InCapture) inside another
    /// pass; [`Error::WrongDevice`](crate::Error::WrongDevice) for a stream of another device.
    #[track_caller]
    pub fn begin(graphs: &GraphPool<B>, need: &Need<B>, stream: &B::Stream) -> Result<Self> {
        Self::start(graphs, need, stream, Site::caller())
    }

    pub(crate) fn start(
        graphs: &GraphPool<B>,
        need: &Need<B>,
        stream: &B::Stream,
        site: Site,
    ) -> Result<Self> {
        let began = Instant::now();
        let pool = graphs.state();
        active::may_begin(&pool.rank, stream)?;
        pool.make_room(need, site)?;
        // Peers are at this point too: a device that is stuck is the end of the world.
        let held = pool.rank.pool.reaper.hold(pool.rank.seat.deadline);
        let reaper = held.inspect_err(|error| pool.rank.poison(error))?;
        let groups = need.groups.clone();
        let active = Active::new(pool, Pass::Capture, stream, site, groups);
        let frame = Frame::open(site, Kind::Pass(Rc::clone(&active)))?;
        pool.begin(need);
        let mut capture = Self {
            pool: Rc::clone(pool),
            active,
            recording: None,
            frame: Some(frame),
            reaper: Some(reaper),
            began,
        };
        let recording = B::begin_capture(&pool.rank.device, stream, pool.options.mode);
        capture.recording = Some(recording.inspect_err(|error| capture.active.fail(error))?);
        Ok(capture)
    }

    /// Has the graph keep a value as long as it lives: a module whose kernels were captured, memory
    /// that captured work uses by its address.
    ///
    /// ```
    /// # use symm_core::{Capture, GraphPool, Host, Need, World};
    /// # World::<Host>::run(1, |world| {
    /// # let graphs = GraphPool::new(world.pool());
    /// use std::sync::Arc;
    ///
    /// let module = Arc::new("a module of kernels");
    /// let capture = Capture::begin(&graphs, &Need::new(), world.stream())?;
    /// capture.keep(Arc::clone(&module));
    /// let graph = capture.end(())?;
    /// assert_eq!(Arc::strong_count(&module), 2); // the graph has it now
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn keep(&self, value: impl Any + Send) {
        self.active.keep_value(Box::new(value));
    }

    /// Ends the capture, compares it with those of the peers, and returns the graph with what the
    /// step made.
    ///
    /// ```
    /// # use symm_core::{Buf, Capture, Error, GraphPool, Host, Need, World};
    /// # World::<Host>::run(1, |world| {
    /// # let graphs = GraphPool::new(world.pool());
    /// let x: Buf<f32, Host> = Buf::from_slice(&[1.0, 2.0])?;
    /// let capture = Capture::begin(&graphs, &Need::new(), world.stream())?;
    /// assert!(x.to_vec().is_err()); // nothing has run that could be read
    /// let ended = capture.end(()); // the same error, which the step let pass
    /// assert!(matches!(ended, Err(Error::InCapture { what: "reading a buffer", .. })));
    ///
    /// let capture = Capture::begin(&graphs, &Need::new(), world.stream())?;
    /// capture.end(())?.launch()?;
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// The first error of the step, whether it was returned or not;
    /// [`Error::GraphOverlap`](crate::Error::GraphOverlap),
    /// [`Error::RanksDiffer`](crate::Error::RanksDiffer),
    /// [`Error::PeerFailed`](crate::Error::PeerFailed). Nothing is left of the capture then, and
    /// `output` is dropped.
    pub fn end<O>(self, output: O) -> Result<Graph<O, B>> {
        let (rank, site, began) = (self.pool.rank.seat.rank, self.active.site, self.began);
        let stream = self.active.stream.clone();
        match self.finish() {
            Ok(core) => {
                core.tell(began.elapsed());
                Ok(Graph::new(core, output, stream))
            }
            Err(error) => {
                trace::discarded(rank, &error, site);
                Err(error)
            }
        }
    }

    fn finish(mut self) -> Result<GraphCore<B>> {
        let active = Rc::clone(&self.active);
        let joined = active.check().and_then(|()| active.join_back());
        let graph = match self.recording.take() {
            Some(recording) => B::end_capture(&self.pool.rank.device, recording).map(Some),
            None => Ok(None),
        };
        let closed = self.frame.take().map_or(Ok(()), Frame::close);
        let (graph, ended) = match graph {
            Ok(graph) => (graph, Ok(())),
            Err(error) => (None, Err(error)),
        };
        let arenas = self.pool.all_arenas();
        let apart = arenas
            .iter()
            .try_for_each(|arena| arena.check_overlap(active.site));
        // The step's own error says more than what it did to the capture.
        let local = joined.and(closed).and(ended).and(apart);
        let number = self.pool.next_graph();
        for arena in &arenas {
            arena.add_graph(number, active.site);
        }
        let logs = self.end_passes();
        let groups = active.groups();
        let did: Vec<Vec<Words>> = groups
            .iter()
            .map(|group| did(&active, group, &logs))
            .collect();
        let digests: Vec<u64> = did.iter().map(|words| compare::digest(words)).collect();
        // Owns the graph from here on, whatever comes.
        let core = GraphCore::new(&self.pool, &active, graph, number, &digests);
        self.reaper = None;
        active.release_deferred();
        if let Err(error) = local {
            compare::tell_failure(&groups, &error.to_string(), active.site);
            return Err(error);
        }
        agree(&groups, did, active.site)?;
        Ok(core)
    }

    fn end_passes(&self) -> Vec<(ArenaId, Log)> {
        let arenas = self.pool.all_arenas();
        let ended = |arena: &Rc<GraphArena<B>>| Some((arena.id(), arena.end()?));
        arenas.iter().filter_map(ended).collect()
    }
}

/// Compares what this rank did in each group with what its peers did.
fn agree<B: Backend>(groups: &[Arc<GroupCore<B>>], did: Vec<Vec<Words>>, site: Site) -> Result<()> {
    let statements: Vec<Statement<'_, B>> = groups
        .iter()
        .zip(did)
        .map(|(group, did)| Statement {
            group,
            did: Ok(did),
        })
        .collect();
    compare::agree(&format!("the capture at {site}"), &statements, site)
}

/// Blocks and collectives of the group.
fn did<B: Backend>(
    active: &Active<B>,
    group: &Arc<GroupCore<B>>,
    logs: &[(ArenaId, Log)],
) -> Vec<Words> {
    let arena = active.pool.arena_of(&Place::Group(Arc::clone(group)));
    let arena = arena.map(|arena| arena.id());
    let blocks = logs.iter().filter(|(of, _)| Some(*of) == arena);
    let blocks = blocks.flat_map(|(_, log)| log.places());
    let blocks = blocks.map(|(bytes, position)| compare::of_block(bytes, position));
    let found = active.found();
    let calls = found.compared.iter();
    let calls = calls.filter(|(of, _)| *of == group.generation);
    blocks.chain(calls.map(|(_, words)| *words)).collect()
}

impl<B: Backend> Drop for Capture<B> {
    fn drop(&mut self) {
        if self.frame.is_none() {
            return; // it has ended
        }
        drop(self.recording.take());
        drop(self.frame.take());
        self.end_passes();
        self.reaper = None;
        let cause: String = match self.active.check() {
            Ok(()) => ENDED_EARLY.into(),
            Err(error) => error.to_string(),
        };
        trace::discarded(self.pool.rank.seat.rank, &cause, self.active.site);
        let groups = self.active.groups();
        let number = self.pool.next_graph();
        drop(GraphCore::new(&self.pool, &self.active, None, number, &[]));
        self.active.release_deferred();
        // Peers wait for this rank where their captures end.
        compare::tell_failure(&groups, &cause, self.active.site);
    }
}

impl<B: Backend> fmt::Debug for Capture<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capture")
            .field("site", &self.active.site)
            .finish_non_exhaustive()
    }
}
