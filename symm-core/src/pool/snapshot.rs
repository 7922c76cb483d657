//! What lies where in a rank's memory, at one moment: plain data, to keep, compare, send and draw.

use std::fmt;

/// A rank's memory at one moment: segments, the blocks in them, ordinary memory, graphs, and what was
/// in use over time.
///
/// Taken by [`Pool::snapshot`](crate::Pool::snapshot). Sites, sequence numbers, ages and the timeline
/// are there as far as the pool recorded ([`Pool::record`](crate::Pool::record)). With the feature
/// `serde` it is written and read as JSON, and drawn by `to_html`.
///
/// All figures are bytes unless they say otherwise. The arenas are looked at one after the other, so
/// what other threads change meanwhile may be seen in one and not in the next.
///
/// ```
/// # use symm_core::{Host, World, groups, symm};
/// # groups! { pub Tp = "tp"; }
/// # World::<Host>::run(2, |world| {
/// # let tp = world.split::<Tp>(0, 0)?;
/// let x = symm!(group = tp, { tp.empty::<f32>(1000)? })?;
/// let snapshot = world.pool().snapshot();
/// assert_eq!((snapshot.rank, snapshot.recording), (world.rank(), false));
/// assert_eq!((snapshot.live_bytes, snapshot.reserved_bytes), (4096, 8 << 20));
/// assert_eq!((snapshot.segments.len(), snapshot.blocks.len()), (1, 2)); // x, and what is free
/// # Ok(())
/// # })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Snapshot {
    /// The rank in the world.
    pub rank: usize,
    /// Whether the pool was recording.
    pub recording: bool,
    /// Microseconds since the recording began; 0 without one.
    pub at_us: u64,
    /// The number of the allocation that was recorded last.
    pub sequence: u64,
    /// Bytes of all segments.
    pub reserved_bytes: u64,
    /// Bytes that buffers own in all arenas, those of graph pools too, in multiples of 512.
    pub live_bytes: u64,
    /// Bytes of ordinary memory in use.
    pub plain_live_bytes: u64,
    /// The most bytes that segments may take.
    pub budget_bytes: u64,
    /// The segments: arenas in the order in which they were made, those of graph pools last.
    pub segments: Vec<SegmentMap>,
    /// What lies in the segments, in their order, without gaps.
    pub blocks: Vec<BlockMap>,
    /// Ordinary memory that was allocated during the recording.
    pub plain: Vec<PlainMap>,
    /// Graphs that are alive.
    pub graphs: Vec<GraphMap>,
    /// What was in use after each change, oldest first.
    pub timeline: Vec<Sample>,
}

/// One `ncclMemAlloc`.
///
/// ```
/// # use symm_core::{Host, World, groups, symm};
/// # groups! { pub Tp = "tp"; }
/// # World::<Host>::run(2, |world| {
/// # let tp = world.split::<Tp>(0, 0)?;
/// let x = symm!(group = tp, { tp.empty::<f32>(1000)? })?;
/// let segment = &world.pool().snapshot().segments[0];
/// assert_eq!((&*segment.arena, segment.index), (tp.arena(), 0));
/// assert_eq!((segment.bytes, segment.windows.len()), (8 << 20, 1));
/// assert_eq!(segment.base, x.address()); // x is the first block
/// assert_eq!(segment.graph_pool, None);
/// # Ok(())
/// # })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct SegmentMap {
    /// The arena: a group's label, the name of a shared arena, and in graph pools the arena that it
    /// stands for in captures, or `private` for memory outside scopes.
    pub arena: String,
    /// The number of the graph pool that the arena is of.
    pub graph_pool: Option<u64>,
    /// Index in the arena.
    pub index: usize,
    /// Its address on this rank's device.
    pub base: u64,
    /// Bytes of it.
    pub bytes: u64,
    /// The groups that work on it.
    pub windows: Vec<WindowMap>,
}

/// A segment's window in one group.
///
/// ```
/// # use symm_core::{Host, World, WindowState, groups, symm};
/// groups! { pub Tp = "tp"; pub Cp = "cp"; arena(Tp, Cp); }
/// # World::<Host>::run(2, |world| {
/// # let (tp, cp) = (world.split::<Tp>(0, 0)?, world.split::<Cp>(0, 0)?);
/// let x = symm!(group = tp, { tp.empty::<f32>(8)? })?;
/// let y = symm!(group = cp, { cp.empty::<f32>(8)? })?;
/// let windows = &world.pool().snapshot().segments[0].windows; // both lie in it
/// let names: Vec<_> = windows.iter().map(|window| window.group.split('#').next()).collect();
/// assert_eq!(names, [Some("tp"), Some("cp")]);
/// assert!(windows.iter().all(|window| window.state == WindowState::Registered));
/// # Ok(())
/// # })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct WindowMap {
    /// The group, by its name in the world, such as `tp#3`: the same on all of its ranks.
    pub group: String,
    /// What became of it.
    pub state: WindowState,
}

