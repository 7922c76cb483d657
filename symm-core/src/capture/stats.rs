//! What graphs and their pools hold, in exact bytes.

use std::fmt;

use crate::group::path::Path;

/// One arena of a graph pool at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GraphArenaStats {
    /// The group's arena that it stands for in captures, or `"private"` for memory outside scopes.
    pub name: String,
    /// Number of segments.
    pub segments: usize,
    /// Bytes of the segments.
    pub reserved_bytes: u64,
    /// Bytes of blocks that a buffer or a graph owns for itself, in multiples of 512.
    pub live_bytes: u64,
    /// The most that `live_bytes` has been, during captures too.
    pub peak_live_bytes: u64,
    /// Bytes that graphs write to when they run, and share with the pool's other graphs.
    pub shared_bytes: u64,
}

/// A graph pool at one moment.
///
/// ```
/// use symm_core::{GraphPool, Host, World};
/// World::<Host>::run(1, |world| {
///     let graphs = GraphPool::new(world.pool());
///     assert_eq!((graphs.stats().graphs, graphs.stats().reserved_bytes()), (0, 0));
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GraphPoolStats {
    /// Graphs that are alive.
    pub graphs: usize,
    /// The arenas, in the order in which captures came to them.
    pub arenas: Vec<GraphArenaStats>,
}

impl GraphPoolStats {
    /// Bytes of all segments of the pool.
    pub fn reserved_bytes(&self) -> u64 {
        self.arenas.iter().map(|arena| arena.reserved_bytes).sum()
    }

    /// Bytes that buffers and graphs own for themselves.
    pub fn live_bytes(&self) -> u64 {
        self.arenas.iter().map(|arena| arena.live_bytes).sum()
    }

    /// Bytes that graphs share.
    pub fn shared_bytes(&self) -> u64 {
        self.arenas.iter().map(|arena| arena.shared_bytes).sum()
    }
}

impl fmt::Display for GraphPoolStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} graphs, {} B reserved, {} B owned, {} B shared",
            self.graphs,
            self.reserved_bytes(),
            self.live_bytes(),
            self.shared_bytes()
        )
    }
}

/// A collective in a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CapturedCall {
    /// The operation, e.g. `"all_reduce"`.
    pub operation: &'static str,
    /// The group's name.
    pub group: String,
    /// Bytes, of NCCL's count for the operation.
    pub bytes: u64,
    /// Which way it goes in every replay.
    pub path: Path,
}

/// A graph at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GraphStats {
    /// What the graph holds, node by node: names of kernels, else what the node does.
    pub nodes: Vec<String>,
    /// The collectives in it, in the order of the capture.
    pub calls: Vec<CapturedCall>,
    /// Buffers from outside the capture that the graph keeps.
    pub leases: usize,
    /// Bytes of buffers that were made in the capture and outlived it.
    pub owned_bytes: u64,
    /// Launches so far.
    pub launches: u64,
}

impl fmt::Display for GraphStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} nodes, {} collectives, {} leases, {} B owned, {} launches",
            self.nodes.len(),
            self.calls.len(),
            self.leases,
            self.owned_bytes,
            self.launches
        )
    }
}
