//! What to look at.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::Choice;

/// The doctor's settings; [`Options::default`] is what it does without arguments.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "doctor",
    about = "Says what this machine has of what symmetric memory needs, tries it, and says what to change"
)]
pub struct Options {
    /// What to look at; auto takes GPUs where there are any
    #[arg(long, value_enum, default_value_t = Choice::Auto)]
    pub backend: Choice,
    /// Ranks; by default one a GPU, and 4 on the host backend
    #[arg(long)]
    pub ranks: Option<usize>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Draw latency by size, windows beside the twin, into this file
    #[arg(long, value_name = "FILE.svg", conflicts_with = "quick")]
    pub plot: Option<PathBuf>,
    /// Leave the calibration out
    #[arg(long)]
    pub quick: bool,
    /// Be the process that runs one step
    #[arg(long, value_enum, hide = true)]
    pub step: Option<Task>,
}

impl Default for Options {
    fn default() -> Self {
        Self::parse_from(["doctor"])
    }
}

/// What runs in a process of its own on GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Task {
    /// Registering windows.
    Windows,
    /// Collectives, and the calibration.
    Collectives,
}