/// Whether a segment has its window in a group.
///
/// ```
/// # use symm_core::{Host, World, WindowState, groups};
/// # groups! { pub Tp = "tp"; }
/// # World::<Host>::run(2, |world| {
/// # let tp = world.split::<Tp>(0, 0)?;
/// let state = || world.pool().snapshot().segments[0].windows[0].state;
/// let scope = tp.scope()?;
/// let x = scope.empty::<f32>(8)?;
/// assert_eq!(state(), WindowState::Pending);
/// scope.close()?;
/// assert_eq!(state(), WindowState::Registered);
/// # Ok(())
/// # })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
#[non_exhaustive]
pub enum WindowState {
    /// It is registered.
    Registered,
    /// The group's next round registers it.
    Pending,
    /// NCCL gave none (success with NULL): its collectives are plain.
    Refused,
    /// The group has one rank and needs none.
    Alone,
}

/// A range of a segment that is of one kind.
///
/// ```
/// # use symm_core::{BlockState, Config, Host, groups, symm};
/// # groups! { pub Tp = "tp"; }
/// Config::<Host>::default().memory_history(1000).run(2, |world| {
///     let tp = world.split::<Tp>(0, 0)?;
///     let (x, line) = (symm!(group = tp, { tp.empty::<f32>(1000)? })?, line!());
///     let block = &world.pool().snapshot().blocks[0];
///     assert_eq!((block.segment, block.offset, block.bytes), (0, 0, 4096));
///     assert_eq!((block.state, block.sequence), (BlockState::Live, Some(1)));
///     assert!(block.site.as_deref().is_some_and(|site| site.ends_with(&format!(":{line}"))));
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct BlockMap {
    /// The segment, as an index of [`Snapshot::segments`].
    pub segment: usize,
    /// Bytes from the start of the segment.
    pub offset: u64,
    /// Bytes of it. What was not recorded is one range with what lies beside it.
    pub bytes: u64,
    /// Of what kind it is.
    pub state: BlockState,
    /// The group whose scope gave it, such as `tp#3`.
    pub group: Option<String>,
    /// Graphs that use it when they run.
    pub graphs: Vec<GraphName>,
    /// Where it was allocated: `file:line`. `None` if that was not recorded.
    pub site: Option<String>,
    /// The number of the allocation; ascending, and never used twice in a pool.
    pub sequence: Option<u64>,
    /// Microseconds since it was allocated.
    pub age_us: Option<u64>,
}

/// What a range of a segment is.
///
/// ```
/// # use symm_core::{BlockState, Host, World, groups, symm};
/// # groups! { pub Tp = "tp"; }
/// # World::<Host>::run(2, |world| {
/// # let tp = world.split::<Tp>(0, 0)?;
/// let states = || -> Vec<BlockState> {
///     world.pool().snapshot().blocks.iter().map(|block| block.state).collect()
/// };
/// let x = symm!(group = tp, { tp.empty::<f32>(8)? })?.share()?;
/// assert_eq!(states(), [BlockState::Live, BlockState::Free]);
/// drop(x); // until a round has found that all ranks have dropped theirs:
/// assert_eq!(states(), [BlockState::Returning, BlockState::Free]);
/// tp.trim()?;
/// assert_eq!(states(), []);
/// # Ok(())
/// # })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
#[non_exhaustive]
pub enum BlockState {
    /// A buffer or a graph owns it.
    Live,
    /// Of a shared buffer that this rank has dropped: it is free once all ranks have, in a round of
    /// the group.
    Returning,
    /// Free for the next capture of the graph pool; live graphs write to it when they run.
    Scratch,
    /// Free.
    Free,
}

