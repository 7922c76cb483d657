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
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct WindowMap {
    /// The group, by its name among the rank's, such as `tp#3`.
    pub group: String,
    /// What became of it.
    pub state: WindowState,
}

/// Whether a segment has its window in a group.
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
