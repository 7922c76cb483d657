//! A process that runs ranks: all of a world as threads, or one.

use std::fmt;
use std::process::ExitCode;

use symm_core::{Config, Cuda, Error, Host, World};
use symm_tests::suite::{self, Failure, Outcome};

use crate::plan::{Backing, Launch, Plan, Runs};

/// Starts every line by which a worker tells its parent something.
const MARK: &str = "@symm";

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaker {
    Rank(usize),
    World,
}

/// What a worker says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// The rank is through with the case.
    Passed,
    /// Something failed.
    Failed(String),
    /// It failed because another rank did.
    Echoed(String),
    /// There can be no such world on this machine.
    Unavailable(String),
}

impl fmt::Display for Speaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Speaker::Rank(rank) => write!(f, "rank {rank}"),
            Speaker::World => f.write_str("world"),
        }
    }
}

impl Word {
    fn of_error(error: &Error) -> Self {
        match error {
            error if error.is_unavailable() => Self::Unavailable(error.to_string()),
            Error::PeerFailed { .. } | Error::Poisoned { .. } => Self::Echoed(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }

    fn of_outcome(outcome: &Outcome) -> Self {
        match outcome {
            Ok(()) => Self::Passed,
            Err(failure) if failure.is_echo() => Self::Echoed(failure.to_string()),
            Err(failure) => Self::Failed(failure.to_string()),
        }
    }

    /// Says it, in one line.
    fn say(&self, speaker: Speaker) {
        let (word, text) = match self {
            Self::Passed => ("passed", ""),
            Self::Failed(text) => ("failed", text.as_str()),
            Self::Echoed(text) => ("echoed", text.as_str()),
            Self::Unavailable(text) => ("unavailable", text.as_str()),
        };
        println!("{MARK}:{speaker}:{word}:{}", text.replace('\n', " | "));
    }

    /// What the line says, if it says something.
    pub(crate) fn heard(line: &str) -> Option<(Speaker, Self)> {
        let mut parts = line.splitn(4, ':');
        let (mark, speaker, word, text) = (
            parts.next()?,
            parts.next()?,
            parts.next()?,
            parts.next()?.to_owned(),
        );
        let speaker = match speaker.strip_prefix("rank ") {
            Some(rank) => Speaker::Rank(rank.parse().ok()?),
            None => Speaker::World,
        };
        let word = match word {
            "passed" => Self::Passed,
            "failed" => Self::Failed(text),
            "echoed" => Self::Echoed(text),
            "unavailable" => Self::Unavailable(text),
            _ => return None,
        };
        (mark == MARK).then_some((speaker, word))
    }
}

/// Runs the plan's cases from `first` on, until one fails.
pub(crate) fn run(plan: &Plan, first: usize) -> ExitCode {
    let outcome = match plan.backing {
        Backing::Cuda => world::<Cuda>(plan, first),
        Backing::Host => world::<Host>(plan, first),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Also of its start and of its teardown, of which no rank speaks.
            Word::of_error(&error).say(Speaker::World);
            ExitCode::FAILURE
        }
    }
}

fn world<B: Runs>(plan: &Plan, first: usize) -> symm_core::Result<()> {
    let rank = |world: World<B>| cases(plan, first, world).map_err(Error::from);
    // Cases expect NCCL's own choice of paths, whatever is known of the machine, and what some of
    // them measure is not for its users.
    let cache = std::env::temp_dir().join(format!("symm-device-{}", std::process::id()));
    let config = Config::<B>::default().tuned(false).cache_dir(cache);
    match plan.launch {
        Launch::Threads => config.run(plan.ranks, rank).map(drop),
        Launch::Processes => config.from_env().and_then(rank),
    }
}

fn cases<B: Runs>(plan: &Plan, first: usize, world: World<B>) -> Result<(), Failure> {
    let rank = Speaker::Rank(world.rank());
    if let (Backing::Cuda, Ok(nccl)) = (plan.backing, Cuda::probe().nccl) {
        suite::expect_nccl(nccl.version);
    }
    let cases = plan
        .cases::<B>()
        .into_iter()
        .filter(|case| case.ranks <= plan.ranks);
    for case in cases.skip(first) {
        let outcome = case.run(&world);
        Word::of_outcome(&outcome).say(rank);
        outcome?;
    }
    if plan.says_farewell() {
        let outcome = suite::farewell(world);
        Word::of_outcome(&outcome).say(rank);
        outcome?;
    }
    Ok(())
}
