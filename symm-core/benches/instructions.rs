//! Instructions of the hot path, counted by callgrind: `cargo bench -p symm-core --bench instructions`
//!
//! On rank 0's thread alone, inside of `scenes::measured`; a figure is the difference of two run
//! lengths (see `scenes`). The checks are what a collective costs more with them than without: its
//! record and fingerprint, the arena's history, the swap on the board, and the looks at poison. With
//! 10,000 segments and 1,000,000 live blocks a step may cost a tenth more than with one segment and 10
//! blocks. On a machine without valgrind or gungraun's runner it says what to install. Fails if a goal
//! is missed.

mod scenes;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use scenes::{Scene, Step};

/// Steps of the two run lengths.
const SHORT: usize = 20;
const LONG: usize = 120;

const SCENES: [Scene; 16] = [
    Scene::of(Step::Scope),
    Scene::of(Step::Reuse),
    Scene::of(Step::FirstSeen),
    Scene::of(Step::Window),
    Scene::of(Step::Reuse).ranks(2).segments(10_000),
    Scene::of(Step::FirstSeen).ranks(2).segments(10_000),
    Scene::of(Step::Window).ranks(2).segments(10_000),
    Scene::of(Step::Reuse).ranks(2).live(1_000_000),
    Scene::of(Step::FirstSeen).ranks(2).live(1_000_000),
    Scene::of(Step::Window).ranks(2).live(1_000_000),
    Scene::of(Step::Collective).ranks(2),
    Scene::of(Step::Collective).ranks(2).unchecked(),
    Scene::of(Step::Collective),
    Scene::of(Step::Collective).unchecked(),
    Scene::of(Step::Collective).ranks(64),
    Scene::of(Step::Collective).ranks(64).unchecked(),
];

/// A line of the table.
#[derive(Clone, Copy)]
struct Line {
    name: &'static str,
    scene: usize,
    /// A scene whose steps are part of this one's and are taken off.
    less: Option<usize>,
    /// A scene of which this one may cost a tenth more.
    flat: Option<usize>,
    /// Instructions of a step.
    goal: f64,
}

const fn line(name: &'static str, scene: usize, goal: f64) -> Line {
    Line {
        name,
        scene,
        less: None,
        flat: None,
        goal,
    }
}

const fn flat(name: &'static str, scene: usize, of: usize, goal: f64) -> Line {
    Line {
        flat: Some(of),
        ..line(name, scene, goal)
    }
}

const fn checks(name: &'static str, scene: usize, unchecked: usize) -> Line {
    Line {
        less: Some(unchecked),
        ..line(name, scene, 200.0)
    }
}

const LINES: [Line; 13] = [
    line("scope, nothing new", 0, 250.0),
    line("scope with a size freed before", 1, 600.0),
    line("scope with a first-seen size", 2, 1000.0),
    line("buffer to window", 3, 60.0),
    flat("10,000 segments: size freed before", 4, 1, 600.0),
    flat("10,000 segments: first-seen size", 5, 2, 1000.0),
    flat("10,000 segments: buffer to window", 6, 3, 60.0),
    flat("1,000,000 live blocks: size freed before", 7, 1, 600.0),
    flat("1,000,000 live blocks: first-seen size", 8, 2, 1000.0),
    flat("1,000,000 live blocks: buffer to window", 9, 3, 60.0),
    checks("checks of a collective of 2 ranks", 10, 11),
    checks("checks of a collective of 8 ranks", 12, 13),
    checks("checks of a collective of 64 ranks", 14, 15),
];

mod counted {
    use gungraun::{
        Callgrind, EntryPoint, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group,
    };

    use super::{LONG, SCENES, SHORT, scenes};

    #[library_benchmark]
    #[benches::short(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)]
    fn short(scene: usize) {
        play(scene, SHORT);
    }

    #[library_benchmark]
    #[benches::long(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)]
    fn long(scene: usize) {
        play(scene, LONG);
    }

    fn play(scene: usize, steps: usize) {
        scenes::run(SCENES[scene], steps, |all| all()).expect("the scene plays");
    }

