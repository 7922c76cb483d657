//! Which way a collective goes: the one place where that is decided, and the rules of the NCCL
//! versions that decide it.

use std::fmt;

use crate::backend::call::{Op, ReduceOp};
use crate::backend::defects;
use crate::element::Dtype;

/// How a collective ran. Never unknown.
///
/// ```
/// use symm_core::{Host, Path, Reason, ReduceOp, World, groups, symm};
/// groups! { pub Tp = "tp"; }
/// World::<Host>::run(2, |world| {
///     let tp = world.split::<Tp>(0, 0)?;
///     let mut x = symm!(group = tp, { tp.zeros::<f32>(4)? })?;
///     assert_eq!(tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?, Path::Symmetric);
///     assert_eq!(tp.broadcast_in_place(&mut x, 0)?, Path::Plain(Reason::NoKernel));
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// A symmetric kernel on the group's window.
    Symmetric,
    /// NCCL without the window, for this reason: its ordinary kernels, or from 2.29.2 on, for small
    /// messages, symmetric LL kernels that copy through NCCL's own buffers.
    Plain(Reason),
}

/// Why a collective did not take a symmetric kernel on the window.
///
/// ```
/// # use symm_core::{Host, Path, Reason, World, groups, symm};
/// # groups! { pub Tp = "tp"; }
/// # World::<Host>::run(2, |world| {
/// # let tp = world.split::<Tp>(0, 0)?;
/// let mut x = symm!(group = tp, { tp.zeros::<f32>(4)? })?;
/// match tp.broadcast_in_place(&mut x, 0)? {
///     Path::Plain(reason @ Reason::NoKernel) => {
///         assert_eq!(reason.to_string(), "NCCL has no symmetric kernel for it");
///     }
///     path => panic!("{path}"),
/// }
/// # Ok(())
/// # })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The group has one rank.
    SingleRank,
    /// There is nothing to move.
    Empty,
    /// The buffer comes from a scope that was switched off with `when = false`.
    Disabled,
    /// An operand lies in no window of the group: it was passed as `plain(..)`.
    Foreign,
    /// NCCL has no symmetric kernel for this operation, reduction or type.
    NoKernel,
    /// NCCL gives this communicator no windows.
    Unsupported,
    /// Windows are there, but NCCL takes no symmetric kernels on this machine (ranks that are not
    /// joined by NVLink, or settings).
    NotDirect,
    /// A known defect of this NCCL version, which this path avoids.
    Defect,
    /// More bytes than symmetric kernels take.
    TooLarge,
    /// It is faster without the window, and ran on the group's twin communicator: see
    /// [`Group::calibrate`](crate::Group::calibrate).
    Faster,
}

impl Reason {
    /// All reasons, in the order of their numbers.
    pub(crate) const ALL: [Reason; 10] = [
        Reason::SingleRank,
        Reason::Empty,
        Reason::Disabled,
        Reason::Foreign,
        Reason::NoKernel,
        Reason::Unsupported,
        Reason::NotDirect,
        Reason::Defect,
        Reason::TooLarge,
        Reason::Faster,
    ];
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Symmetric => f.write_str("symmetric"),
            Path::Plain(reason) => write!(f, "plain: {reason}"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::SingleRank => "a group of one rank",
            Reason::Empty => "nothing to move",
            Reason::Disabled => "the scope was switched off",
            Reason::Foreign => "an operand is in no window of the group",
            Reason::NoKernel => "NCCL has no symmetric kernel for it",
            Reason::Unsupported => "the communicator has no windows",
            Reason::NotDirect => "NCCL takes no symmetric kernels on this machine",
            Reason::Defect => "a known defect of this NCCL version is avoided",
            Reason::TooLarge => "too large for symmetric kernels",
            Reason::Faster => "faster without the window",
        })
    }
}

/// Where an operand is, as far as the path depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spot {
    /// So many bytes from the start of a window of the group.
    Window(u64),
    /// Elsewhere, for this reason.
    Outside(Reason),
    /// This rank has no such operand.
    Absent,
}

/// What is known of the communicator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// As NCCL writes it: 2.30.7 is 23007.
    pub(crate) version: u32,
    pub(crate) ranks: usize,
    /// Whether symmetric kernels run on this machine; `None` while no window is registered.
    pub(crate) kernels: Option<bool>,
    /// Whether symmetric kernels of this call would read too early.
    pub(crate) reads_early: bool,
}

/// From this version on, only the operand that peers address has to be in a window
/// (`sym_kernels.cc`, 2.29.2).
const ONE_WINDOW: u32 = 22902;
/// `ncclSymkAvailable`: symmetric kernels end at this many bytes on the bus.
const LARGEST: u64 = 64 << 30;

