//! A world whose ranks are processes of the current program.

use std::ffi::OsString;
use std::fmt;
use std::process::exit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use super::Launcher;
use super::children::{Children, ECHO};
use super::place::{Place, environment};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::group::config::Config;
use crate::group::world::World;

/// Which process started this one, and by which of its calls: `PID:CALL`.
pub(super) const STARTED: &str = "SYMM_LAUNCHED_BY";

/// Calls of `launch` in this process.
static CALLS: AtomicUsize = AtomicUsize::new(0);

impl<B: Backend> World<B> {
    /// Starts `ranks` processes of the current program, one for each rank, on this host, and waits
    /// for them. For examples and tests; `torchrun`, `mpirun` and `srun` start programs that call
    /// [`from_env`](World::from_env).
    ///
    /// Each process runs the program from its beginning with the same arguments, comes to this call,
    /// runs `f` there with its world, and **ends** with it: what follows runs in the first process
    /// alone, and what comes before runs in each. The program has to come to the same calls of
    /// `launch` in the same order in all of them; those before are passed over. Rank 0 has this
    /// process's standard input, all have its output.
    ///
    /// When a rank fails or dies, the others are told, and killed if they are still there after a
    /// second. SIGINT and SIGTERM go on to the ranks, and end this process when they are gone, if
    /// their action was the default one before. When this process dies, the ranks are killed.
    ///
    /// ```
    /// use symm_core::{Host, ReduceOp, World, groups, symm};
    /// groups! { pub Tp = "tp"; }
    /// fn main() -> symm_core::Result<()> {
    ///     World::<Host>::launch(4, |world| {
    ///         let tp = world.split::<Tp>(0, 0)?;
    ///         let mut x = symm!(group = tp, { tp.from_slice(&[1.0f32])? })?;
    ///         tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    ///         assert_eq!(x.to_vec()?, [4.0]);
    ///         Ok(())
    ///     })?;
    ///     println!("four processes have ended well");
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`Error::PeerFailed`] names the rank that failed or died first, and how; an error of its own
    /// it wrote to the standard error. [`Error::Unsupported`] inside of `f`, and in a process that is
    /// a rank of a larger world already.
    pub fn launch(ranks: usize, f: impl FnOnce(World<B>) -> Result<()>) -> Result<()> {
        Config::default().launch(ranks, f)
    }

    /// As [`launch`](World::launch), with any error type that has `From<symm_core::Error>`.
    ///
    /// ```
    /// # use symm_core::{Host, Result, World};
    /// World::<Host>::launch_with(2, |world| -> Result<(), Box<dyn std::error::Error>> {
    ///     let rank = u8::try_from(world.rank())?; // an error of another library
    ///     assert!(rank < 2);
    ///     Ok(world.check()?)
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for [`launch`](World::launch).
    pub fn launch_with<E: From<Error> + fmt::Display>(
        ranks: usize,
        f: impl FnOnce(World<B>) -> Result<(), E>,
    ) -> Result<(), E> {
        Config::default().launch_with(ranks, f)
    }
}

impl<B: Backend> Config<B> {
    /// As [`World::launch`], with these settings.
    ///
    /// ```
    /// # use symm_core::{Config, Error, Host};
    /// let config = Config::<Host>::default().budget(1 << 30);
    /// config.launch(2, |world| {
    ///     assert_eq!(world.pool().stats().budget_bytes, 1 << 30);
    ///     Ok(())
    /// })?;
    /// let failed = config.launch(2, |world| match world.rank() {
    ///     0 => world.check(),
    ///     _ => Err(Error::Config { what: "no weights".into() }),
    /// });
    /// assert!(matches!(failed, Err(Error::PeerFailed { rank: 1, .. })));
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`World::launch`].
    pub fn launch(&self, ranks: usize, f: impl FnOnce(World<B>) -> Result<()>) -> Result<()> {
        self.launch_with(ranks, f)
    }

    /// As [`World::launch_with`], with these settings.
    ///
    /// ```
    /// # use symm_core::{Config, Host, Result};
    /// let config = Config::<Host>::default();
    /// config.launch_with(2, |world| -> Result<(), Box<dyn std::error::Error>> {
    ///     let text = std::str::from_utf8(b"7")?; // an error of another library
    ///     assert_eq!(text.parse::<usize>()? + world.rank(), [7, 8][world.rank()]);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for [`World::launch`].
    pub fn launch_with<E: From<Error> + fmt::Display>(
        &self,
        ranks: usize,
        f: impl FnOnce(World<B>) -> Result<(), E>,
    ) -> Result<(), E> {
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        match Started::from_env(std::env::var_os(STARTED))? {
            Some(started) if call < started.call => Ok(()),
            Some(started) if call == started.call => self.be_rank(&started, f),
            Some(_) => Err(nested("the process was started by World::launch").into()),
            None => {
                if let Ok(Place {
                    launcher,
                    rank,
                    ranks: all @ 2..,
                    ..
                }) = Place::from_env(|name| std::env::var_os(name))
                {
                    let who = format!("this process is rank {rank} of {all} by {launcher}");
                    return Err(nested(&who).into());
                }
                let arguments = match self.arguments() {
                    Some(arguments) => arguments.to_vec(),
                    None => std::env::args_os().skip(1).collect::<Vec<OsString>>(),
                };
                Ok(Children::start(ranks, &arguments, call)?.supervise()?)
            }
        }
    }

    /// Runs `f` as the rank that this process is, and ends the process.
    fn be_rank<E: From<Error> + fmt::Display>(
        &self,
        started: &Started,
        f: impl FnOnce(World<B>) -> Result<(), E>,
    ) -> ! {
        let first = OnceLock::new();
        let outcome = started.stay_with_parent().and_then(|()| self.seat());
        let outcome = outcome.map_err(E::from).and_then(|seat| {
            let rank = seat.rank;
            self.rank(seat, f, &first).map_err(|error| {
                match first.get() {
                    // That rank says why.
                    Some(other) if *other != rank => exit(ECHO),
                    _ => error,
                }
            })
        });
        match outcome {
            Ok(()) => exit(0),
            Err(error) => {
                let rank = std::env::var("SYMM_RANK").unwrap_or_default();
                eprintln!("rank {rank}: {error}");
                exit(1)
            }
        }
    }
}

