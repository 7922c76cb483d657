//! How a world is started: sizes, deadlines, threads or processes.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use super::env::Launch;
use super::world::World;
use crate::Cuda;
use crate::backend::Backend;
use crate::backend::driver::Seat;
use crate::error::{Error, Result};
use crate::pool::PoolConfig;
use crate::pool::reaper::wait_at_thread_end;
use crate::rendezvous::Rendezvous;
use crate::scope::routing;

/// How long teardown may take after a rank has ended.
const TEARDOWN: Duration = Duration::from_secs(60);

/// Settings of a world. The same on all ranks.
///
/// ```
/// use symm_core::{Config, Host, host};
///
/// let config = Config::<Host>::default().budget(64 << 20).options(host::Options::default().seed(7));
/// let budgets = config.run(2, |world| Ok(world.pool().stats().budget_bytes))?;
/// assert_eq!(budgets, [64 << 20, 64 << 20]);
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Config<B: Backend = Cuda> {
    pub(crate) pool: PoolConfig,
    pub(crate) deadline: Duration,
    pub(crate) options: B::Options,
}

impl<B: Backend> Default for Config<B> {
    fn default() -> Self {
        let pool = PoolConfig {
            first_segment: 8 << 20,
            segment_cap: 1 << 30,
            budget: u64::MAX,
        };
        Self {
            pool,
            deadline: Duration::from_secs(600),
            options: B::Options::default(),
        }
    }
}

impl<B: Backend> Config<B> {
    /// Bytes of an arena's first segment; each further one doubles. 8 MiB by default.
    pub fn first_segment(mut self, bytes: u64) -> Self {
        self.pool.first_segment = bytes;
        self
    }

    /// Segments double up to this many bytes; one allocation may need a larger one. 1 GiB by
    /// default.
    pub fn segment_cap(mut self, bytes: u64) -> Self {
        self.pool.segment_cap = bytes;
        self
    }

    /// The most bytes that the segments of a rank may take together. No limit by default.
    pub fn budget(mut self, bytes: u64) -> Self {
        self.pool.budget = bytes;
        self
    }

    /// How long a rank waits for live peers at an agreed point. 10 minutes by default: peers may be
    /// compiling or tuning.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Settings of the backend, such as [`host::Options`](crate::host::Options).
    pub fn options(mut self, options: B::Options) -> Self {
        self.options = options;
        self
    }

    /// As [`World::run`], with these settings.
    ///
    /// # Errors
    /// As for [`World::run`].
    pub fn run<R: Send>(
        &self,
        ranks: usize,
        f: impl Fn(World<B>) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        self.run_with(ranks, f)
    }

