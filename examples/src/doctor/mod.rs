//! What a machine has of what symmetric memory needs: looked at, tried, measured, and judged.
//!
//! | file | what it looks at |
//! |---|---|
//! | `machine`, `gpus`, `nvml` | the host, the driver's GPUs, how they are joined |
//! | `windows` | a window in every pair of ranks, and in all |
//! | `collectives` | paths and kernels by operation and size, and the calibration |
//! | `step` | how a step may crash or hang without taking the doctor along |
//! | `report`, `verdict` | all of it together, and what to change |
//! | `text`, `plot` | for people |

mod collectives;
mod gpus;
mod machine;
#[cfg(feature = "cuda")]
mod nvml;
mod options;
mod plot;
mod report;
mod step;
mod text;
mod verdict;
mod windows;

use std::io::{self, IsTerminal, Write};
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::Duration;

use symm_core::{Backend, Config, Cuda, Error, Host, host};

pub use crate::Choice;
pub use collectives::{Calibration, Call, Collectives, Point};
pub use gpus::{Gpu, Gpus, Link, Way};
pub use machine::Machine;
pub use options::{Options, Task};
pub use report::{Defect, Finding, Level, Nccl, Report};
pub use step::Step;
pub use windows::{Tried, Windows};

use collectives::HOST_SIZES;
#[cfg(feature = "cuda")]
use collectives::SIZES;
use step::Emit;

/// Ranks on the host backend.
const HOST_RANKS: usize = 4;
/// From this NCCL on two ranks may share a GPU.
const SHARES_GPUS: u32 = 23_003;
/// How long a step may take on GPUs; ranks give up on each other before that.
const STEP: Duration = Duration::from_secs(180);
const PEERS: Duration = Duration::from_secs(60);
const INSIDE: Duration = Duration::from_secs(30);

/// Looks at everything. Whatever fails is part of the report.
pub fn run(options: &Options) -> Report {
    let machine = Machine::look();
    let probe = Cuda::probe();
    // What is asked of the driver is no reason to end.
    let gpus = catch_unwind(|| Gpus::look(&probe)).unwrap_or_else(|_| Gpus {
        missing: Some("asking the driver ended in a panic; its message is above".into()),
        ..Gpus::default()
    });
    let nccl = Nccl::of(&probe);
    let on_gpus = match options.backend {
        Choice::Host => false,
        Choice::Cuda => true,
        Choice::Auto => !gpus.gpus.is_empty() || machine.nvidia_on_pci > 0,
    };
    let mut report = Report {
        backend: if on_gpus { "cuda" } else { "host" },
        ranks: options.ranks.unwrap_or(HOST_RANKS),
        shared_gpu: false,
        machine,
        gpus,
        nccl,
        windows: Step::default(),
        collectives: Step::default(),
        findings: Vec::new(),
        ok: false,
    };
    match on_gpus {
        true => try_gpus(&mut report, options),
        false => try_host(&mut report, options),
    }
    report.findings = verdict::of(&report, options.backend == Choice::Cuda);
    if let Some(file) = &options.plot {
        report.findings.push(plot::draw(&report, file));
    }
    report.ok = report
        .findings
        .iter()
        .all(|finding| finding.level != Level::Change);
    report
}

fn try_host(report: &mut Report, options: &Options) {
    let ranks = report.ranks;
    report.windows = Step::here(|emit| windows::run(&on_windows::<Host>(), ranks, emit));
    report.collectives = Step::here(|emit| {
        let cache = std::env::temp_dir().join(format!("symm-doctor-cache-{}", std::process::id()));
        // The host has no time of its own.
        let costs = host::Options::default().costs("a model of the doctor's", modelled);
        let config = config::<Host>().options(costs).cache_dir(&cache);
        let ended = collectives::run(&config, ranks, &HOST_SIZES, !options.quick, emit);
        // Nobody else uses a model's times.
        let _ = std::fs::remove_dir_all(cache);
        ended
    });
    if let Some(calibration) = &mut report.collectives.found.calibration {
        calibration.cached = false;
    }
}

/// Nanoseconds of a call in the model: windows have the lower latency, the twin the higher bandwidth.
fn modelled(call: &host::Launched) -> u64 {
    let (start, bytes_a_nanosecond) = if call.symmetric {
        (4_000, 4)
    } else {
        (9_000, 16)
    };
    start + call.bytes / bytes_a_nanosecond
}

fn try_gpus(report: &mut Report, options: &Options) {
    let count = report.gpus.gpus.len();
    if count == 0 || report.nccl.missing.is_some() {
        report.ranks = 0;
        return;
    }
    let shares = report.nccl.code.is_some_and(|code| code >= SHARES_GPUS);
    report.ranks = options.ranks.unwrap_or(match count {
        1 if shares => 2,
        count => count,
    });
    report.shared_gpu = report.ranks > count;
    let ranks = report.ranks.to_string();
    let of = |task: &'static str| {
        let mut arguments = vec!["--step", task, "--ranks", ranks.as_str()];
        // Ranks that share a GPU take turns on it: their times say nothing.
        if options.quick || report.shared_gpu {
            arguments.push("--quick");
        }
        arguments
    };
    let (windows, collectives) = (of("windows"), of("collectives"));
    let shared = [("NCCL_MULTI_RANK_GPU_ENABLE", "1")];
    let variables = if report.shared_gpu { &shared[..] } else { &[] };
    waiting("registering windows in every pair of GPUs and in all ..");
    report.windows = Step::elsewhere(&windows, variables, STEP);
    waiting("running collectives ..");
    report.collectives = Step::elsewhere(&collectives, variables, STEP);
    waiting("");
}