    library_benchmark_group!(name = hot_path, benchmarks = [short, long]);

    gungraun::main!(
        config = LibraryBenchmarkConfig::default().tool(
            // One file a run: other threads never come to the entry point.
            Callgrind::with_args(["--separate-threads=no"]).entry_point(EntryPoint::Custom("*scenes::measured*".into()))
        );
        library_benchmark_groups = hot_path
    );

    pub(super) fn run() {
        main();
    }
}

fn main() -> ExitCode {
    // The runner calls this binary again for each scene.
    if env::args().any(|argument| argument == "--gungraun-run") {
        counted::run();
        return ExitCode::SUCCESS;
    }
    let missing: Vec<_> = TOOLS.iter().filter(|(tool, _)| !runs(tool)).collect();
    if !missing.is_empty() {
        for (tool, install) in missing {
            println!("instructions are not counted: {tool} is not installed ({install})");
        }
        return ExitCode::SUCCESS;
    }
    counted::run();
    table()
}

const TOOLS: [(&str, &str); 2] = [
    ("valgrind", "apt-get install valgrind"),
    (
        "gungraun-runner",
        "cargo install gungraun-runner, the version of the crate gungraun in Cargo.lock",
    ),
];

fn runs(tool: &str) -> bool {
    let version = Command::new(tool)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    version.is_ok_and(|status| status.success())
}

/// Prints the differences, beside the goals.
fn table() -> ExitCode {
    let Some(home) = home() else {
        println!("the runner's files were not found: set GUNGRAUN_HOME");
        return ExitCode::FAILURE;
    };
    let step = |scene: usize| {
        let short = collected(&home, &format!("short.short_{scene}"))?;
        let long = collected(&home, &format!("long.long_{scene}"))?;
        Some((long as f64 - short as f64) / (LONG - SHORT) as f64)
    };
    println!(
        "\n{:42} {:>12} {:>8}",
        "instructions of a step", "counted", "goal"
    );
    let mut met = true;
    for line in LINES {
        let name = line.name;
        let base = line.less.map_or(Some(0.0), step);
        let near = line
            .flat
            .map_or(Some(f64::MAX), |scene| Some(step(scene)? * 1.1));
        let counted = step(line.scene)
            .zip(base)
            .zip(near)
            .map(|((all, base), near)| (all - base, line.goal.min(near)));
        let Some((counted, goal)) = counted else {
            println!("{name:42} {:>12}", "no figure");
            met = false;
            continue;
        };
        let holds = counted <= goal;
        let missed = if holds { "" } else { "  missed" };
        met &= holds;
        println!("{name:42} {counted:>12.1} {goal:>8.0}{missed}");
    }
    match met {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Where the runner leaves what callgrind wrote.
fn home() -> Option<PathBuf> {
    let target = || {
        Some(
            env::current_exe()
                .ok()?
                .ancestors()
                .nth(3)?
                .join("gungraun"),
        )
    };
    let home = env::var_os("GUNGRAUN_HOME")
        .map(PathBuf::from)
        .or_else(target)?;
    home.is_dir().then_some(home)
}

/// Instructions of a run: the sum of the totals in all files of its folder.
fn collected(home: &Path, run: &str) -> Option<u64> {
    let folder = find(home, run)?;
    let files = fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()));
    let files = files.filter(|path| path.extension().is_some_and(|ending| ending == "out"));
    let total = |path: PathBuf| {
        let text = fs::read_to_string(path).ok()?;
        let totals = text
            .lines()
            .find_map(|line| line.strip_prefix("totals: "))?;
        totals.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(files.filter_map(total).sum())
}

fn find(below: &Path, name: &str) -> Option<PathBuf> {
    let folders = fs::read_dir(below)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()));
    let mut folders = folders.filter(|path| path.is_dir());
    folders.find_map(
        |path| match path.file_name().is_some_and(|last| last == name) {
            true => Some(path),
            false => find(&path, name),
        },
    )
}