    /// As [`World::run_with`], with these settings.
    ///
    /// # Errors
    /// As for [`World::run_with`].
    pub fn run_with<R: Send, E: From<Error> + fmt::Display + Send>(
        &self,
        ranks: usize,
        f: impl Fn(World<B>) -> Result<R, E> + Sync,
    ) -> Result<Vec<R>, E> {
        let (outcomes, failed) = self.threads(ranks, &f)?;
        let mut results = Vec::with_capacity(ranks);
        let mut errors = BTreeMap::new();
        for (rank, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Ok(result) => results.push(result),
                Err(error) => drop(errors.insert(rank, error)),
            }
        }
        // The others only heard of the first one's failure.
        let first = failed.and_then(|rank| errors.remove(&rank));
        match first.or_else(|| errors.pop_first().map(|(_, error)| error)) {
            Some(error) => Err(error),
            None => Ok(results),
        }
    }

    /// As [`World::run_each`], with these settings.
    pub fn run_each<R: Send>(
        &self,
        ranks: usize,
        f: impl Fn(World<B>) -> Result<R> + Sync,
    ) -> Vec<Result<R>> {
        match self.threads(ranks, &f) {
            Ok((outcomes, _)) => outcomes,
            Err(error) => (0..ranks).map(|_| Err(error.clone())).collect(),
        }
    }

    /// As [`World::from_env`], with these settings.
    ///
    /// # Errors
    /// As for [`World::from_env`].
    pub fn from_env(&self) -> Result<World<B>> {
        let launch = Launch::from_env(|name| std::env::var_os(name))?;
        let rendezvous = Rendezvous::connect(
            launch.rank,
            launch.ranks,
            &launch.host,
            launch.port,
            self.deadline,
        )?;
        let seat = Seat {
            rank: launch.rank,
            ranks: launch.ranks,
            local_rank: launch.local_rank,
            local_ranks: launch.local_ranks,
            processes: true,
            rendezvous: Arc::new(rendezvous),
            deadline: self.deadline,
        };
        let world = World::open(seat, self)?;
        wait_at_thread_end(world.progress());
        Ok(world)
    }

    /// Every rank's result, and the rank that failed first.
    fn threads<R: Send, E: From<Error> + fmt::Display + Send>(
        &self,
        ranks: usize,
        f: &(impl Fn(World<B>) -> Result<R, E> + Sync),
    ) -> Result<(Vec<Result<R, E>>, Option<usize>)> {
        if ranks == 0 {
            return Err(Error::Config {
                what: "a world has at least one rank".into(),
            });
        }
        let first = OnceLock::new();
        let seats = Rendezvous::threads(ranks)
            .into_iter()
            .enumerate()
            .map(|(rank, rendezvous)| Seat {
                rank,
                ranks,
                local_rank: rank,
                local_ranks: ranks,
                processes: false,
                rendezvous: Arc::new(rendezvous),
                deadline: self.deadline,
            });
        let outcomes: Result<_> = thread::scope(|scope| {
            let threads: Vec<_> = seats
                .map(|seat| {
                    thread::Builder::new()
                        .name(format!("rank-{}", seat.rank))
                        .spawn_scoped(scope, || self.rank(seat, f, &first))
                })
                .collect();
            threads
                .into_iter()
                .enumerate()
                .map(
                    |(rank, thread)| match thread.map(thread::ScopedJoinHandle::join) {
                        Ok(Ok(outcome)) => Ok(outcome),
                        Ok(Err(panic)) => Ok(Err(panicked(rank, panic.as_ref()).into())),
                        Err(error) => Err(Error::Config {
                            what: format!("rank {rank}: no thread could be started: {error}")
                                .into(),
                        }),
                    },
                )
                .collect()
        });
        Ok((outcomes?, first.into_inner()))
    }

    /// One rank from its seat to its teardown. `first` gets the rank that failed before all others.
    fn rank<R, E: From<Error> + fmt::Display>(
        &self,
        seat: Seat,
        f: &impl Fn(World<B>) -> Result<R, E>,
        first: &OnceLock<usize>,
    ) -> Result<R, E> {
        let (rank, rendezvous) = (seat.rank, Arc::clone(&seat.rendezvous));
        let failed = |error: &dyn fmt::Display| {
            // Before the peers hear of it, and fail in turn.
            let _ = first.set(rank);
            rendezvous.fail(&error.to_string());
        };
        let world = World::open(seat, self).inspect_err(|error| failed(error))?;
        let progress = world.progress();
        let outcome = catch_unwind(AssertUnwindSafe(|| f(world)))
            .unwrap_or_else(|panic| Err(panicked(rank, panic.as_ref()).into()))
            .inspect_err(|error| failed(error));
        let leaked = routing::clear::<B>();
        let torn_down = progress.wait(TEARDOWN);
        let result = outcome?;
        match leaked {
            Some(site) => Err(Error::ScopeLeaked { site }.into()),
            None => torn_down.map(|()| result).map_err(E::from),
        }
    }
}

fn panicked(rank: usize, panic: &(dyn Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::PeerFailed {
        rank,
        cause: format!("it panicked: {}", text.unwrap_or("no message")).into(),
    }
}
