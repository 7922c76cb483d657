//! What this crate costs, beside the same work by NCCL, CUDA and the host alone.
//!
//! Nothing here is a test: the figures are printed, and those of raw work against raw work beside
//! them say how much is noise. With `$OUT` set, all rows go into a file of JSON lines there too.

mod collectives;
#[cfg(feature = "cuda")]
mod gate;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(feature = "cuda")]
mod graph;
mod launch;
#[cfg(feature = "cuda")]
mod nccl;
mod options;
mod ours;
mod output;
mod scopes;
mod start;
mod table;

use std::process::ExitCode;

use symm_core::{Backend, Config, Cuda, Error, Host, World, groups};
use symm_tests::suite::Outcome;

#[cfg(feature = "cuda")]
pub(crate) use graph::run as graphs;
pub(crate) use options::Task;
use options::What;

use crate::plan::{Backing, Launch};
use ours::Measured;
use output::Output;

groups! { Tp = "tp"; }

/// Runs the task: all ranks of it, or as the parent of their processes.
pub(crate) fn run(task: &Task) -> ExitCode {
    match task.launch {
        Launch::Threads => world(task),
        Launch::Processes => launch::processes(task),
    }
}

/// Runs this process's ranks: all, or one.
pub(crate) fn world(task: &Task) -> ExitCode {
    let done = match task.backing {
        Backing::Cuda => on::<Cuda>(task),
        Backing::Host => on::<Host>(task),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) if why.is_unavailable() => {
            println!("SKIP: {why}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("FAIL  {error}");
            ExitCode::FAILURE
        }
    }
}

fn on<B: Measured>(task: &Task) -> symm_core::Result<()> {
    let config = config::<B>(task);
    let rank = |world: World<B>| measure(&world, task).map_err(Error::from);
    match task.launch {
        Launch::Threads => config.run(task.ranks, rank).map(drop),
        Launch::Processes => config.from_env().and_then(rank),
    }
}

/// Scopes are measured over many segments, so each is small there.
fn config<B: Backend>(task: &Task) -> Config<B> {
    match task.what {
        What::Scopes => Config::default()
            .first_segment(scopes::SEGMENT)
            .segment_cap(scopes::SEGMENT),
        _ => Config::default(),
    }
}

fn measure<B: Measured>(world: &World<B>, task: &Task) -> Outcome {
    let mut output = Output::new(world.rank(), task)?;
    match task.what {
        What::Collectives => collectives::run(world, task, &mut output),
        What::Start => start::run(world, task, &mut output),
        What::Scopes => scopes::run(world, task, &mut output),
    }
}
