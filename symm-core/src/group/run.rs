//! Starting worlds, with their ranks as threads or as one process each, and seeing ranks that are
//! threads to their end.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use super::config::Config;
use super::world::World;
use crate::backend::Backend;
use crate::backend::driver::Seat;
use crate::error::{Error, Result};
use crate::launch::Launcher;
use crate::launch::place::Place;
use crate::pool::reaper::wait_at_thread_end;
use crate::rendezvous::Rendezvous;
use crate::scope::routing;

/// How long teardown may take after a rank has ended.
const TEARDOWN: Duration = Duration::from_secs(60);

impl<B: Backend> World<B> {
    /// Runs `f` on `ranks` threads of this process, each with a world of its own, and returns what
    /// they return, by rank.
    ///
    /// On GPUs, CUDA loads kernels when they are first used and may hold a lock of the driver for it,
    /// while a rank of the same process waits for a collective: run every shape once with waits in
    /// between, or set `CUDA_MODULE_LOADING=EAGER`.
    ///
    /// When one rank returns an error or panics, the others are told: they get
    /// [`Error::PeerFailed`] or [`Error::Poisoned`] where they would wait for it.
    ///
    /// ```
    /// # use symm_core::{Error, Host, World};
    /// let ranks = World::<Host>::run(3, |world| Ok(10 * world.rank()))?;
    /// assert_eq!(ranks, [0, 10, 20]);
    ///
    /// let failed = World::<Host>::run(2, |world| match world.rank() {
    ///     0 => world.split_dyn("all", 0, 0).map(drop), // waits for rank 1, and is told
    ///     _ => Err(Error::Config { what: "no weights".into() }),
    /// });
    /// assert!(matches!(failed, Err(Error::Config { .. })));
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// That of the rank that failed first; if it panicked, [`Error::PeerFailed`] with its message.
    /// [`Error::Unavailable`], [`Error::TooFewDevices`] and the like before any rank starts.
    pub fn run<R: Send>(ranks: usize, f: impl Fn(World<B>) -> Result<R> + Sync) -> Result<Vec<R>> {
        Config::default().run(ranks, f)
    }

    /// As [`run`](World::run), with any error type that has `From<symm_core::Error>`.
    ///
    /// ```
    /// # use symm_core::{Host, Result, World};
    /// type Failure = Box<dyn std::error::Error + Send + Sync>;
    /// let rank = |world: World<Host>| -> Result<u8, Failure> {
    ///     let tp = world.split_dyn("tp", 0, 0)?; // an error of ours becomes one of them
    ///     Ok(u8::try_from(tp.size())?)           // and so does one of another library
    /// };
    /// assert!(World::run_with(2, rank).is_ok_and(|sizes| sizes == [2, 2]));
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// That of the rank that failed first.
    pub fn run_with<R: Send, E: From<Error> + fmt::Display + Send>(
        ranks: usize,
        f: impl Fn(World<B>) -> Result<R, E> + Sync,
    ) -> Result<Vec<R>, E> {
        Config::default().run_with(ranks, f)
    }

    /// As [`run`](World::run), with every rank's own result.
    ///
    /// ```
    /// use symm_core::{Error, Host, World};
    /// let results = World::<Host>::run_each(2, |world| match world.rank() {
    ///     0 => Ok("fine"),
    ///     _ => Err(Error::Config { what: "disk full".into() }),
    /// });
    /// assert_eq!(results[0].as_ref().ok(), Some(&"fine"));
    /// assert!(results[1].as_ref().is_err_and(|e| e.to_string().contains("disk full")));
    /// ```
    pub fn run_each<R: Send>(
        ranks: usize,
        f: impl Fn(World<B>) -> Result<R> + Sync,
    ) -> Vec<Result<R>> {
        Config::default().run_each(ranks, f)
    }

    /// This process's rank of a world of processes, as `torchrun`, `mpirun` or `srun` started it, or
    /// with variables that were set by hand: see [`Launcher`]. Waits for all ranks.
    ///
    /// ```
    /// # use symm_core::{Host, Launcher, World};
    /// # // Two processes of this program, with the variables that torchrun sets.
    /// # use std::{env, net::TcpListener, process::Command};
    /// # if env::var_os("SYMM_DOC_FROM_ENV").is_none() {
    /// #     let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
    /// #     let start = |rank| {
    /// #         let ranks = [("RANK", rank), ("WORLD_SIZE", "2"), ("LOCAL_RANK", rank)];
    /// #         let place = [("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &*port)];
    /// #         let ours = [("SYMM_LAUNCHER", "torchrun"), ("SYMM_DOC_FROM_ENV", "1")];
    /// #         let mut program = Command::new(env::current_exe()?);
    /// #         program.args(env::args_os().skip(1)).envs(ranks).envs(place).envs(ours).spawn()
    /// #     };
    /// #     for mut rank in [start("0")?, start("1")?] {
    /// #         assert!(rank.wait()?.success());
    /// #     }
    /// #     return Ok(());
    /// # }
    /// // In each of two processes that torchrun started:
    /// let world = World::<Host>::from_env()?;
    /// assert_eq!((world.size(), world.launcher()), (2, Launcher::Torchrun));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Environment`] names the variable that is missing or malformed, and whose it is;
    /// [`Error::Rendezvous`]; those of the backend.
    pub fn from_env() -> Result<Self> {
        Config::default().from_env()
    }
}

