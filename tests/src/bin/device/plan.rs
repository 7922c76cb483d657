//! What to run, as the command line says it.

use symm_core::{Backend, Cuda, Host};
use symm_tests::suite::{self, Case};

use crate::bench::Task;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Command {
    /// Say what there is.
    Probe,
    /// Say what graphs cost on so many ranks.
    BenchGraphs(usize),
    /// Say what something else costs.
    Bench(Task),
    /// Be one of the processes that run it.
    BenchRank(Task),
    /// Let the shim's faults come to so many ranks, in the scenarios with such names.
    Faults(usize, String),
    /// Be one rank of such a scenario: its program.
    Fault(String),
    /// Say what the shim's logs prove.
    CheckLog(Vec<String>),
    /// Run the plan.
    Run(Plan),
    /// Be one of the processes that run it, from this case on.
    Work(Plan, usize),
}

/// Which cases run where.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) backing: Backing,
    pub(crate) suite: Suite,
    pub(crate) launch: Launch,
    pub(crate) ranks: usize,
    pub(crate) filter: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    Cuda,
    Host,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suite {
    Conformance,
    Proof,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Launch {
    Threads,
    Processes,
}

const WORK: &str = "work";
/// Starts the arguments of a rank that is to have faults.
pub(crate) const FAULT: &str = "fault";

impl Command {
    pub(crate) fn parse(arguments: &[String]) -> Option<Self> {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match words[..] {
            ["probe"] => Some(Self::Probe),
            ["bench", "graph"] => Some(Self::BenchGraphs(2)),
            ["bench", "graph", ranks] => Some(Self::BenchGraphs(positive(ranks)?)),
            ["bench", ref rest @ ..] => Task::parse(Backing::Cuda, rest).map(Self::Bench),
            ["host", "bench", ref rest @ ..] => Task::parse(Backing::Host, rest).map(Self::Bench),
            ["faults", ranks] => Some(Self::Faults(positive(ranks)?, String::new())),
            ["faults", ranks, filter] => Some(Self::Faults(positive(ranks)?, filter.into())),
            [FAULT, program] => Some(Self::Fault(program.into())),
            ["check-log", ref files @ ..] if !files.is_empty() => Some(Self::CheckLog(
                files.iter().map(|&file| file.to_owned()).collect(),
            )),
            [WORK, first, ref rest @ ..] => {
                Some(Self::Work(Plan::parse(rest)?, first.parse().ok()?))
            }
            ref rest => match Task::parse_rank(rest) {
                Some(task) => Some(Self::BenchRank(task)),
                None => Plan::parse(rest).map(Self::Run),
            },
        }
    }
}

impl Plan {
    fn parse(words: &[&str]) -> Option<Self> {
        let (backing, words) = match words {
            ["host", rest @ ..] => (Backing::Host, rest),
            rest => (Backing::Cuda, rest),
        };
        let (suite, launch, ranks, filter) = match words {
            ["prove"] => (Suite::Proof, Launch::Threads, "2", ""),
            ["prove", ranks] => (Suite::Proof, Launch::Threads, *ranks, ""),
            ["prove", ranks, filter] => (Suite::Proof, Launch::Threads, *ranks, *filter),
            [launch @ ("threads" | "processes"), ranks, rest @ ..] if rest.len() < 2 => {
                let launch = if *launch == "threads" {
                    Launch::Threads
                } else {
                    Launch::Processes
                };
                (
                    Suite::Conformance,
                    launch,
                    *ranks,
                    rest.first().copied().unwrap_or_default(),
                )
            }
            _ => return None,
        };
        Some(Self {
            backing,
            suite,
            launch,
            ranks: positive(ranks)?,
            filter: filter.to_owned(),
        })
    }

    /// The arguments of a process that runs this plan from the case `first` on.
    pub(crate) fn worker(&self, first: usize) -> Vec<String> {
        let mut words = vec![WORK.to_owned(), first.to_string()];
        words.extend((self.backing == Backing::Host).then(|| "host".to_owned()));
        words.push(match (self.suite, self.launch) {
            (Suite::Proof, _) => "prove".to_owned(),
            (_, Launch::Threads) => "threads".to_owned(),
            (_, Launch::Processes) => "processes".to_owned(),
        });
        words.extend([self.ranks.to_string(), self.filter.clone()]);
        words
    }

    /// Titles of the cases that the filter leaves, each with the fewest ranks it needs.
    pub(crate) fn titles(&self) -> Vec<(String, usize)> {
        let mut titles = match self.backing {
            Backing::Cuda => titles(&self.cases::<Cuda>()),
            Backing::Host => titles(&self.cases::<Host>()),
        };
        titles.extend(
            self.says_farewell()
                .then(|| (suite::FAREWELL.to_owned(), 1)),
        );
        titles
    }

    /// Whether the world ends with [`suite::farewell`].
    pub(crate) fn says_farewell(&self) -> bool {
        self.suite == Suite::Conformance && suite::FAREWELL.contains(&self.filter)
    }

    /// The cases themselves, in the same order.
    pub(crate) fn cases<B: Runs>(&self) -> Vec<Case<B>> {
        let all = match self.suite {
            Suite::Conformance => suite::cases().into_iter().chain(B::own()).collect(),
            Suite::Proof => B::proof(),
        };
        all.into_iter()
            .filter(|case: &Case<B>| case.title().contains(&self.filter))
            .collect()
    }
}

pub(crate) fn positive(word: &str) -> Option<usize> {
    word.parse().ok().filter(|number| *number > 0)
}

fn titles<B: Backend>(cases: &[Case<B>]) -> Vec<(String, usize)> {
    cases
        .iter()
        .map(|case| (case.title(), case.ranks))
        .collect()
}

/// What a backend has beyond the cases for all.
pub(crate) trait Runs: Backend {
    fn own() -> Vec<Case<Self>> {
        Vec::new()
    }

    fn proof() -> Vec<Case<Self>> {
        Vec::new()
    }
}

impl Runs for Host {}

impl Runs for Cuda {
    #[cfg(feature = "cuda")]
    fn own() -> Vec<Case<Self>> {
        suite::with_cudarc()
    }

    #[cfg(feature = "cuda")]
    fn proof() -> Vec<Case<Self>> {
        crate::prove::cases()
    }
}
