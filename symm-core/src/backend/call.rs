//! One collective call, as both backends take it.

use crate::element::Dtype;

/// How a reduction combines elements.
///
/// ```
/// use symm_core::{Host, ReduceOp, World, groups};
/// groups! { pub Tp = "tp"; }
/// let sums = World::<Host>::run(2, |world| {
///     let tp = world.split::<Tp>(0, 0)?;
///     let mut x = symm_core::symm!(group = tp, { tp.from_slice(&[world.rank() as f32 + 1.0])? })?;
///     tp.all_reduce_in_place(&mut x, ReduceOp::Max)?;
///     x.to_vec()
/// })?;
/// assert_eq!(sums, [[2.0], [2.0]]);
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum ReduceOp {
    /// The sum.
    Sum = 0,
    /// The product.
    Prod = 1,
    /// The largest.
    Max = 2,
    /// The smallest.
    Min = 3,
    /// The sum divided by the number of ranks (integers round towards zero).
    Avg = 4,
}

/// Which collective or point-to-point operation. Ranks are those of the group.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    AllReduce(ReduceOp),
    AllGather,
    ReduceScatter(ReduceOp),
    Broadcast { root: usize },
    Reduce { op: ReduceOp, root: usize },
    AllToAll,
    Gather { root: usize },
    Scatter { root: usize },
    Send { peer: usize },
    Recv { peer: usize },
}

impl Op {
    /// The names in messages and reports, by code.
    pub(crate) const NAMES: [&str; 10] = [
        "all_reduce",
        "all_gather",
        "reduce_scatter",
        "broadcast",
        "reduce",
        "all_to_all",
        "gather",
        "scatter",
        "send",
        "recv",
    ];

    /// A number for each operation, whatever its reduction, root or peer.
    pub(crate) fn code(self) -> usize {
        match self {
            Op::AllReduce(_) => 0,
            Op::AllGather => 1,
            Op::ReduceScatter(_) => 2,
            Op::Broadcast { .. } => 3,
            Op::Reduce { .. } => 4,
            Op::AllToAll => 5,
            Op::Gather { .. } => 6,
            Op::Scatter { .. } => 7,
            Op::Send { .. } => 8,
            Op::Recv { .. } => 9,
        }
    }

    /// The name in messages and reports.
    pub(crate) fn name(self) -> &'static str {
        Self::NAMES[self.code()]
    }

    /// Whether NCCL has symmetric kernels for it, for some types.
    #[cfg(feature = "cuda")]
    pub(crate) fn has_symmetric_kernels(self) -> bool {
        matches!(
            self,
            Op::AllReduce(_) | Op::AllGather | Op::ReduceScatter(_)
        )
    }

    /// Whether NCCL makes sends and receives of it.
    pub(crate) fn is_exchange(self) -> bool {
        matches!(
            self,
            Op::AllToAll
                | Op::Gather { .. }
                | Op::Scatter { .. }
                | Op::Send { .. }
                | Op::Recv { .. }
        )
    }

    /// Elements that this rank reads and writes for a `count` in NCCL's sense, in a group of `size`
    /// of which it is `rank`.
    ///
    /// NCCL's counts: all_reduce, broadcast, reduce, send and recv: elements of the buffer;
    /// all_gather, all_to_all, gather and scatter: elements of one rank's part; reduce_scatter:
    /// elements received
    /// (<https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api/colls.html>).
    pub(crate) fn lengths(self, count: usize, rank: usize, size: usize) -> (usize, usize) {
        match self {
            Op::AllReduce(_) => (count, count),
            Op::AllGather => (count, count * size),
            Op::ReduceScatter(_) => (count * size, count),
            Op::AllToAll => (count * size, count * size),
            Op::Broadcast { root } => (if rank == root { count } else { 0 }, count),
            Op::Reduce { root, .. } => (count, if rank == root { count } else { 0 }),
            Op::Gather { root } => (count, if rank == root { count * size } else { 0 }),
            Op::Scatter { root } => (if rank == root { count * size } else { 0 }, count),
            Op::Send { .. } => (count, 0),
            Op::Recv { .. } => (0, count),
        }
    }
}

/// One operation with its memory: addresses on this rank's device, 0 for an operand that this rank
/// does not have.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub op: Op,
    pub dtype: Dtype,
    /// Elements, in NCCL's sense for `op`.
    pub count: usize,
    pub send: u64,
    pub recv: u64,
    /// Take a kernel that uses no window although the operands lie in one (see `Reason::Defect`).
    pub avoid_windows: bool,
}