fn nested(who: &str) -> Error {
    Error::Unsupported {
        what: "a launch inside a launch",
        why: format!(
            "{who}: take its world with World::from_env, or run ranks as threads with World::run"
        )
        .into(),
    }
}

/// Who started this process.
#[derive(Debug, PartialEq, Eq)]
struct Started {
    parent: i32,
    call: usize,
}

impl Started {
    fn from_env(value: Option<OsString>) -> Result<Option<Self>> {
        let Some(value) = value else {
            return Ok(None);
        };
        let parts = value.to_str().and_then(|value| value.split_once(':'));
        let parsed = parts.and_then(|(parent, call)| {
            let (parent, call) = (parent.parse().ok()?, call.parse().ok()?);
            Some(Self { parent, call })
        });
        match parsed {
            Some(started) => Ok(Some(started)),
            None => Err(environment(
                STARTED,
                &format!("is {value:?}; World::launch alone sets it: unset it"),
            )),
        }
    }

    /// Dies with the process that started this one.
    fn stay_with_parent(&self) -> Result<()> {
        let failed = |error| Error::Config {
            what: format!("the process cannot be bound to the one that started it: {error}").into(),
        };
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed)?;
        // It may have died before.
        match getppid().map(Pid::as_raw_pid) == Some(self.parent) {
            true => Ok(()),
            false => Err(Error::Config {
                what: "the process that started this one is gone".into(),
            }),
        }
    }
}

/// The variables of a rank that [`World::launch`] starts.
pub(super) fn variables(
    rank: usize,
    ranks: usize,
    port: u16,
    call: usize,
) -> [(&'static str, String); 8] {
    let names = Launcher::Symm.variables();
    let parent = std::process::id();
    [
        (names.rank, rank.to_string()),
        (names.ranks, ranks.to_string()),
        (names.local_rank, rank.to_string()),
        (names.local_ranks, ranks.to_string()),
        ("SYMM_RENDEZVOUS", format!("127.0.0.1:{port}")),
        ("SYMM_TOKEN", format!("launch {parent}:{call}:{port}")),
        (super::place::CHOICE, Launcher::Symm.name().to_owned()),
        (STARTED, format!("{parent}:{call}")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Host;

    /// As a user's test does it: the processes run this test alone, and come here.
    #[test]
    fn a_test_of_three_ranks() {
        let name = "launch::processes::tests::a_test_of_three_ranks";
        let config = Config::<Host>::default().launch_arguments([name, "--exact"]);
        let launched = config.launch(3, |world| {
            assert_eq!((world.size(), world.launcher()), (3, Launcher::Symm));
            world.split_dyn("all", 0, 0).map(drop)
        });
        launched.expect("three ranks that end well");
        let failed = config.launch(2, |world| match world.rank() {
            0 => Ok(()),
            _ => Err(Error::Config {
                what: "on purpose".into(),
            }),
        });
        assert!(
            matches!(failed, Err(Error::PeerFailed { rank: 1, .. })),
            "{failed:?}"
        );
    }

    #[test]
    fn what_a_parent_says_comes_to_its_ranks() {
        let variables = variables(1, 3, 7000, 2);
        let read = |name: &str| {
            let mut all = variables.iter();
            let (_, value) = all.find(|(key, _)| *key == name)?;
            Some(OsString::from(value))
        };
        let place = Place::from_env(read).expect("a place");
        assert_eq!((place.launcher, place.port), (Launcher::Symm, 7000));
        assert_eq!((place.rank, place.ranks), (1, 3));
        assert_eq!((place.local_rank, place.local_ranks), (1, 3));
        let started = Started::from_env(read(STARTED)).expect("as it was written");
        let parent = std::process::id() as i32;
        assert_eq!(started, Some(Started { parent, call: 2 }));
        let odd = Started::from_env(Some("7".into()));
        assert!(matches!(odd, Err(Error::Environment { name: STARTED, .. })));
    }
}
