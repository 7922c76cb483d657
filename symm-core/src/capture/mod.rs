//! CUDA graphs that own every byte they touch.
//!
//! The way of a capture: [`GraphPool::capture`] runs the step as a **prime**, which allocates from
//! the pool's arenas and grows them, and leaves a [`Need`]; [`Capture::begin`] makes room for that
//! and agrees with the peers; the step runs again, recorded, its blocks placed by the pool's
//! captures alone; [`Capture::end`] compares with the peers and hands out the [`Graph`], which keeps
//! what it uses.
//!
//! | file | concept |
//! |---|---|
//! | `pool` | the pool: its arenas, its graphs |
//! | `need` | what a capture will allocate |
//! | `prime`, `guard` | the two passes |
//! | `active` | the pass that is under way on a thread |
//! | `uses` | the memory that it uses, and keeps |
//! | `arena`, `layout` | where blocks go |
//! | `compare` | whether the ranks did the same |
//! | `graph`, `order` | launching, in the pool's order |

pub(crate) mod active;
pub(crate) mod arena;
mod compare;
mod graph;
mod guard;
mod layout;
mod need;
mod options;
mod order;
mod pool;
mod prime;
mod stats;
pub(crate) mod uses;

pub use graph::Graph;
pub use guard::Capture;
pub use need::Need;
pub use options::{CaptureMode, GraphOptions};
pub use pool::GraphPool;
pub use prime::Prime;
pub use stats::{CapturedCall, GraphArenaStats, GraphPoolStats, GraphStats};

/// Which run of a step it is.
///
/// ```
/// # use symm_core::{GraphPool, Host, Pass, Result, World};
/// # World::<Host>::run(1, |world| {
/// # let graphs = GraphPool::new(world.pool());
/// let mut passes = Vec::new();
/// graphs.capture(world.stream(), |pass| -> Result<()> {
///     passes.push(pass);
///     Ok(())
/// })?;
/// assert_eq!(passes, [Pass::Prime, Pass::Capture]);
/// # Ok(())
/// # })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// The step is executed, to learn what it needs. What it changes stays changed: a position in
    /// a cache, a counter, the state of a random number generator.
    Prime,
    /// The step is recorded: nothing runs on the device before the graph is launched.
    Capture,
}
