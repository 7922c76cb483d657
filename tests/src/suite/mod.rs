//! The conformance suite: what every backend has to do.
//!
//! A case runs on all ranks of a world together. On the host backend each gets a world of its own;
//! on GPUs, where a world takes seconds to make, all share one, so a case leaves nothing behind,
//! which [`Case::run`] checks. Nothing here holds on one backend alone: contents of uninitialised
//! memory, limits of memory and injected faults have tests of their own.
//!
//! The figures are those of a world with default settings and of a machine whose communicators have
//! windows.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use symm_core::{Backend, Buf, PoolStats, World, groups};

#[macro_use]
mod check;
mod data;
mod ranks;

mod batch;
mod buffers;
mod capture_errors;
mod capture_exits;
mod capture_peers;
mod captures;
mod collectives;
#[cfg(feature = "cuda")]
mod cudarc;
#[cfg(feature = "cuda")]
mod cudarc_graphs;
mod errors;
mod faster;
mod graph_drops;
mod groups;
mod leases;
mod macros;
mod paths;
mod pool;
mod programs;
mod redirection;
mod registration;
mod replay_streams;
mod replays;
mod scopes;
mod shared;
mod sharing;
mod sleep;
mod steps;
mod streams;
mod teardown;
mod types;
mod versions;
mod views;

pub use check::{Failure, Outcome};
#[cfg(feature = "cuda")]
pub use cudarc::cases as with_cudarc;
pub use teardown::{FAREWELL, farewell};

groups! {
    /// The group of most cases.
    pub Tp = "tp";
    /// Another one.
    pub Cp = "cp";
    /// Shares an arena with [`Right`].
    pub Left = "left";
    /// Shares an arena with [`Left`].
    pub Right = "right";
    arena(Left, Right);
}

/// One thing that has to work.
#[derive(Clone, Copy, Debug)]
pub struct Case<B: Backend> {
    /// The concept, e.g. `scopes`.
    pub concept: &'static str,
    /// What has to work.
    pub name: &'static str,
    /// The fewest ranks it makes sense for.
    pub ranks: usize,
    body: fn(&World<B>) -> Outcome,
}

impl<B: Backend> Case<B> {
    /// A case of the module that `path` names.
    pub fn new(
        path: &'static str,
        name: &'static str,
        ranks: usize,
        body: fn(&World<B>) -> Outcome,
    ) -> Self {
        let concept = path.rsplit("::").next().unwrap_or(path);
        Self {
            concept,
            name,
            ranks,
            body,
        }
    }

    /// `concept::name`.
    pub fn title(&self) -> String {
        format!("{}::{}", self.concept, self.name)
    }

    /// Runs the case on this rank; all ranks of the world do. A panic is a failure, and so is what
    /// is left behind.
    ///
    /// # Errors
    /// What did not hold, and where.
    pub fn run(&self, world: &World<B>) -> Outcome {
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.body)(world)));
        outcome.unwrap_or_else(|panic| Err(Failure::panicked(&*panic)))?;
        leaves_nothing(world)
    }
}

/// The concepts that are about captures and graphs.
pub const GRAPHS: [&str; 11] = [
    "redirection",
    "captures",
    "capture_exits",
    "capture_errors",
    "capture_peers",
    "leases",
    "graph_drops",
    "sharing",
    "replays",
    "replay_streams",
    "versions",
];

/// All cases, by concept.
pub fn cases<B: Backend>() -> Vec<Case<B>> {
    let concepts = [
        scopes::cases(),
        macros::cases(),
        buffers::cases(),
        views::cases(),
        collectives::cases(),
        types::cases(),
        batch::cases(),
        paths::cases(),
        registration::cases(),
        pool::cases(),
        shared::cases(),
        streams::cases(),
        groups::cases(),
        errors::cases(),
        faster::cases(),
        sleep::cases(),
        programs::cases(),
        teardown::cases(),
        redirection::cases(),
        captures::cases(),
        capture_exits::cases(),
        capture_errors::cases(),
        capture_peers::cases(),
        leases::cases(),
        graph_drops::cases(),
        sharing::cases(),
        replays::cases(),
        replay_streams::cases(),
        versions::cases(),
    ];
    concepts.into_iter().flatten().collect()
}

thread_local!(static NCCL: Cell<u32> = const { Cell::new(23007) });

/// Says whose rules hold in this thread's world, as NCCL writes versions; the reference version's
/// unless told. Which path a collective takes depends on it.
pub fn expect_nccl(version: u32) {
    NCCL.set(version);
}

fn nccl() -> u32 {
    NCCL.get()
}

/// Memory is given back behind the streams that used it, so it may take a moment.
const MOMENT: Duration = Duration::from_secs(20);

/// Waits until the pool is as it should be, and fails if that does not come.
#[track_caller]
fn settles<B: Backend>(world: &World<B>, as_it_should: impl Fn(&PoolStats) -> bool) -> Outcome {
    let end = Instant::now() + MOMENT;
    loop {
        let stats = world.pool().stats();
        if as_it_should(&stats) {
            return Ok(());
        }
        ensure!(
            Instant::now() < end,
            "left behind: {stats}, {:?}",
            stats.arenas
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// Fails unless all memory comes back and the thread's routing is as it was.
fn leaves_nothing<B: Backend>(world: &World<B>) -> Outcome {
    settles(world, |stats| {
        stats.reserved_bytes == 0
            && stats.segments == 0
            && stats.plain_live_bytes == 0
            && stats.twins == 0
            && stats.arenas.is_empty()
    })?;
    let outside: Buf<u8, B> = Buf::empty(1)?;
    ensure!(!outside.is_symmetric(), "a scope was left open");
    Ok(())
}