/// For whoever waits at a terminal. The calibration has a line of its own there.
fn waiting(what: &str) {
    let mut err = io::stderr().lock();
    if err.is_terminal() {
        // Nobody misses a line that cannot be written.
        let _ = write!(err, "\r{what:<100}\r").and_then(|()| err.flush());
    }
}

fn config<B: Backend>() -> Config<B> {
    Config::default()
        .deadline(PEERS)
        .inside(INSIDE)
        .strict(false)
}

/// Whatever a calibration said is faster.
fn on_windows<B: Backend>() -> Config<B> {
    config().tuned(false)
}

/// In a process of its own: runs one step on GPUs, and tells the parent what it finds.
pub fn child(task: Task, options: &Options) -> ExitCode {
    let ranks = options.ranks.unwrap_or(1);
    let ended = match task {
        Task::Windows => step::aloud(|emit| windows::run(&on_windows::<Cuda>(), ranks, emit)),
        Task::Collectives => step::aloud(|emit| on_gpus(ranks, !options.quick, emit)),
    };
    match ended {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

#[cfg(feature = "cuda")]
fn on_gpus(ranks: usize, calibrate: bool, emit: &dyn Emit<Collectives>) -> Result<(), Error> {
    collectives::run(&config::<Cuda>(), ranks, &SIZES, calibrate, emit)
}

#[cfg(not(feature = "cuda"))]
fn on_gpus(_: usize, _: bool, _: &dyn Emit<Collectives>) -> Result<(), Error> {
    Cuda::probe().usable()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_backend_is_healthy() {
        let file = std::env::temp_dir().join(format!("symm-doctor-{}.svg", std::process::id()));
        let report = run(&Options {
            backend: Choice::Host,
            plot: Some(file.clone()),
            ..Options::default()
        });
        assert!(report.ok, "{:?}", report.findings);
        let windows = &report.windows.found.groups;
        assert_eq!(windows.len(), 6 + 1, "each pair, and all");
        assert!(
            windows
                .iter()
                .all(|tried| tried.window && tried.symmetric && tried.exact)
        );
        let collectives = &report.collectives.found;
        let path = |operation: &str, types: &str, bytes| {
            let of = |call: &&Call| {
                (call.operation.as_str(), call.types.as_str(), call.bytes)
                    == (operation, types, bytes)
            };
            let call = collectives.calls.iter().find(of);
            call.map(|call| call.path.as_str())
        };
        assert_eq!(path("all_reduce sum", "bf16", 4 << 10), Some("symmetric"));
        assert_eq!(
            path("all_reduce sum", "bf16", 64 << 10),
            Some("plain: faster without the window")
        );
        assert_eq!(
            path("broadcast", "any", 4 << 10),
            Some("plain: NCCL has no symmetric kernel for it")
        );

        // As it comes from a process of its own; times lose their last digit on the way.
        let text = serde_json::to_string(collectives).unwrap_or_default();
        let told: Option<Collectives> = serde_json::from_str(&text).ok();
        let calls = told.as_ref().map(|told| format!("{:?}", told.calls));
        assert_eq!(calls, Some(format!("{:?}", collectives.calls)));
        let points = |found: &Collectives| found.calibration.as_ref().map(|c| c.points.len());
        assert_eq!(told.as_ref().and_then(points), points(collectives));
        let text = serde_json::to_string(&report.windows.found).unwrap_or_default();
        let told: Option<Windows> = serde_json::from_str(&text).ok();
        assert_eq!(told.map(|told| told.groups.len()), Some(7));

        let svg = std::fs::read_to_string(&file).unwrap_or_default();
        let _ = std::fs::remove_file(file);
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert_eq!(
            svg.matches("all_reduce").count(),
            2,
            "a panel for each types"
        );

        let mut text = Vec::new();
        assert!(report.write(anstream::StripStream::new(&mut text)).is_ok());
        let text = String::from_utf8_lossy(&text);
        assert!(
            !text.contains('\x1b') && text.contains("nothing has to be changed"),
            "{text}"
        );
        assert!(text.lines().any(|line| {
            line.contains("all_reduce sum") && line.contains("window") && line.contains("twin")
        }));
        let json = serde_json::to_value(&report).unwrap_or_default();
        assert_eq!(json["ok"], true);
        assert_eq!(
            json["windows"]["groups"][6]["ranks"],
            serde_json::json!([0, 1, 2, 3])
        );
    }

    #[test]
    fn a_world_that_cannot_be_is_a_finding() {
        let report = run(&Options {
            backend: Choice::Host,
            ranks: Some(0),
            quick: true,
            ..Options::default()
        });
        assert!(!report.ok && report.windows.error.is_some());
        assert!(report.write(std::io::sink()).is_ok());
    }
}