/// What to do with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) path: Path,
    /// NCCL would take the window by itself, and must be kept from it.
    pub(crate) avoid_windows: bool,
    /// It runs on the twin communicator.
    pub(crate) on_twin: bool,
}

impl Choice {
    /// Without the window, which NCCL would not take either.
    #[inline]
    pub(crate) const fn plain(reason: Reason) -> Self {
        Self {
            path: Path::Plain(reason),
            avoid_windows: false,
            on_twin: false,
        }
    }

    /// The same, or the twin where windows would be taken and are slower.
    #[inline]
    pub(crate) fn or_twin(self, is_faster: impl FnOnce() -> bool) -> Self {
        match self.path {
            Path::Symmetric if is_faster() => Self {
                on_twin: true,
                ..Self::plain(Reason::Faster)
            },
            _ => self,
        }
    }

    /// On the twin together with an exchange ([`EXCHANGE_FIRST`](defects::EXCHANGE_FIRST)).
    pub(crate) fn apart(self) -> Self {
        Self {
            path: match self.path {
                Path::Symmetric => Path::Plain(Reason::Defect),
                plain => plain,
            },
            avoid_windows: false,
            on_twin: true,
        }
    }
}

/// The path of one call.
pub(crate) fn choose(
    op: Op,
    dtype: Dtype,
    bytes: u64,
    send: Spot,
    recv: Spot,
    facts: Facts,
) -> Choice {
    let plain = Choice::plain;
    if facts.ranks == 1 {
        return plain(Reason::SingleRank);
    }
    if bytes == 0 {
        return plain(Reason::Empty);
    }
    let Some((needs_send, needs_recv)) = windows_needed(op, facts.version) else {
        return plain(
            first_outside(send, recv)
                .filter(|reason| *reason == Reason::Disabled)
                .unwrap_or(Reason::NoKernel),
        );
    };
    let relevant = [(needs_send, send), (needs_recv, recv)]
        .into_iter()
        .filter(|(needed, _)| *needed);
    if let Some(reason) = relevant.into_iter().find_map(|(_, spot)| outside(spot)) {
        return plain(reason);
    }
    if has_defect(op, dtype, bytes, send, facts) {
        return Choice {
            avoid_windows: true,
            ..plain(Reason::Defect)
        };
    }
    if !has_kernel(op, dtype, facts.version) {
        return plain(Reason::NoKernel);
    }
    if bytes.saturating_mul(facts.ranks as u64) >= LARGEST {
        return plain(Reason::TooLarge);
    }
    match facts.kernels {
        Some(true) => Choice {
            path: Path::Symmetric,
            avoid_windows: false,
            on_twin: false,
        },
        Some(false) => plain(Reason::NotDirect),
        None => plain(Reason::Unsupported),
    }
}

fn outside(spot: Spot) -> Option<Reason> {
    match spot {
        Spot::Outside(reason) => Some(reason),
        Spot::Window(_) | Spot::Absent => None,
    }
}

fn first_outside(send: Spot, recv: Spot) -> Option<Reason> {
    outside(send).or_else(|| outside(recv))
}

/// Which of (send, recv) have to be in a window; `None` for operations that have no symmetric
/// kernels at all.
fn windows_needed(op: Op, version: u32) -> Option<(bool, bool)> {
    let one = version >= ONE_WINDOW;
    match op {
        Op::AllReduce(_) => Some((true, true)),
        Op::AllGather => Some((!one, true)),
        Op::ReduceScatter(_) => Some((true, !one)),
        _ => None,
    }
}

/// Whether NCCL has a symmetric kernel for the reduction and type (`ncclSymkImplemented`): sums of
/// `f32`, `f16` and `bf16`, gathers of everything, and from 2.30.3 on averages in reduce_scatter.
fn has_kernel(op: Op, dtype: Dtype, version: u32) -> bool {
    match op {
        Op::AllGather => true,
        Op::AllReduce(op) => op == ReduceOp::Sum && is_small_float(dtype),
        Op::ReduceScatter(ReduceOp::Sum) => is_small_float(dtype),
        Op::ReduceScatter(ReduceOp::Avg) => version >= 23_003 && is_small_float(dtype),
        _ => false,
    }
}

fn is_small_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F16 | Dtype::Bf16 | Dtype::F32)
}

