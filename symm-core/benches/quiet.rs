//! Heap allocations and system calls of the hot path, which are to be none:
//! `cargo bench -p symm-core --bench quiet`
//!
//! Counted on rank 0's thread alone, as the difference of two run lengths (see `scenes`). System calls
//! are read from strace, between two marks that the thread makes; without strace it says what to
//! install. Fails if there are any.

mod scenes;

use std::cell::Cell;
use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use allocation_counter::measure;
use scenes::{Scene, Step};

const SHORT: usize = 20;
const LONG: usize = 120;

const SCENES: [(&str, Scene); 4] = [
    ("scope, nothing new", Scene::of(Step::Scope)),
    ("scope with a size freed before", Scene::of(Step::Reuse)),
    ("scope with a first-seen size", Scene::of(Step::FirstSeen)),
    ("buffer to window", Scene::of(Step::Window)),
];

/// Paths that do not exist, for which the thread asks.
const BEGIN: &str = "/symm/quiet/begin";
const END: &str = "/symm/quiet/end";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    if let [_, "--scene", scene, steps] =
        &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..]
    {
        let (scene, steps) = (scene.parse().unwrap_or(0), steps.parse().unwrap_or(0));
        play(scene, steps);
        return ExitCode::SUCCESS;
    }
    let strace = Command::new("strace")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    let traced = strace.is_ok_and(|status| status.success());
    if !traced {
        println!("system calls are not counted: strace is not installed (apt-get install strace)");
    }
    println!(
        "{:34} {:>12} {:>14}",
        "of 100 steps", "allocations", "system calls"
    );
    let mut quiet = true;
    for (index, (name, _)) in SCENES.iter().enumerate() {
        let allocations = play(index, LONG) as i64 - play(index, SHORT) as i64;
        let calls = traced
            .then(|| Some(calls(index, LONG)? - calls(index, SHORT)?))
            .flatten();
        let shown = calls.map_or("-".into(), |calls| calls.to_string());
        println!("{name:34} {allocations:>12} {shown:>14}");
        quiet &= allocations == 0 && calls.unwrap_or(0) == 0 && (!traced || calls.is_some());
    }
    match quiet {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Heap allocations of the steps.
fn play(scene: usize, steps: usize) -> u64 {
    let counted = AtomicU64::new(0);
    let played = scenes::run(SCENES[scene].1, steps, |all| {
        let outcome = Cell::new(None);
        let _ = Path::new(BEGIN).exists();
        let found = measure(|| outcome.set(Some(all())));
        let _ = Path::new(END).exists();
        counted.store(found.count_total, Ordering::Relaxed);
        outcome.take().unwrap_or(Ok(()))
    });
    played.expect("the scene plays");
    counted.into_inner()
}

/// System calls of the steps, with those that the marks are; `None` if strace could not trace.
fn calls(scene: usize, steps: usize) -> Option<i64> {
    let log = env::temp_dir().join(format!("symm-quiet-{}", std::process::id()));
    let status = Command::new("strace")
        .args(["-f", "-o"])
        .arg(&log)
        .arg(env::current_exe().ok()?)
        .args(["--scene", &scene.to_string(), &steps.to_string()])
        .status();
    let text = fs::read_to_string(&log).unwrap_or_default();
    // It may be gone already, or never have been there.
    let _ = fs::remove_file(&log);
    status.ok().filter(|status| status.success())?;
    let begin = text.lines().position(|line| line.contains(BEGIN))?;
    let thread = text.lines().nth(begin)?.split_whitespace().next()?;
    // A call that another thread's line interrupts has a second line, which is no call.
    let mine = text.lines().skip(begin + 1);
    let mine = mine.filter(|line| {
        line.split_whitespace().next() == Some(thread) && !line.contains(" resumed>")
    });
    Some(mine.take_while(|line| !line.contains(END)).count() as i64)
}
