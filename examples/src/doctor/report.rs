//! What was found, as a whole.

use std::io::{self, Write};

use serde::Serialize;
use symm_core::cuda::Probe;

use super::collectives::Collectives;
use super::gpus::Gpus;
use super::machine::Machine;
use super::step::Step;
use super::windows::Windows;

/// Everything, for people ([`print`](Report::print)) and for machines
/// ([`print_json`](Report::print_json)).
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was tried: `cuda` or `host`.
    pub backend: &'static str,
    /// Ranks of the worlds that were tried.
    pub ranks: usize,
    /// Ranks share a GPU, which is for tests alone.
    pub shared_gpu: bool,
    /// The host.
    pub machine: Machine,
    /// The driver and its GPUs.
    pub gpus: Gpus,
    /// NCCL.
    pub nccl: Nccl,
    /// Windows.
    pub windows: Step<Windows>,
    /// Collectives and the calibration.
    pub collectives: Step<Collectives>,
    /// The verdict.
    pub findings: Vec<Finding>,
    /// Nothing has to be changed.
    pub ok: bool,
}

/// NCCL as it was found.
#[derive(Debug, Default, Serialize)]
pub struct Nccl {
    /// E.g. `2.30.7`.
    pub version: Option<String>,
    /// The same as NCCL writes it: 23007.
    pub code: Option<u32>,
    /// The file that was loaded.
    pub path: Option<String>,
    /// The files that it was looked for in, in this order.
    pub tried: Vec<String>,
    /// Why it cannot be used.
    pub missing: Option<String>,
    /// What this version is known to do wrong.
    pub defects: Vec<Defect>,
}

/// A known defect of NCCL.
#[derive(Debug, Serialize)]
pub struct Defect {
    /// What goes wrong.
    pub what: &'static str,
    /// What symm-core does instead.
    pub instead: &'static str,
}

/// One line of the verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What is the matter.
    pub what: String,
    /// What to do about it, if anything.
    pub change: Option<String>,
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Good,
    /// Good to know, or could be better.
    Note,
    /// Has to be changed.
    Change,
}

impl Nccl {
    pub(super) fn of(probe: &Probe) -> Self {
        let tried = probe.nccl_candidates.iter();
        let tried = tried.map(|path| path.display().to_string()).collect();
        match &probe.nccl {
            Ok(nccl) => Self {
                version: Some(dotted(nccl.version)),
                code: Some(nccl.version),
                path: Some(nccl.path.display().to_string()),
                tried,
                missing: None,
                defects: nccl
                    .defects()
                    .into_iter()
                    .map(|defect| Defect {
                        what: defect.what,
                        instead: defect.instead,
                    })
                    .collect(),
            },
            Err(error) => Self {
                tried,
                missing: Some(why(error)),
                ..Self::default()
            },
        }
    }
}

/// Why something is missing; that it is the Cuda backend's is clear here.
pub(super) fn why(error: &symm_core::Error) -> String {
    match error {
        symm_core::Error::Unavailable { why, .. } => why.to_string(),
        other => other.to_string(),
    }
}

fn dotted(version: u32) -> String {
    let [major, minor, patch] = [version / 10_000, version % 10_000 / 100, version % 100];
    format!("{major}.{minor}.{patch}")
}

impl Report {
    /// Writes it as JSON.
    ///
    /// # Errors
    /// Those of standard output.
    pub fn print_json(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, self)?;
        writeln!(out)
    }
}
