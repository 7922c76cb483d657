//! The scenarios, and what each has to end in.

use std::time::Duration;

use super::session::{End, Life, Seen};
use super::words::{Said, seconds};
use super::{deadline, inside, stopped};

/// What the ranks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// Steps that register and reduce.
    Steps,
    /// A collective that rank 1 skips, and a raw wait.
    Raw,
}

impl Program {
    pub(crate) fn parse(word: &str) -> Option<Self> {
        match word {
            "steps" => Some(Self::Steps),
            "raw" => Some(Self::Raw),
            _ => None,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Steps => "steps",
            Self::Raw => "raw",
        }
    }
}

/// The rank that has the fault.
pub(super) const FAULTY: usize = 1;

/// A fault at the faulty rank's k-th call of a function.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) program: Program,
    call: &'static str,
    at: u64,
    pub(super) what: &'static str,
}

/// How a scenario went, if not well.
pub(super) enum Verdict {
    Skip(String),
    Wrong(Vec<String>),
}

const REGISTER: &str = "ncclCommWindowRegister";
const REDUCE: &str = "ncclAllReduce";
const SPLIT: &str = "ncclCommSplit";
/// What a rank does before it agrees to register.
const ALLOCATE: &str = "ncclMemAlloc";

pub(super) fn all() -> Vec<Scenario> {
    let steps = |call, at, what| Scenario {
        program: Program::Steps,
        call,
        at,
        what,
    };
    let mut all = Vec::new();
    // The first of each is the world's own, by which the crate learns which kernels there are.
    for (call, at) in [
        (REGISTER, 2),
        (REGISTER, 4),
        (REDUCE, 2),
        (REDUCE, 4),
        (SPLIT, 1),
    ] {
        let whats = ["fail", "hang", "stuck", "kill", "stop"];
        all.extend(whats.map(|what| steps(call, at, what)));
    }
    all.extend([2, 4].map(|at| steps(REGISTER, at, "null")));
    all.extend(["stop", "kill"].map(|what| steps(ALLOCATE, 4, what)));
    all.push(Scenario {
        program: Program::Raw,
        call: "",
        at: 0,
        what: "",
    });
    all
}

/// Errors that say that the world failed, or why.
const KINDS: [&str; 7] = [
    "PeerFailed",
    "Poisoned",
    "RanksDiffer",
    "Registration",
    "Timeout",
    "Unrecoverable",
    "Backend", // of the faulty rank: its own call
];

impl Scenario {
    pub(super) fn name(&self) -> String {
        match self.program {
            Program::Raw => "raw-wait".into(),
            Program::Steps => format!("{}-{}-{}", self.call, self.at, self.what),
        }
    }

    /// For the shim.
    pub(super) fn fault(&self) -> String {
        match self.program {
            Program::Raw => String::new(),
            Program::Steps => format!("{FAULTY}:{}:{}:{}", self.call, self.at, self.what),
        }
    }

    /// How long after the fault a rank may learn of it.
    fn limit(&self) -> Duration {
        // In these, NCCL has been entered by all, or nobody knows better.
        let entered =
            matches!(self.call, REGISTER | SPLIT) && !matches!(self.what, "fail" | "kill");
        let deadline = if entered { inside() } else { deadline() };
        deadline + Duration::from_secs(1)
    }

    /// Whether peers can tell which rank it is: of those that are all inside NCCL nobody can say which
    /// one does not come out.
    fn is_seen(&self) -> bool {
        !(matches!(self.call, REGISTER | SPLIT) && matches!(self.what, "hang" | "stuck"))
    }

    /// Whether the faulty rank has to come back by itself.
    fn faulty_returns(&self) -> bool {
        match self.what {
            "kill" => false,
            // Its own thread is in the shim for ever; registering and splitting have threads of
            // their own.
            "hang" => self.call != REDUCE,
            _ => true,
        }
    }

    /// What was wrong, or in a few words what was seen.
    pub(super) fn judge(&self, seen: &Seen) -> Result<String, Verdict> {
        let unavailable = seen.ranks.iter().flat_map(|rank| &rank.said);
        if let Some(said) = unavailable
            .into_iter()
            .find(|said| said.word == "unavailable")
        {
            return Err(Verdict::Skip(said.text.clone()));
        }
        let told = match self.program {
            Program::Steps => self.judge_steps(seen),
            Program::Raw => judge_raw(seen),
        };
        told.map_err(Verdict::Wrong)
    }

