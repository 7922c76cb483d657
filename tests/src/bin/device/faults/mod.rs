//! Faults in NCCL's own calls, by processes under the shim: who learns of it, when, and whether all
//! of it ends.
//!
//! `device faults RANKS [FILTER]` takes the shim from `$SYMM_SHIM` (`libsymm_shim.so` beside this
//! program if it is not set), and the NCCL that it forwards to from `$SYMM_NCCL_PATH`. The shim's logs
//! are checked after each scenario, and kept in `$SYMM_FAULT_LOGS` if that is set.

mod rank;
mod scenario;
mod session;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs};

use crate::shim_log;
use scenario::{Scenario, Verdict};

pub(crate) use rank::run as work;
pub(crate) use scenario::Program;

/// How long a rank waits for live peers, `$SYMM_FAULT_DEADLINE` in seconds. Starting up counts as
/// well, so a slow machine needs more.
fn deadline() -> Duration {
    let set = env::var("SYMM_FAULT_DEADLINE").ok();
    Duration::from_secs(set.and_then(|set| set.parse().ok()).unwrap_or(3))
}

/// How long NCCL may take once all ranks are inside.
fn inside() -> Duration {
    deadline() + Duration::from_secs(2)
}

/// How long a stopped rank stays so: longer than any deadline.
fn stopped() -> Duration {
    deadline() + Duration::from_secs(5)
}

/// Runs the scenarios that the filter leaves.
pub(crate) fn run(ranks: usize, filter: &str) -> ExitCode {
    if ranks < 2 {
        println!("SKIP: faults need two ranks");
        return ExitCode::SUCCESS;
    }
    let beside = || Some(env::current_exe().ok()?.parent()?.join("libsymm_shim.so"));
    let shim = env::var_os("SYMM_SHIM").map(PathBuf::from).or_else(beside);
    let Some(shim) = shim.filter(|shim| shim.is_file()) else {
        println!("FAIL  no shim: build the package symm-shim, or set SYMM_SHIM to libsymm_shim.so");
        return ExitCode::FAILURE;
    };
    let kept = env::var_os("SYMM_FAULT_LOGS").map(PathBuf::from);
    let logs = kept
        .clone()
        .unwrap_or_else(|| env::temp_dir().join(format!("symm-faults-{}", std::process::id())));
    let (mut passed, mut failed) = (0, 0);
    for scenario in scenario::all() {
        if !scenario.name().contains(filter) {
            continue;
        }
        match one(&scenario, ranks, &shim, &logs.join(scenario.name())) {
            Ok(told) => {
                println!("ok    {}: {told}", scenario.name());
                passed += 1;
            }
            Err(Verdict::Skip(why)) => {
                println!("SKIP: {why}");
                return ExitCode::SUCCESS;
            }
            Err(Verdict::Wrong(found)) => {
                println!(
                    "FAIL  {}\n      {}",
                    scenario.name(),
                    found.join("\n      ")
                );
                failed += 1;
            }
        }
    }
    if kept.is_none() {
        // Only rubbish is left if it fails.
        let _ = fs::remove_dir_all(&logs);
    }
    println!("faults on {ranks} ranks: {passed} passed, {failed} failed");
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Runs one scenario in a folder of its own, and says what was seen.
fn one(
    scenario: &Scenario,
    ranks: usize,
    shim: &std::path::Path,
    folder: &std::path::Path,
) -> Result<String, Verdict> {
    let wrong = |error: std::io::Error| Verdict::Wrong(vec![error.to_string()]);
    fs::create_dir_all(folder).map_err(wrong)?;
    let seen = session::run(scenario, ranks, shim, folder).map_err(wrong)?;
    let report = shim_log::check(&seen.logs);
    let mut verdict = scenario.judge(&seen);
    if !report.violations.is_empty() {
        let found = report
            .violations
            .into_iter()
            .map(|text| format!("log: {text}"));
        verdict = match verdict {
            Ok(_) => Err(Verdict::Wrong(found.collect())),
            Err(Verdict::Wrong(wrong)) => {
                Err(Verdict::Wrong(wrong.into_iter().chain(found).collect()))
            }
            skip => skip,
        };
    }
    verdict
}
