//! This process's place in its world, as the environment that its launcher left says it.

use std::ffi::OsString;

use super::Launcher;
use super::slurm;
use crate::error::{Error, Result};

/// Which launcher's variables hold, where several are there and differ.
pub(super) const CHOICE: &str = "SYMM_LAUNCHER";
/// What stands in place of a launcher's variables where there are none.
const NOBODY: &str = "is not set, and nothing else says who started this process: start it with torchrun, mpirun or srun, call World::launch, set SYMM_RANK, SYMM_WORLD_SIZE and SYMM_RENDEZVOUS=host:port, or run the ranks as threads with World::run";
/// Ports that follow from a job: below those that systems hand out by themselves.
const PORTS: std::ops::Range<u64> = 15_000..32_000;

/// A rank of a world of processes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) launcher: Launcher,
    pub(crate) rank: usize,
    pub(crate) ranks: usize,
    pub(crate) local_rank: usize,
    pub(crate) local_ranks: usize,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Place {
    /// Reads the variables through `read`, so that tests need not change the process's environment.
    pub(crate) fn from_env(read: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let read: &dyn Fn(&str) -> Option<OsString> = &read;
        let launcher = find(read)?.ok_or_else(|| environment("RANK", NOBODY))?;
        let vars = Vars { read, launcher };
        let place = match launcher {
            Launcher::Torchrun => vars.torchrun(),
            Launcher::OpenMpi => vars.open_mpi(),
            Launcher::Slurm => vars.slurm(),
            Launcher::Symm | Launcher::Threads => vars.symm(),
        }?;
        vars.checked(place)
    }
}

/// Who started this process: who gave it a rank, the innermost first; else who gave it a number of
/// ranks, so that the rank is what is missed.
pub(super) fn find(read: &dyn Fn(&str) -> Option<OsString>) -> Result<Option<Launcher>> {
    let has = |name: &str| read(name).is_some_and(|value| !value.is_empty());
    if has(CHOICE) {
        let name = read(CHOICE).unwrap_or_default();
        let named = Launcher::PROCESSES
            .into_iter()
            .find(|launcher| name == launcher.name());
        return named.map(Some).ok_or_else(|| {
            let names = Launcher::PROCESSES.map(Launcher::name).join(", ");
            environment(CHOICE, &format!("is {name:?}, expected one of {names}"))
        });
    }
    let by = |variable: fn(Launcher) -> &'static str| {
        let mut all = Launcher::PROCESSES.into_iter();
        all.find(|launcher| has(variable(*launcher)))
    };
    let found = by(|launcher| launcher.variables().rank);
    // Set by hand, or by a script that may have meant another launcher's step.
    if found == Some(Launcher::Torchrun) && !has("TORCHELASTIC_RUN_ID") {
        for other in [Launcher::OpenMpi, Launcher::Slurm] {
            // A batch script's own shell has a rank too, and is no step.
            if other != Launcher::Slurm || has(slurm::STEP) {
                same(read, Launcher::Torchrun, other)?;
            }
        }
    }
    Ok(found.or_else(|| by(|launcher| launcher.variables().ranks)))
}

/// Fails if two launchers say different things of this process.
fn same(read: &dyn Fn(&str) -> Option<OsString>, one: Launcher, other: Launcher) -> Result<()> {
    let (mine, theirs) = (one.variables(), other.variables());
    for (mine, theirs) in [(mine.rank, theirs.rank), (mine.ranks, theirs.ranks)] {
        let number = |name: &str| read(name)?.to_str()?.trim().parse::<usize>().ok();
        let (Some(a), Some(b)) = (number(mine), number(theirs)) else {
            continue;
        };
        if a != b {
            return Err(environment(
                mine,
                &format!(
                    "is {a}, but {other} says {theirs}={b}: unset what does not hold, or set {CHOICE} to {} or {}",
                    one.name(),
                    other.name()
                ),
            ));
        }
    }
    Ok(())
}

/// One launcher's variables.
struct Vars<'a> {
    read: &'a dyn Fn(&str) -> Option<OsString>,
    launcher: Launcher,
}