impl<B: Backend> Config<B> {
    /// As [`World::run`], with these settings.
    ///
    /// ```
    /// # use symm_core::{Config, Host};
    /// let config = Config::<Host>::default().budget(1 << 30);
    /// let ranks = config.run(3, |world| Ok(10 * world.rank()))?;
    /// assert_eq!(ranks, [0, 10, 20]);
    /// # Ok::<(), symm_core::Error>(())
    /// ```
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
    /// ```
    /// # use symm_core::{Config, Host, Result};
    /// type Failure = Box<dyn std::error::Error + Send + Sync>;
    /// let config = Config::<Host>::default();
    /// let numbers = config.run_with(2, |world| -> Result<i32, Failure> {
    ///     let number = ["7", "seven"][world.rank()].parse()?; // an error that is not ours
    ///     Ok(number)
    /// });
    /// assert!(numbers.is_err_and(|error| error.is::<std::num::ParseIntError>()));
    /// # Ok::<(), symm_core::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use symm_core::{Config, Error, Host};
    /// let config = Config::<Host>::default();
    /// let outcomes = config.run_each(2, |world| match world.rank() {
    ///     0 => Ok(world.size()),
    ///     _ => Err(Error::Config { what: "no weights".into() }),
    /// });
    /// assert!(matches!(outcomes[..], [Ok(2), Err(Error::Config { .. })]));
    /// ```
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
    /// ```
    /// # use symm_core::{Config, Host, Launcher, Result, World};
    /// fn rank(world: World<Host>) -> Result<()> {
    ///     assert_eq!(world.pool().stats().budget_bytes, 1 << 30);
    ///     world.check()
    /// }
    /// let config = Config::<Host>::default().budget(1 << 30);
    /// match Launcher::detect()? {
    ///     Some(_) => config.from_env().and_then(rank)?, // one process a rank
    ///     None => drop(config.run(2, rank)?),           // nobody has started ranks: threads
    /// }
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`World::from_env`].
    pub fn from_env(&self) -> Result<World<B>> {
        let seat = self.seat()?;
        let world = World::open(seat, self)?;
        wait_at_thread_end(world.progress());
        Ok(world)
    }

    /// This process's seat among its peers, as its launcher says. Waits for all of them.
    pub(crate) fn seat(&self) -> Result<Seat> {
        let place = Place::from_env(|name| std::env::var_os(name))?;
        let rendezvous = Rendezvous::connect(
            place.rank,
            place.ranks,
            &place.host,
            place.port,
            self.limits.deadline,
        )?;
        Ok(Seat {
            launcher: place.launcher,
            rank: place.rank,
            ranks: place.ranks,
            local_rank: place.local_rank,
            local_ranks: place.local_ranks,
            processes: true,
            rendezvous: Arc::new(rendezvous),
            deadline: self.limits.deadline,
        })
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
                launcher: Launcher::Threads,
                rank,
                ranks,
                local_rank: rank,
                local_ranks: ranks,
                processes: false,
                rendezvous: Arc::new(rendezvous),
                deadline: self.limits.deadline,
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
    pub(crate) fn rank<R, E: From<Error> + fmt::Display>(
        &self,
        seat: Seat,
        f: impl FnOnce(World<B>) -> Result<R, E>,
        first: &OnceLock<usize>,
    ) -> Result<R, E> {
        let (rank, rendezvous) = (seat.rank, Arc::clone(&seat.rendezvous));
        let failed = |error: &dyn fmt::Display| {
            rendezvous.fail(&error.to_string());
            // Not always this one: also a rank's device, or its reaper, may be the first to fail.
            let _ = first.set(match rendezvous.failure() {
                Some(Error::PeerFailed { rank, .. }) => rank,
                _ => rank,
            });
        };
        let world = World::open(seat, self).inspect_err(|error| failed(error))?;
        let progress = world.progress();
        // Says goodbye when it is dropped, and peers must not hear that before why it failed.
        let stays = Arc::clone(world.inner());
        let outcome = catch_unwind(AssertUnwindSafe(|| f(world)))
            .unwrap_or_else(|panic| Err(panicked(rank, panic.as_ref()).into()))
            .inspect_err(|error| {
                // The board may know of a peer's failure before the rendezvous does.
                if let Err(Error::Poisoned { rank, .. }) = stays.check() {
                    let _ = first.set(rank);
                }
                failed(error);
            });
        drop(stays);
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
