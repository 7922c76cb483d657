//! What graphs and their pools hold, in exact bytes.

use std::fmt;

use crate::group::path::Path;

/// One arena of a graph pool at one moment.
///
/// ```
/// # use symm_core::{GraphPool, Host, Result, World, groups, symm};
/// # groups! { pub Tp = "tp"; }
/// # World::<Host>::run(2, |world| {
/// # let tp = world.split::<Tp>(0, 0)?;
/// # let graphs = GraphPool::new(world.pool());
/// let graph = graphs.capture(world.stream(), |_pass| -> Result<_> {
///     symm!(group = tp, { tp.zeros::<f32>(128)? })
/// })?;
/// let arena = &graphs.stats().arenas[0];
/// assert_eq!((arena.name.as_str(), arena.segments, arena.live_bytes), (tp.arena(), 1, 512));
/// # Ok(())
/// # })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
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
    ///
    /// ```
    /// # use symm_core::{GraphPool, Host, Need, World};
    /// # World::<Host>::run(1, |world| {
    /// # let graphs = GraphPool::new(world.pool());
    /// graphs.reserve(&Need::new().plain(20 << 20))?;
    /// assert_eq!(graphs.stats().reserved_bytes(), 20 << 20);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn reserved_bytes(&self) -> u64 {
        self.arenas.iter().map(|arena| arena.reserved_bytes).sum()
    }

    /// Bytes that buffers and graphs own for themselves.
    ///
    /// ```
    /// # use symm_core::{Buf, GraphPool, Host, World};
    /// # World::<Host>::run(1, |world| {
    /// # let graphs = GraphPool::new(world.pool());
    /// let graph = graphs.capture(world.stream(), |_pass| Buf::<f32, Host>::zeros(128))?;
    /// assert_eq!(graphs.stats().live_bytes(), 512);
    /// drop(graph);
    /// assert_eq!(graphs.stats().live_bytes(), 0);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn live_bytes(&self) -> u64 {
        self.arenas.iter().map(|arena| arena.live_bytes).sum()
    }

    /// Bytes that graphs share.
    ///
    /// ```
    /// # use symm_core::{Buf, GraphPool, Host, World};
    /// # World::<Host>::run(1, |world| {
    /// # let graphs = GraphPool::new(world.pool());
    /// let step = |_pass| Buf::<u8, Host>::zeros(4096).map(drop); // made and freed in the capture
    /// let first = graphs.capture(world.stream(), step)?;
    /// let second = graphs.capture(world.stream(), step)?;
    /// assert_eq!(graphs.stats().shared_bytes(), 4096); // one block for both
    /// assert_eq!(graphs.stats().live_bytes(), 0);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
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
///
/// ```
/// # use symm_core::{GraphPool, Host, Path, ReduceOp, World, groups, symm};
/// # groups! { pub Tp = "tp"; }
/// # World::<Host>::run(2, |world| {
/// # let tp = world.split::<Tp>(0, 0)?;
/// # let graphs = GraphPool::new(world.pool());
/// let mut x = symm!(group = tp, { tp.zeros::<f32>(128)? })?;
/// let step = |_pass| tp.all_reduce_in_place(&mut x, ReduceOp::Sum);
/// let stats = graphs.capture(world.stream(), step)?.stats();
/// let call = &stats.calls[0];
/// assert_eq!((call.operation, call.group.as_str(), call.bytes), ("all_reduce", "tp", 512));
/// assert_eq!(call.path, Path::Symmetric);
/// # Ok(())
/// # })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
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
///
/// ```
/// # use symm_core::{Buf, GraphPool, Host, World};
/// # World::<Host>::run(1, |world| {
/// # let graphs = GraphPool::new(world.pool());
/// let mut x: Buf<f32, Host> = Buf::zeros(128)?;
/// let graph = graphs.capture(world.stream(), |_pass| x.fill_zero())?;
/// let stats = graph.stats();
/// assert_eq!((stats.nodes.len(), stats.leases, stats.launches), (1, 1, 0));
/// assert_eq!(stats.to_string(), "1 nodes, 0 collectives, 1 leases, 0 B owned, 0 launches");
/// # Ok(())
/// # })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
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
