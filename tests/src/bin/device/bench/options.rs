//! What is measured, as the command line says it.

use crate::plan::{Backing, Launch, positive};

/// A bench with its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) backing: Backing,
    pub(super) what: What,
    pub(super) launch: Launch,
    pub(super) ranks: usize,
    /// Operations, where there are some.
    pub(super) operations: Vec<Operation>,
    /// The smallest and the largest size in bytes.
    pub(super) from: usize,
    pub(super) to: usize,
    /// From one size to the next.
    pub(super) step: usize,
    /// How often each figure is taken.
    pub(super) repeats: usize,
    /// Whether ours chooses its paths by a measurement of its own, made before.
    pub(super) calibrate: bool,
    /// The words that said all this.
    words: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Device and host time of collectives.
    Collectives,
    /// Memory and windows at the start.
    Start,
    /// Opening and closing scopes.
    Scopes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    AllReduce,
    AllGather,
    ReduceScatter,
}

impl Operation {
    const ALL: [Self; 3] = [Self::AllReduce, Self::AllGather, Self::ReduceScatter];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all_reduce",
            Self::AllGather => "all_gather",
            Self::ReduceScatter => "reduce_scatter",
        }
    }

    /// Elements of the source and of the target, where the larger of the two has about `len`.
    pub(super) fn lengths(self, len: usize, ranks: usize) -> (usize, usize) {
        let part = len.div_ceil(ranks);
        match self {
            Self::AllReduce => (len, len),
            Self::AllGather => (part, part * ranks),
            Self::ReduceScatter => (part * ranks, part),
        }
    }
}

/// Starts the arguments of a process that is one rank of a bench.
const RANK: &str = "bench-rank";

impl Task {
    /// The words behind `bench`.
    pub(crate) fn parse(backing: Backing, words: &[&str]) -> Option<Self> {
        let (what, launch, ranks, settings) = match words {
            ["collectives", launch, ranks, rest @ ..] => (What::Collectives, *launch, *ranks, rest),
            ["start", launch, ranks, rest @ ..] => (What::Start, *launch, *ranks, rest),
            ["scopes", launch, ranks, rest @ ..] => (What::Scopes, *launch, *ranks, rest),
            _ => return None,
        };
        let start = what == What::Start;
        let mut task = Self {
            backing,
            what,
            launch: match launch {
                "threads" => Launch::Threads,
                "processes" => Launch::Processes,
                _ => return None,
            },
            ranks: positive(ranks)?,
            operations: Operation::ALL.to_vec(),
            from: 1 << 10,
            to: if start { 4 << 30 } else { 256 << 20 },
            step: 2,
            repeats: if start { 5 } else { 21 },
            calibrate: false,
            words: words.iter().map(|&word| word.to_owned()).collect(),
        };
        for setting in settings {
            task.set(setting)?;
        }
        (task.from <= task.to && task.step > 1).then_some(task)
    }

    /// One setting, as `name=value`.
    fn set(&mut self, setting: &str) -> Option<()> {
        let (name, value) = setting.split_once('=')?;
        match name {
            "ops" => {
                let named = |name: &str| Operation::ALL.into_iter().find(|op| op.name() == name);
                self.operations = value.split(',').map(named).collect::<Option<_>>()?;
            }
            "from" => self.from = bytes(value)?,
            "to" => self.to = bytes(value)?,
            "step" => self.step = positive(value)?,
            "repeats" => self.repeats = positive(value)?,
            "calibrate" => self.calibrate = value == "yes",
            _ => return None,
        }
        Some(())
    }

    /// The task of a process that is one rank of it.
    pub(crate) fn parse_rank(words: &[&str]) -> Option<Self> {
        match words {
            [RANK, "host", rest @ ..] => Self::parse(Backing::Host, rest),
            [RANK, rest @ ..] => Self::parse(Backing::Cuda, rest),
            _ => None,
        }
    }

    /// The arguments of such a process.
    pub(super) fn rank_words(&self) -> Vec<String> {
        let host = (self.backing == Backing::Host).then(|| "host".to_owned());
        let words = std::iter::once(RANK.to_owned()).chain(host);
        words.chain(self.words.iter().cloned()).collect()
    }

    /// The sizes in bytes.
    pub(super) fn sizes(&self) -> impl Iterator<Item = usize> + '_ {
        let next = |size: &usize| size.checked_mul(self.step);
        std::iter::successors(Some(self.from), next).take_while(|size| *size <= self.to)
    }

    /// How the ranks run, e.g. `2 ranks as threads`.
    pub(super) fn place(&self) -> String {
        format!("{} ranks as {}", self.ranks, self.launched())
    }

    pub(super) fn launched(&self) -> &'static str {
        match self.launch {
            Launch::Threads => "threads",
            Launch::Processes => "processes",
        }
    }
}

/// A number of bytes: `64`, `64K`, `64M` or `64G`.
fn bytes(word: &str) -> Option<usize> {
    let units = [("K", 10), ("M", 20), ("G", 30)];
    let unit = units.iter().find(|(unit, _)| word.ends_with(unit));
    let (digits, shift) = unit.map_or((word, 0), |(unit, shift)| {
        (word.trim_end_matches(unit), *shift)
    });
    positive(digits)?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<Task> {
        let words: Vec<&str> = line.split(' ').collect();
        Task::parse(Backing::Host, &words)
    }

    #[test]
    fn settings_select_operations_and_sizes() {
        let line = "collectives processes 4 ops=all_gather,all_reduce from=4K to=1M step=16";
        let task = parsed(line).expect("a bench");
        assert_eq!(
            task.operations,
            [Operation::AllGather, Operation::AllReduce]
        );
        assert_eq!(task.sizes().collect::<Vec<_>>(), [4096, 65536, 1 << 20]);
        assert_eq!((task.ranks, task.launched()), (4, "processes"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for line in [
            "collectives",
            "collectives alone 2",
            "collectives threads 0",
            "collectives threads 2 ops=all_to_all",
            "collectives threads 2 from=2M to=1M",
            "collectives threads 2 step=1",
            "collectives threads 2 to=1T",
            "start threads 2 bytes",
            "graph",
        ] {
            assert_eq!(parsed(line), None, "{line}");
        }
    }

    #[test]
    fn a_rank_gets_the_same_task() {
        let task = parsed("start processes 2 to=1G repeats=3").expect("a bench");
        let words = task.rank_words();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_eq!(Task::parse_rank(&words), Some(task));
    }

    #[test]
    fn uneven_lengths_are_rounded_up_to_parts() {
        assert_eq!(Operation::AllReduce.lengths(512, 3), (512, 512));
        assert_eq!(Operation::AllGather.lengths(512, 3), (171, 513));
        assert_eq!(Operation::ReduceScatter.lengths(512, 4), (512, 128));
    }
}
