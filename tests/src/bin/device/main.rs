//! The conformance suite in worlds of this machine's GPUs, and proof of which kernels its
//! collectives take.
//!
//! ```console
//! $ device probe                        # what is there
//! $ device threads 4                    # all cases, ranks as threads of one process
//! $ device processes 2 streams::        # some cases, a process for each rank
//! $ device prove 2                      # the kernels behind every reported path
//! $ device bench graph 2                # what graphs cost, beside CUDA's own
//! $ device bench collectives threads 2  # collectives beside raw NCCL; ops=all_reduce from=1K to=256M step=4 repeats=21
//! $ device bench start processes 2      # memory and windows at the start, beside raw NCCL; to=4G repeats=5
//! $ device bench scopes threads 2       # scopes; torch_scope.py sets them beside torch's
//! $ device faults 2                     # faults in NCCL's calls, through the shim
//! $ device check-log rank-0.log ..      # what the shim's logs prove
//! $ device host threads 4               # the same program without a GPU, and so with `host bench`
//! ```
//!
//! The ranks run in processes of their own, which the parent ends when they fail or hang, so that
//! one case costs at most a minute and the rest still run. Exit status: 0 if all is well or there
//! is no GPU (then a line starts with `SKIP`), 1 if a case failed, 3 if one hung.

mod bench;
#[cfg(feature = "cuda")]
mod faults;
mod parent;
mod plan;
#[cfg(feature = "cuda")]
mod prove;
#[cfg(feature = "cuda")]
mod prove_graphs;
mod shim_log;
mod worker;

use std::process::ExitCode;

use symm_core::Cuda;

#[cfg(feature = "cuda")]
use bench::graphs;
use plan::{Backing, Command};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match Command::parse(&arguments) {
        Some(Command::Probe) => {
            println!("{}", Cuda::probe());
            ExitCode::SUCCESS
        }
        Some(Command::BenchGraphs(ranks)) => on_gpus(|| graphs(ranks)),
        Some(Command::Bench(task)) => on(task.backing, || bench::run(&task)),
        Some(Command::BenchRank(task)) => bench::world(&task),
        Some(Command::Faults(ranks, filter)) => on_gpus(|| faults(ranks, &filter)),
        Some(Command::Fault(program)) => fault(&program),
        Some(Command::CheckLog(files)) => shim_log::run(&files),
        Some(Command::Run(plan)) => on(plan.backing, || parent::run(&plan)),
        Some(Command::Work(plan, first)) => worker::run(&plan, first),
        None => {
            eprintln!(
                "usage: device probe\n\
                 \x20      device prove [RANKS] [FILTER]\n\
                 \x20      device bench graph [RANKS]\n\
                 \x20      device [host] bench (collectives | start | scopes) (threads | processes) RANKS \
                 [ops=OPERATION,..] [from=BYTES] [to=BYTES] [step=FACTOR] [repeats=NUMBER] [calibrate=yes]\n\
                 \x20      device faults RANKS [FILTER]\n\
                 \x20      device check-log FILE..\n\
                 \x20      device [host] (threads | processes) RANKS [FILTER]"
            );
            ExitCode::from(2)
        }
    }
}

/// Runs what needs the backing.
fn on(backing: Backing, run: impl FnOnce() -> ExitCode) -> ExitCode {
    match backing {
        Backing::Cuda => on_gpus(run),
        Backing::Host => run(),
    }
}

#[cfg(feature = "cuda")]
fn faults(ranks: usize, filter: &str) -> ExitCode {
    faults::run(ranks, filter)
}

/// Never called: without the feature no GPU is found.
#[cfg(not(feature = "cuda"))]
fn faults(_ranks: usize, _filter: &str) -> ExitCode {
    ExitCode::SUCCESS
}

/// Never called: as above.
#[cfg(not(feature = "cuda"))]
fn graphs(_ranks: usize) -> ExitCode {
    ExitCode::SUCCESS
}

/// One rank of a scenario.
fn fault(program: &str) -> ExitCode {
    #[cfg(feature = "cuda")]
    if let Some(program) = faults::Program::parse(program) {
        return faults::work(program);
    }
    eprintln!("no such program: {program}");
    ExitCode::from(2)
}

/// Runs what needs GPUs, or says why it cannot.
fn on_gpus(run: impl FnOnce() -> ExitCode) -> ExitCode {
    match Cuda::probe().usable() {
        Ok(()) => run(),
        Err(why) => {
            println!("SKIP: {why}");
            ExitCode::SUCCESS
        }
    }
}
