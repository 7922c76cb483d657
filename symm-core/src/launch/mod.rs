//! Ranks that are processes: who started this one, and starting them here.

#[cfg(target_os = "linux")]
mod children;
pub(crate) mod place;
#[cfg(target_os = "linux")]
mod processes;
#[cfg(target_os = "linux")]
mod signals;
mod slurm;

use std::fmt;

use crate::error::Result;

/// Who started a world's ranks, as [`World::launcher`](crate::World::launcher) says.
///
/// [`World::from_env`](crate::World::from_env) takes the first of these that gave this process a
/// rank, the innermost first; `SYMM_LAUNCHER` names one of them where several are there and differ.
///
/// | launcher | `SYMM_LAUNCHER` | rank, ranks | on this host | where rank 0 is |
/// |---|---|---|---|---|
/// | [`World::launch`](crate::World::launch), or by hand | `symm` | `SYMM_RANK`, `SYMM_WORLD_SIZE` | `SYMM_LOCAL_RANK`, `SYMM_LOCAL_WORLD_SIZE` (1) | `SYMM_RENDEZVOUS` (`host:port`) |
/// | torchrun | `torchrun` | `RANK`, `WORLD_SIZE` | `LOCAL_RANK`, `LOCAL_WORLD_SIZE` (1) | `MASTER_ADDR`, `MASTER_PORT` |
/// | `mpirun` of Open MPI | `openmpi` | `OMPI_COMM_WORLD_RANK`, `OMPI_COMM_WORLD_SIZE` | `OMPI_COMM_WORLD_LOCAL_RANK`, `OMPI_COMM_WORLD_LOCAL_SIZE` | `MASTER_ADDR` (2), `MASTER_PORT` (3) |
/// | `srun` | `slurm` | `SLURM_PROCID`, `SLURM_STEP_NUM_TASKS` or `SLURM_NTASKS` | `SLURM_LOCALID`, `SLURM_STEP_TASKS_PER_NODE` with `SLURM_NODEID` | `MASTER_ADDR`, else the first of `SLURM_STEP_NODELIST`; `MASTER_PORT` (3) |
///
/// (1) May be left out where all ranks are on one host. (2) The same. (3) Else it follows from the
/// job's name (`PMIX_NAMESPACE`; `SLURM_JOB_ID` and `SLURM_STEP_ID`).
///
/// ```
/// use symm_core::{Host, Launcher, World};
/// let launchers = World::<Host>::run(2, |world| Ok(world.launcher()))?;
/// assert_eq!(launchers, [Launcher::Threads; 2]);
/// assert_eq!(Launcher::Slurm.to_string(), "srun (SLURM_PROCID)");
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Launcher {
    /// [`World::launch`](crate::World::launch), or variables of ours that were set by hand.
    Symm,
    /// torchrun, or its variables set by hand.
    Torchrun,
    /// `mpirun` of Open MPI.
    OpenMpi,
    /// `srun`.
    Slurm,
    /// Nobody: the ranks are threads ([`World::run`](crate::World::run)).
    Threads,
}

/// The names of a launcher's numbers.
#[derive(Clone, Copy, Debug)]
struct Variables {
    rank: &'static str,
    ranks: &'static str,
    local_rank: &'static str,
    local_ranks: &'static str,
}

impl Launcher {
    /// Who started this process as a rank of a world; `None` if nobody did, so that a program can
    /// choose between [`World::from_env`](crate::World::from_env) and ranks of its own.
    ///
    /// ```
    /// use symm_core::{Host, Launcher, Result, World};
    /// fn rank(world: World<Host>) -> Result<usize> {
    ///     Ok(world.rank())
    /// }
    /// match Launcher::detect()? {
    ///     Some(_) => drop(World::from_env().and_then(rank)?),
    ///     None => assert_eq!(World::run(4, rank)?, [0, 1, 2, 3]), // nobody did: threads
    /// }
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Environment`](crate::Error::Environment) when launchers differ.
    pub fn detect() -> Result<Option<Self>> {
        let read = |name: &str| std::env::var_os(name);
        let found = place::find(&read)?;
        // A batch script's own shell is no rank.
        Ok(found.filter(|found| *found != Self::Slurm || read(slurm::STEP).is_some()))
    }

    /// Those of processes, the innermost first.
    const PROCESSES: [Self; 4] = [Self::Symm, Self::Torchrun, Self::OpenMpi, Self::Slurm];

    /// Its name as `SYMM_LAUNCHER` has it.
    const fn name(self) -> &'static str {
        match self {
            Self::Symm => "symm",
            Self::Torchrun => "torchrun",
            Self::OpenMpi => "openmpi",
            Self::Slurm => "slurm",
            Self::Threads => "threads",
        }
    }

    const fn variables(self) -> Variables {
        let (rank, ranks, local_rank, local_ranks) = match self {
            Self::Torchrun => ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
            Self::OpenMpi => (
                "OMPI_COMM_WORLD_RANK",
                "OMPI_COMM_WORLD_SIZE",
                "OMPI_COMM_WORLD_LOCAL_RANK",
                "OMPI_COMM_WORLD_LOCAL_SIZE",
            ),
            Self::Slurm => (
                "SLURM_PROCID",
                "SLURM_STEP_NUM_TASKS",
                "SLURM_LOCALID",
                "SLURM_STEP_TASKS_PER_NODE",
            ),
            Self::Symm | Self::Threads => (
                "SYMM_RANK",
                "SYMM_WORLD_SIZE",
                "SYMM_LOCAL_RANK",
                "SYMM_LOCAL_WORLD_SIZE",
            ),
        };
        Variables {
            rank,
            ranks,
            local_rank,
            local_ranks,
        }
    }

    /// What to do about a variable that is missing.
    const fn advice(self) -> &'static str {
        match self {
            Self::Symm | Self::Threads => {
                "set SYMM_RANK, SYMM_WORLD_SIZE and SYMM_RENDEZVOUS=host:port on every rank, and SYMM_LOCAL_RANK and SYMM_LOCAL_WORLD_SIZE where the ranks are on several hosts"
            }
            Self::Torchrun => {
                "set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT on every rank, as torchrun does"
            }
            Self::OpenMpi => {
                "mpirun sets all but the meeting point: where ranks are on several hosts, pass -x MASTER_ADDR and -x MASTER_PORT, the address of rank 0"
            }
            Self::Slurm => {
                "start the ranks with srun, also inside a batch script, and where it cannot be read from Slurm's variables export MASTER_ADDR and MASTER_PORT, the address of rank 0"
            }
        }
    }
}

/// With the variable that gave it away.
impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Symm => "symm",
            Self::Torchrun => "torchrun",
            Self::OpenMpi => "mpirun",
            Self::Slurm => "srun",
            Self::Threads => return f.write_str("threads of one process"),
        };
        write!(f, "{name} ({})", self.variables().rank)
    }
}
