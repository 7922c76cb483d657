//! The time that collectives take on a device: none that passes, but one that tests can choose.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::header::Header;
use crate::backend::call::Op;

/// A collective that has run, as [`Options::costs`](super::Options::costs) sees it.
///
/// ```
/// use symm_core::host::Launched;
/// // Ranks need not see the same: a slow one is what the others wait for.
/// let costs = |call: &Launched| if call.rank == 1 { 2 * call.bytes } else { call.bytes };
/// let _: fn(&Launched) -> u64 = costs;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Launched {
    /// Its name, e.g. `all_reduce`.
    pub operation: &'static str,
    /// Bytes of the whole buffer: of all ranks' parts together in all_gather and reduce_scatter.
    pub bytes: u64,
    /// Whether it ran on windows.
    pub symmetric: bool,
    /// The rank in its communicator.
    pub rank: usize,
    /// Ranks of the communicator.
    pub ranks: usize,
    /// How many collectives the device has run before.
    pub nth: u64,
}

/// What collectives cost, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Costs {
    pub(super) model: &'static str,
    pub(super) costs: fn(&Launched) -> u64,
}

/// A device's clock: it goes on when a collective has run.
#[derive(Debug)]
pub(super) struct Clock {
    costs: Option<Costs>,
    nanoseconds: AtomicU64,
    launched: AtomicU64,
}

impl Clock {
    pub(super) fn new(costs: Option<Costs>) -> Self {
        Self {
            costs,
            nanoseconds: AtomicU64::new(0),
            launched: AtomicU64::new(0),
        }
    }

    pub(super) fn now(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::Acquire))
    }

    /// A collective has run.
    pub(super) fn ran(&self, header: &Header, rank: usize, ranks: usize) {
        let Some(Costs { costs, .. }) = self.costs else {
            return;
        };
        let parts = match header.op {
            Op::AllGather | Op::ReduceScatter(_) => ranks as u64,
            _ => 1,
        };
        let cost = costs(&Launched {
            operation: header.op.name(),
            bytes: header.count * header.dtype.bytes() as u64 * parts,
            symmetric: header.symmetric,
            rank,
            ranks,
            nth: self.launched.fetch_add(1, Ordering::Relaxed),
        });
        self.nanoseconds.fetch_add(cost, Ordering::AcqRel);
    }
}