/// Whether NCCL would take a symmetric kernel that it must not take. The same on all ranks: offsets
/// in windows are, and what lies elsewhere counts as unaligned.
fn has_defect(op: Op, dtype: Dtype, bytes: u64, send: Spot, facts: Facts) -> bool {
    let version = facts.version;
    let average = op == Op::AllReduce(ReduceOp::Avg) && is_small_float(dtype);
    let starts_aligned = matches!(send, Spot::Window(offset) if offset % 4 == 0);
    // Peers read a rank's part, or in place it is sent from where it lies: at multiples of its bytes.
    let parts_aligned = matches!(op, Op::AllReduce(_)) || bytes.is_multiple_of(4);
    let unaligned = dtype.bytes() < 4 && !(starts_aligned && parts_aligned);
    average && defects::AVERAGE_ALL_REDUCE.affects(version)
        || facts.reads_early && has_kernel(op, dtype, version)
        || unaligned && has_kernel(op, dtype, version) && defects::UNALIGNED_LOAD.affects(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts = Facts {
        version: 23007,
        ranks: 4,
        kernels: Some(true),
        reads_early: false,
    };
    const FOREIGN: Spot = Spot::Outside(Reason::Foreign);

    fn path(op: Op, dtype: Dtype, send: Spot, recv: Spot, facts: Facts) -> Path {
        choose(op, dtype, 1024, send, recv, facts).path
    }

    #[test]
    fn the_operand_that_peers_address_decides_from_2_29_2_on() {
        let old = Facts {
            version: 22809,
            ..FACTS
        };
        let (w, f) = (Spot::Window(0), FOREIGN);
        let sum = Op::ReduceScatter(ReduceOp::Sum);
        assert_eq!(path(Op::AllGather, Dtype::I8, f, w, FACTS), Path::Symmetric);
        assert_eq!(
            path(Op::AllGather, Dtype::I8, f, w, old),
            Path::Plain(Reason::Foreign)
        );
        assert_eq!(path(sum, Dtype::F32, w, f, FACTS), Path::Symmetric);
        assert_eq!(
            path(sum, Dtype::F32, w, f, old),
            Path::Plain(Reason::Foreign)
        );
        assert_eq!(
            path(Op::AllReduce(ReduceOp::Sum), Dtype::F32, w, f, FACTS),
            Path::Plain(Reason::Foreign)
        );
    }

    #[test]
    fn what_has_no_kernel_is_plain() {
        let (w, ops) = (
            Spot::Window(0),
            [
                Op::AllToAll,
                Op::Broadcast { root: 0 },
                Op::Send { peer: 1 },
            ],
        );
        for op in ops {
            assert_eq!(
                path(op, Dtype::F32, w, w, FACTS),
                Path::Plain(Reason::NoKernel)
            );
        }
        assert_eq!(
            path(Op::AllReduce(ReduceOp::Max), Dtype::F32, w, w, FACTS),
            Path::Plain(Reason::NoKernel)
        );
        assert_eq!(
            path(Op::AllReduce(ReduceOp::Sum), Dtype::F64, w, w, FACTS),
            Path::Plain(Reason::NoKernel)
        );
    }

    #[test]
    fn averages_are_kept_from_the_window_where_nccl_has_no_kernel_for_them() {
        let average = Op::AllReduce(ReduceOp::Avg);
        let choice = choose(
            average,
            Dtype::Bf16,
            1024,
            Spot::Window(0),
            Spot::Window(0),
            FACTS,
        );
        assert_eq!(
            choice,
            Choice {
                avoid_windows: true,
                ..Choice::plain(Reason::Defect)
            }
        );
        let old = Facts {
            version: 22907,
            ..FACTS
        };
        assert_eq!(
            path(average, Dtype::Bf16, Spot::Window(0), Spot::Window(0), old),
            Path::Plain(Reason::NoKernel)
        );
    }

    #[test]
    fn what_nccl_loads_wrongly_is_kept_from_the_window() {
        let old = Facts {
            version: 22809,
            ..FACTS
        };
        let (sum, odd, even) = (ReduceOp::Sum, Spot::Window(6), Spot::Window(8));
        let defect = Path::Plain(Reason::Defect);
        assert_eq!(path(Op::AllReduce(sum), Dtype::F16, odd, even, old), defect);
        assert_eq!(
            path(Op::AllReduce(sum), Dtype::F16, even, odd, old),
            Path::Symmetric
        );
        assert_eq!(
            path(Op::AllReduce(sum), Dtype::F16, odd, even, FACTS),
            Path::Symmetric
        );
        let scattered = choose(Op::ReduceScatter(sum), Dtype::Bf16, 1022, even, even, old);
        assert_eq!(
            scattered,
            Choice {
                avoid_windows: true,
                ..Choice::plain(Reason::Defect)
            }
        );
    }
}
