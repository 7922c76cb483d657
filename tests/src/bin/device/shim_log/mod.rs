//! What the shim's logs of all ranks prove, without a word of symm-core's own:
//!
//! - windows of one communicator are registered in one order, with equal sizes, on all ranks;
//! - memory has one live window in a communicator, which is the whole of one `ncclMemAlloc`;
//! - the n-th collective of a communicator is the same on all ranks, and the operands that peers
//!   address lie at equal offsets of the same window, within it;
//! - a window is deregistered before its memory is freed and before its communicator ends, nothing
//!   is called on a communicator that ended, and nothing is launched on one that was revoked.
//!
//! Launches of graphs are CUDA's and are not in the logs; what they hold was logged when it was
//! captured.

mod compare;
mod history;
mod parse;
#[cfg(test)]
mod tests;

use std::fmt;
use std::process::ExitCode;

#[cfg(feature = "cuda")]
pub(crate) use parse::{Kind, Line};

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) violations: Vec<String>,
    pub(crate) counts: Counts,
}

/// How much the proof is of.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    logs: usize,
    lines: usize,
    allocations: usize,
    communicators: usize,
    registrations: usize,
    null_windows: usize,
    collectives: usize,
    pub(crate) windowed: usize,
    messages: usize,
    destroyed: usize,
    aborted: usize,
    revoked: usize,
    pub(crate) faults: usize,
    left_communicators: usize,
    left_windows: usize,
    left_allocations: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts {
            logs,
            lines,
            allocations,
            communicators,
            registrations,
            null_windows,
            collectives,
            windowed,
            messages,
            destroyed,
            aborted,
            revoked,
            faults,
            left_communicators,
            left_windows,
            left_allocations,
        } = &self.counts;
        for violation in &self.violations {
            writeln!(f, "VIOLATION {violation}")?;
        }
        writeln!(
            f,
            "{logs} logs, {lines} lines: {communicators} communicators ({destroyed} ends by destroy, {aborted} by abort, {revoked} revokes), \
             {allocations} allocations, {registrations} registrations ({null_windows} without a window), {collectives} collectives \
             ({windowed} on windows), {messages} messages, {faults} faults"
        )?;
        writeln!(
            f,
            "left at the end: {left_communicators} communicators, {left_windows} windows, {left_allocations} allocations"
        )?;
        write!(f, "{} violations", self.violations.len())
    }
}

/// Checks the logs of all ranks of a world, each with its name.
pub(crate) fn check(logs: &[(String, String)]) -> Report {
    let mut report = Report::default();
    report.counts.logs = logs.len();
    let mut lives = Vec::new();
    for (name, text) in logs {
        lives.extend(history::read(name, text, &mut report));
    }
    compare::all(&lives, &mut report);
    report
}

/// Checks the files and prints what was found.
pub(crate) fn run(files: &[String]) -> ExitCode {
    let read = |file: &String| {
        std::fs::read_to_string(file)
            .map(|text| (file.clone(), text))
            .map_err(|error| eprintln!("{file}: {error}"))
    };
    let Ok(logs) = files.iter().map(read).collect::<Result<Vec<_>, _>>() else {
        return ExitCode::from(2);
    };
    let report = check(&logs);
    println!("{report}");
    match report.violations.is_empty() && report.counts.lines > 0 {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
