//! Says what this machine has of what symmetric memory needs, tries it, measures it, and says what to
//! change.
//!
//! ```sh
//! cargo run --release --example doctor                        # GPUs if there are any, else the host backend
//! cargo run --release --example doctor -- --plot latency.svg  # latency by size, windows beside the twin
//! cargo run --release --example doctor -- --json              # for machines
//! cargo run --release --example doctor -- --quick             # without the calibration
//! ```
//!
//! Exit status: 0 if all is well, 1 if something has to be changed, 2 for a mistake on the command
//! line. What runs on GPUs runs in processes of its own, which are ended when they hang: a crash of
//! NCCL or of the driver is a finding.

use std::process::ExitCode;

use clap::Parser;
use symm_examples::doctor::{self, Options};

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(step) = options.step {
        return doctor::child(step, &options);
    }
    let report = doctor::run(&options);
    let printed = match options.json {
        true => report.print_json(),
        false => report.print(),
    };
    match printed {
        // Whoever reads only the beginning, as `head` does, has seen enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("error: the report cannot be written: {error}");
            ExitCode::FAILURE
        }
        _ if report.ok => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