impl Vars<'_> {
    fn torchrun(&self) -> Result<Place> {
        let (rank, ranks) = (self.required("RANK")?, self.required("WORLD_SIZE")?);
        let (local_rank, local_ranks) =
            self.local(["LOCAL_RANK", "LOCAL_WORLD_SIZE"], rank, ranks)?;
        let host = self.host()?.ok_or_else(|| self.missing("MASTER_ADDR"))?;
        let port = self.port()?.ok_or_else(|| self.missing("MASTER_PORT"))?;
        // torchrun's agent listens on MASTER_PORT itself and says so.
        let taken = self.text("TORCHELASTIC_USE_AGENT_STORE")?;
        let port = match taken.as_deref() {
            Some("True") => port.checked_add(1).unwrap_or(port - 1),
            _ => port,
        };
        Ok(self.place([rank, ranks, local_rank, local_ranks], host, port))
    }

    fn symm(&self) -> Result<Place> {
        const MEETING: &str = "SYMM_RENDEZVOUS";
        let (rank, ranks) = (
            self.required("SYMM_RANK")?,
            self.required("SYMM_WORLD_SIZE")?,
        );
        let names = ["SYMM_LOCAL_RANK", "SYMM_LOCAL_WORLD_SIZE"];
        let (local_rank, local_ranks) = self.local(names, rank, ranks)?;
        let meeting = self.text(MEETING)?.ok_or_else(|| self.missing(MEETING))?;
        let parts = meeting.trim().rsplit_once(':').and_then(|(host, port)| {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let port = port.parse().ok().filter(|port: &u16| *port > 0)?;
            (!host.is_empty()).then(|| (host.to_owned(), port))
        });
        let (host, port) = parts.ok_or_else(|| {
            environment(
                MEETING,
                &format!("is `{meeting}`, expected host:port of rank 0, such as 10.0.0.1:29500"),
            )
        })?;
        Ok(self.place([rank, ranks, local_rank, local_ranks], host, port))
    }

    fn open_mpi(&self) -> Result<Place> {
        let numbers = [
            self.required("OMPI_COMM_WORLD_RANK")?,
            self.required("OMPI_COMM_WORLD_SIZE")?,
            self.required("OMPI_COMM_WORLD_LOCAL_RANK")?,
            self.required("OMPI_COMM_WORLD_LOCAL_SIZE")?,
        ];
        let host = match self.host()? {
            Some(host) => host,
            None if numbers[3] == numbers[1] => "127.0.0.1".into(),
            None => return Err(self.missing("MASTER_ADDR")),
        };
        let port = match (self.port()?, self.text("PMIX_NAMESPACE")?) {
            (Some(port), _) => port,
            (None, Some(job)) => port_of(&job),
            (None, None) => return Err(self.missing("MASTER_PORT")),
        };
        Ok(self.place(numbers, host, port))
    }

    fn slurm(&self) -> Result<Place> {
        let (rank, step) = (
            self.required("SLURM_PROCID")?,
            self.text(slurm::STEP)?
                .ok_or_else(|| self.missing(slurm::STEP))?,
        );
        let ranks = match self.number("SLURM_STEP_NUM_TASKS")? {
            Some(ranks) => ranks,
            None => self.required("SLURM_NTASKS")?,
        };
        let local_rank = self.required("SLURM_LOCALID")?;
        let local_ranks = match self.either("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")? {
            None if self.number("SLURM_STEP_NUM_NODES")? == Some(1) => ranks,
            None => return Err(self.missing("SLURM_STEP_TASKS_PER_NODE")),
            Some((name, text)) => {
                let node = self.required("SLURM_NODEID")?;
                slurm::tasks_of(&text, node).ok_or_else(|| {
                    let problem = format!("is `{text}`, which says nothing of node {node}");
                    environment(name, &problem)
                })?
            }
        };
        let host = match self.host()? {
            Some(host) => host,
            // Not SLURM_LAUNCH_NODE_IPADDR: srun may run on a login node.
            None => {
                let nodes = self.either("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST")?;
                let nodes = nodes.ok_or_else(|| self.missing("MASTER_ADDR"))?;
                slurm::first_of(&nodes.1)
                    .ok_or_else(|| environment(nodes.0, &format!("is `{}`", nodes.1)))?
            }
        };
        let port = match (self.port()?, self.text("SLURM_JOB_ID")?) {
            (Some(port), _) => port,
            (None, Some(job)) => port_of(&format!("{job}.{step}")),
            (None, None) => return Err(self.missing("MASTER_PORT")),
        };
        Ok(self.place([rank, ranks, local_rank, local_ranks], host, port))
    }

    fn place(
        &self,
        [rank, ranks, local_rank, local_ranks]: [usize; 4],
        host: String,
        port: u16,
    ) -> Place {
        Place {
            launcher: self.launcher,
            rank,
            ranks,
            local_rank,
            local_ranks,
            host,
            port,
        }
    }

    /// Whatever a launcher says.
    fn checked(&self, place: Place) -> Result<Place> {
        let names = self.launcher.variables();
        let Place {
            rank,
            ranks,
            local_rank,
            local_ranks,
            ..
        } = place;
        if rank >= ranks {
            let problem = format!(
                "is {rank}, but {} is {ranks}: ranks are numbered from 0",
                names.ranks
            );
            return Err(environment(names.rank, &problem));
        }
        if local_ranks > ranks {
            let problem = format!("is {local_ranks}, but {} is {ranks}", names.ranks);
            return Err(environment(names.local_ranks, &problem));
        }
        if local_rank >= local_ranks {
            let problem =
                format!("is {local_rank}, but there are {local_ranks} ranks on this host");
            return Err(environment(names.local_rank, &problem));
        }
        Ok(place)
    }

    /// Rank and ranks on this host, which may be left out where all ranks are on it.
    fn local(
        &self,
        [of_rank, of_ranks]: [&'static str; 2],
        rank: usize,
        ranks: usize,
    ) -> Result<(usize, usize)> {
        let local_ranks = self.number(of_ranks)?.unwrap_or(ranks);
        match self.number(of_rank)? {
            Some(local_rank) => Ok((local_rank, local_ranks)),
            None if local_ranks >= ranks => Ok((rank, local_ranks)),
            None => Err(self.missing(of_rank)),
        }
    }

    fn host(&self) -> Result<Option<String>> {
        self.text("MASTER_ADDR")
    }

    fn port(&self) -> Result<Option<u16>> {
        const NAME: &str = "MASTER_PORT";
        let Some(port) = self.number(NAME)? else {
            return Ok(None);
        };
        let port = u16::try_from(port).ok().filter(|port| *port > 0);
        port.map(Some)
            .ok_or_else(|| environment(NAME, "is no TCP port (1 to 65535)"))
    }

    fn either(&self, a: &'static str, b: &'static str) -> Result<Option<(&'static str, String)>> {
        match self.text(a)? {
            Some(text) => Ok(Some((a, text))),
            None => Ok(self.text(b)?.map(|text| (b, text))),
        }
    }

    /// An empty variable is as one that is not set.
    fn text(&self, name: &'static str) -> Result<Option<String>> {
        match (self.read)(name).map(OsString::into_string) {
            Some(Ok(value)) => Ok(Some(value).filter(|value| !value.trim().is_empty())),
            Some(Err(_)) => Err(environment(name, "is not valid UTF-8")),
            None => Ok(None),
        }
    }

    fn number(&self, name: &'static str) -> Result<Option<usize>> {
        let Some(value) = self.text(name)? else {
            return Ok(None);
        };
        value
            .trim()
            .parse()
            .map(Some)
            .map_err(|_| environment(name, &format!("is `{value}`, a number from 0 is expected")))
    }

    fn required(&self, name: &'static str) -> Result<usize> {
        self.number(name)?.ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &'static str) -> Error {
        let problem = format!(
            "is not set, but {} started this process: {}",
            self.launcher,
            self.launcher.advice()
        );
        environment(name, &problem)
    }
}

/// The port at which the ranks of a job meet: the same for all, most likely another for other jobs.
fn port_of(job: &str) -> u16 {
    let hash = job.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    (PORTS.start + hash % (PORTS.end - PORTS.start)) as u16
}

/// What is wrong with a variable.
pub(crate) fn environment(name: &'static str, problem: &str) -> Error {
    Error::Environment {
        name,
        problem: problem.into(),
    }
}

#[cfg(test)]
#[path = "place_tests.rs"]
mod tests;