    fn judge_steps(&self, seen: &Seen) -> Result<String, Vec<String>> {
        let Some(fault) = seen.fault else {
            return Err(with_words(vec!["the fault did not come".into()], seen));
        };
        if self.what == "null" {
            return judge_null(seen);
        }
        let (mut wrong, mut told) = (Vec::new(), Vec::new());
        for (rank, life) in seen.ranks.iter().enumerate() {
            let faulty = rank == FAULTY;
            let mut bad = |what: String| wrong.push(format!("rank {rank} {what}"));
            if faulty && !self.faulty_returns() {
                continue;
            }
            let from = match (faulty, self.what) {
                (true, "stop") => seen.continued.unwrap_or(fault),
                _ => fault,
            };
            match life.said.iter().find(|said| said.word == "error") {
                None => bad("had no error".into()),
                Some(error) => {
                    let after = seconds(from, error.micros);
                    let kind = error.text.split(' ').next().unwrap_or_default();
                    if after > self.limit().as_secs_f64() {
                        bad(format!("had its error only after {after:.2} s"));
                    }
                    if !KINDS.contains(&kind) || (kind == "Backend" && !faulty) {
                        bad(format!("had an error of the kind {kind}"));
                    }
                    if !faulty && self.is_seen() && !names(error, FAULTY) {
                        bad(format!("does not name rank {FAULTY}"));
                    }
                    match &life.end {
                        // What cannot be released is left to the end of the process.
                        _ if kind == "Unrecoverable" => {}
                        End::Exited { micros, .. } => {
                            let clean = seconds(error.micros, *micros);
                            if clean > CLEAN.as_secs_f64() {
                                bad(format!("took {clean:.2} s to clean up"));
                            }
                            told.push(format!(
                                "rank {rank} {kind} {after:.2} s, clean {clean:.2} s"
                            ));
                        }
                        End::Killed => bad("did not end by itself".into()),
                    }
                }
            }
            for said in life.said.iter().filter(|said| said.word == "wrong") {
                bad(format!("had wrong data: {}", said.text));
            }
        }
        if self.call == ALLOCATE && self.what == "stop" && seen.entered_after_fault(REGISTER) {
            wrong.push(format!(
                "rank {FAULTY} entered {REGISTER} after it had been stopped"
            ));
        }
        match wrong.is_empty() {
            true => Ok(told.join("; ")),
            false => Err(with_words(wrong, seen)),
        }
    }

    /// After this long something hangs.
    pub(super) fn hard_limit(&self) -> Duration {
        Duration::from_secs(60) + deadline() * 4 + inside() + stopped()
    }

    /// How long the faulty rank may go on when all others have ended.
    pub(super) fn patience(&self) -> Duration {
        match self.faulty_returns() {
            true => self.limit() + CLEAN,
            false => Duration::from_millis(200),
        }
    }
}

/// Two seconds for each of the two communicators, and one for the process.
const CLEAN: Duration = Duration::from_secs(5);

/// A window that one rank lacks is used by none: everything computes, without it.
fn judge_null(seen: &Seen) -> Result<String, Vec<String>> {
    let done = |life: &Life| life.said.iter().any(|said| said.word == "done");
    match seen.ranks.iter().all(done) {
        true => Ok("all ranks computed without the window".into()),
        false => Err(with_words(
            vec!["a rank did not come to its end".into()],
            seen,
        )),
    }
}

fn judge_raw(seen: &Seen) -> Result<String, Vec<String>> {
    let (mut wrong, mut told) = (Vec::new(), Vec::new());
    for (rank, life) in seen.ranks.iter().enumerate() {
        let at = |word: &str| life.said.iter().find(|said| said.word == word);
        let mut bad = |what: String| wrong.push(format!("rank {rank} {what}"));
        if at("done").is_none() {
            bad("did not come to its end".into());
        }
        if let Some(error) = at("error").filter(|error| rank != FAULTY && !names(error, FAULTY)) {
            bad(format!("does not name rank {FAULTY}: {}", error.text));
        }
        if rank == FAULTY {
            continue;
        }
        match (at("launched"), at("released"), at("rebuilt")) {
            (Some(from), Some(to), Some(rebuilt)) => {
                let (after, again) = (
                    seconds(from.micros, to.micros),
                    seconds(to.micros, rebuilt.micros),
                );
                if after > deadline().as_secs_f64() + 1.0 {
                    bad(format!("was released only after {after:.2} s"));
                }
                told.push(format!(
                    "rank {rank} released after {after:.2} s ({}), rebuilt after {again:.2} s",
                    to.text
                ));
            }
            _ => bad("was not released and rebuilt".into()),
        }
    }
    match wrong.is_empty() {
        true => Ok(told.join("; ")),
        false => Err(with_words(wrong, seen)),
    }
}

fn names(error: &Said, rank: usize) -> bool {
    error.text.contains(&format!("rank {rank}")) || error.text.contains(&format!("ranks [{rank}]"))
}

/// What the ranks said, behind what is wrong.
fn with_words(mut wrong: Vec<String>, seen: &Seen) -> Vec<String> {
    for (rank, life) in seen.ranks.iter().enumerate() {
        let from = seen.fault.unwrap_or_default();
        wrong.extend(life.said.iter().map(|said| {
            let at = said.micros as i128 - from as i128;
            format!(
                "  rank {rank} at {:.2} s: {} {}",
                at as f64 / 1e6,
                said.word,
                said.text
            )
        }));
        wrong.push(format!("  rank {rank}: {:?}", life.end));
    }
    wrong
}
