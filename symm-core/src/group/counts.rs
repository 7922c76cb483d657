//! How often each operation took which path.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};

use super::path::{Path, Reason};
use crate::backend::call::Op;

/// How often an operation of a group took a path, eagerly or in a capture (replays are not
/// counted). From [`Group::counts`](crate::Group::counts).
///
/// ```
/// use symm_core::{Host, Path, ReduceOp, World, groups, symm};
/// groups! { pub Tp = "tp"; }
/// World::<Host>::run(2, |world| {
///     let tp = world.split::<Tp>(0, 0)?;
///     let mut x = symm!(group = tp, { tp.zeros::<f32>(4)? })?;
///     tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
///     tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
///     let counts = tp.counts();
///     assert_eq!((counts.len(), counts[0].operation, counts[0].path), (1, "all_reduce", Path::Symmetric));
///     assert_eq!((counts[0].calls, counts[0].bytes), (2, 32));
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PathCount {
    /// The operation, e.g. `all_reduce`.
    pub operation: &'static str,
    /// The path.
    pub path: Path,
    /// Calls.
    pub calls: u64,
    /// Bytes of these calls: of the buffer, or of one rank's part.
    pub bytes: u64,
}

const PATHS: usize = 1 + Reason::ALL.len();

/// Counters by operation and path.
#[derive(Debug)]
pub(crate) struct Counts([[Count; PATHS]; Op::NAMES.len()]);

#[derive(Debug, Default)]
struct Count {
    calls: AtomicU64,
    bytes: AtomicU64,
}

impl Default for Counts {
    fn default() -> Self {
        Self(array::from_fn(|_| array::from_fn(|_| Count::default())))
    }
}

#[inline]
fn column(path: Path) -> usize {
    match path {
        Path::Symmetric => 0,
        Path::Plain(reason) => 1 + reason as usize,
    }
}

impl Counts {
    /// Says whether the operation takes the path for the first time.
    ///
    /// Only by who is inside the group's arena: one thread at a time, so nothing is lost by writing
    /// without a locked instruction.
    #[inline]
    pub(crate) fn add(&self, op: Op, path: Path, bytes: u64) -> bool {
        let count = &self.0[op.code()][column(path)];
        let sums = [(&count.calls, 1), (&count.bytes, bytes)].map(|(counter, more)| {
            let sum = counter.load(Ordering::Relaxed).wrapping_add(more);
            counter.store(sum, Ordering::Relaxed);
            sum
        });
        sums[0] == 1
    }

    /// Those that are not 0.
    pub(crate) fn list(&self) -> Vec<PathCount> {
        let paths = || {
            let plain = Reason::ALL.into_iter().map(Path::Plain);
            [Path::Symmetric].into_iter().chain(plain)
        };
        let rows = Op::NAMES.iter().zip(&self.0);
        let all = rows.flat_map(|(operation, row)| {
            paths().map(move |path| {
                let count = &row[column(path)];
                PathCount {
                    operation,
                    path,
                    calls: count.calls.load(Ordering::Relaxed),
                    bytes: count.bytes.load(Ordering::Relaxed),
                }
            })
        });
        all.filter(|count| count.calls > 0).collect()
    }
}