/// Ordinary memory.
///
/// ```
/// # use symm_core::{Config, Host};
/// Config::<Host>::default().memory_history(1000).run(1, |world| {
///     let (x, line) = (world.pool().zeros::<f32>(100)?, line!());
///     let snapshot = world.pool().snapshot();
///     let [plain] = &snapshot.plain[..] else { panic!("one allocation") };
///     assert_eq!((plain.address, plain.bytes), (x.address(), 400));
///     assert!(plain.site.as_deref().is_some_and(|site| site.ends_with(&format!(":{line}"))));
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct PlainMap {
    /// Its address on this rank's device.
    pub address: u64,
    /// Bytes of it.
    pub bytes: u64,
    /// The group whose scope gave it, if that was switched off.
    pub group: Option<String>,
    /// Where it was allocated: `file:line`.
    pub site: Option<String>,
    /// The number of the allocation.
    pub sequence: u64,
    /// Microseconds since it was allocated.
    pub age_us: u64,
}

/// A graph among those of a rank.
///
/// ```
/// # use symm_core::{GraphPool, Host, ReduceOp, World, groups, symm};
/// # groups! { pub Tp = "tp"; }
/// # World::<Host>::run(2, |world| {
/// # let tp = world.split::<Tp>(0, 0)?;
/// let mut x = symm!(group = tp, { tp.zeros::<f32>(100)? })?;
/// let graphs = GraphPool::new(world.pool());
/// let step = |_pass| tp.all_reduce_in_place(&mut x, ReduceOp::Sum);
/// let captured = graphs.capture(world.stream(), step)?;
///
/// let snapshot = world.pool().snapshot();
/// let name = snapshot.graphs[0].name;
/// assert_eq!((name.pool, name.number, &*name.to_string()), (1, 1, "1.1")); // from 1
/// assert_eq!(snapshot.blocks[0].graphs, [name]); // x, which the graph uses when it runs
/// # Ok(())
/// # })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct GraphName {
    /// The number of its pool.
    pub pool: u64,
    /// Its number in the pool.
    pub number: u64,
}

/// A graph that is alive.
///
/// ```
/// # use symm_core::{GraphPool, Host, ReduceOp, World, groups, symm};
/// # groups! { pub Tp = "tp"; }
/// # World::<Host>::run(2, |world| {
/// # let tp = world.split::<Tp>(0, 0)?;
/// let mut x = symm!(group = tp, { tp.zeros::<f32>(100)? })?;
/// let graphs = GraphPool::new(world.pool());
/// let step = |_pass| tp.all_reduce_in_place(&mut x, ReduceOp::Sum);
/// let captured = graphs.capture(world.stream(), step)?;
///
/// let snapshot = world.pool().snapshot();
/// let graph = &snapshot.graphs[0];
/// assert_eq!((graph.collectives, graph.leased_bytes, graph.owned_bytes), (1, 512, 0)); // of x
/// drop(captured);
/// assert!(world.pool().snapshot().graphs.is_empty());
/// # Ok(())
/// # })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct GraphMap {
    /// Its name.
    pub name: GraphName,
    /// Where it was captured.
    pub site: String,
    /// Number of collectives in it.
    pub collectives: usize,
    /// Bytes of buffers that were made in the capture and outlived it.
    pub owned_bytes: u64,
    /// Bytes of blocks from outside the capture that it keeps.
    pub leased_bytes: u64,
}

/// What was in use after a change.
///
/// ```
/// # use symm_core::{Config, Host, groups, symm};
/// # groups! { pub Tp = "tp"; }
/// Config::<Host>::default().memory_history(1000).run(2, |world| {
///     let tp = world.split::<Tp>(0, 0)?;
///     drop(symm!(group = tp, { tp.empty::<f32>(100)? })?);
///     let timeline = world.pool().snapshot().timeline;
///     let live: Vec<u64> = timeline.iter().map(|sample| sample.live_bytes).collect();
///     assert_eq!(live, [0, 512, 0]); // a segment, the buffer, its end
///     assert!(timeline.iter().all(|sample| sample.reserved_bytes == 8 << 20));
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Sample {
    /// Microseconds since the recording began.
    pub at_us: u64,
    /// Bytes that buffers owned in all arenas.
    pub live_bytes: u64,
    /// Bytes of all segments.
    pub reserved_bytes: u64,
    /// Bytes of ordinary memory in use.
    pub plain_bytes: u64,
}

impl fmt::Display for GraphName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.pool, self.number)
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let live = self.blocks.iter();
        let live = live.filter(|block| block.state == BlockState::Live);
        write!(
            f,
            "rank {}: {} B live in {} blocks, {} B reserved in {} segments, {} B plain, {} graphs",
            self.rank,
            self.live_bytes,
            live.count(),
            self.reserved_bytes,
            self.segments.len(),
            self.plain_live_bytes,
            self.graphs.len()
        )
    }
}
