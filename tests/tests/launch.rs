//! `World::launch`: real processes on the host backend, which end well, fail, die, and are told to
//! end. Each case is a program of its own, this binary with a name in its environment, so that also
//! the process that launches can be killed.

#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use libtest_mimic::{Arguments, Failed, Trial};
use rustix::process::{Pid, Signal, kill_process};
use symm_core::{Config, Error, Host, Launcher, ReduceOp, Result, World, groups, symm};

groups! { pub Tp = "tp"; }

const PROGRAM: &str = "SYMM_LAUNCH_PROGRAM";
/// Where ranks say who they are.
const NOTES: &str = "SYMM_LAUNCH_NOTES";
/// No test of speed, the machine may be busy: after a rank's death all are gone in little more than
/// a second on one that is not.
const SLACK: Duration = Duration::from_secs(20);
/// As long as a rank that nobody ends lives.
const LONG: Duration = Duration::from_secs(60);

type Case = fn() -> Result<(), Failed>;

fn main() {
    if let Ok(name) = env::var(PROGRAM) {
        process::exit(program(&name));
    }
    let cases: [(&str, Case); 11] = [
        ("four_ranks_sum", four_ranks_sum),
        ("two_launches_in_a_row", two_launches_in_a_row),
        ("arguments_are_passed_on", arguments_are_passed_on),
        ("a_rank_returns_an_error", a_rank_returns_an_error),
        ("a_rank_panics", a_rank_panics),
        ("a_rank_exits", a_rank_exits),
        ("a_rank_is_killed", a_rank_is_killed),
        ("the_parent_is_told_to_end", the_parent_is_told_to_end),
        ("the_parent_is_killed", the_parent_is_killed),
        ("a_launch_inside_a_launch", a_launch_inside_a_launch),
        ("a_launch_under_torchrun", a_launch_under_torchrun),
    ];
    let trials = cases
        .into_iter()
        .map(|(name, case)| Trial::test(name, case));
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}

// What runs in the processes.

fn program(name: &str) -> i32 {
    let outcome = match name {
        "sums" => World::<Host>::launch(4, |world| sum(&world)),
        "twice" => twice(),
        "argued" => Config::<Host>::default()
            .launch_arguments(["of", "ranks"])
            .launch(2, argued),
        "fails" => launch(|rank| match rank {
            2 => Err(Error::Config {
                what: "the disk is full".into(),
            }),
            _ => Ok(()),
        }),
        "panics" => launch(|rank| match rank {
            1 => std::panic::resume_unwind(Box::new("a user's bug")),
            _ => Ok(()),
        }),
        "exits" => launch(|rank| match rank {
            3 => process::exit(7),
            _ => Ok(()),
        }),
        "sleeps" => launch(|_| {
            thread::sleep(LONG);
            Ok(())
        }),
        "nests" => World::<Host>::launch(2, |world| {
            sum(&world)?;
            World::<Host>::launch(2, |_| Ok(()))
        }),
        other => panic!("no program {other:?}"),
    };
    match outcome {
        Ok(()) => {
            println!("ended well");
            0
        }
        Err(error) => {
            println!("error: {error}");
            3
        }
    }
}

/// Four ranks that note who they are, meet, and then wait for one that does something else.
fn launch(then: impl Fn(usize) -> Result<()>) -> Result<()> {
    World::<Host>::launch(4, |world| {
        sum(&world)?;
        let tp = world.split::<Tp>(0, 0)?;
        note(&world);
        then(world.rank())?;
        // Never comes to all ranks, where one does not come here.
        let mut x = symm!(group = tp, { tp.from_slice(&[1.0f32; 8])? })?;
        tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
        x.to_vec()?;
        thread::sleep(LONG);
        Ok(())
    })
}

fn note(world: &World<Host>) {
    if let Ok(notes) = env::var(NOTES) {
        let file = PathBuf::from(notes).join(world.rank().to_string());
        // Whole or not at all.
        let new = file.with_extension("new");
        fs::write(&new, process::id().to_string()).expect("a note");
        fs::rename(new, file).expect("a note");
    }
}

fn sum(world: &World<Host>) -> Result<()> {
    assert_eq!(world.launcher(), Launcher::Symm);
    let tp = world.split::<Tp>(0, 0)?;
    let mut x = symm!(group = tp, { tp.from_slice(&[world.rank() as f32; 1000])? })?;
    tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    let expected = (0..world.size()).sum::<usize>() as f32;
    assert_eq!(x.to_vec()?, [expected; 1000]);
    println!("rank {} of {} has {expected}", world.rank(), world.size());
    Ok(())
}

fn twice() -> Result<()> {
    println!("before");
    World::<Host>::launch(2, |world| sum(&world))?;
    println!("between");
    World::<Host>::launch(3, |world| sum(&world))
}

fn argued(world: World<Host>) -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    println!("rank {} got {arguments:?}", world.rank());
    Ok(())
}

// What is asked of them.

/// A program that launches, and a folder in which its ranks note who they are.
struct Running {
    child: Child,
    begun: Instant,
    notes: PathBuf,
}

/// How it ended.
struct Ended {
    status: ExitStatus,
    lines: Vec<String>,
    took: Duration,
}

impl Running {
    fn start(program: &str) -> Result<Self, Failed> {
        Self::start_with(program, |_| ())
    }

    fn start_with(program: &str, change: impl FnOnce(&mut Command)) -> Result<Self, Failed> {
        static PROGRAMS: AtomicU64 = AtomicU64::new(0);
        let number = PROGRAMS.fetch_add(1, Ordering::Relaxed);
        let notes = env::temp_dir().join(format!("symm-launch-{}-{number}", process::id()));
        let _ = fs::remove_dir_all(&notes);
        fs::create_dir_all(&notes)?;
        let mut command = Command::new(env::current_exe()?);
        command
            .env(PROGRAM, program)
            .env(NOTES, &notes)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        change(&mut command);
        let child = command.spawn()?;
        Ok(Self {
            child,
            begun: Instant::now(),
            notes,
        })
    }

    /// The processes of all four ranks, once they have met.
    fn ranks(&self) -> Result<Vec<Pid>, Failed> {
        let end = Instant::now() + SLACK;
        let pid = |rank: usize| {
            let text = fs::read_to_string(self.notes.join(rank.to_string())).ok()?;
            Pid::from_raw(text.parse().ok()?)
        };
        loop {
            if let Some(all) = (0..4).map(pid).collect::<Option<Vec<Pid>>>() {
                return Ok(all);
            }
            if Instant::now() > end {
                return Err("the ranks do not come up".into());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Its end, with what it and its ranks wrote.
    fn end(mut self) -> Result<Ended, Failed> {
        let (mut out, mut err) = (String::new(), String::new());
        let stderr = self.child.stderr.take();
        let reader = thread::spawn(move || {
            if let Some(mut stderr) = stderr {
                let _ = stderr.read_to_string(&mut err);
            }
            err
        });
        // Until the last process with this output has ended.
        if let Some(mut stdout) = self.child.stdout.take() {
            stdout.read_to_string(&mut out)?;
        }
        let status = self.child.wait()?;
        let took = self.begun.elapsed();
        let err = reader.join().map_err(|_| "the reader panicked")?;
        let lines = out.lines().chain(err.lines()).map(str::to_owned).collect();
        let _ = fs::remove_dir_all(&self.notes);
        Ok(Ended {
            status,
            lines,
            took,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Of what ended this does nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    fn says(&self, line: &str) -> Result<(), Failed> {
        match self.lines.iter().any(|said| said.contains(line)) {
            true => Ok(()),
            false => Err(format!("{line:?} is not in {:#?} ({})", self.lines, self.status).into()),
        }
    }

    /// How often a line is there.
    fn count(&self, line: &str) -> usize {
        self.lines.iter().filter(|said| *said == line).count()
    }
}

fn is_there(pid: Pid) -> bool {
    // A zombie that its parent has not looked at is gone as well.
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_some_and(|state| !state.starts_with(['Z', 'X']))
}

/// Waits until none is there, at most so long.
fn gone(pids: &[Pid], within: Duration) -> Result<(), Failed> {
    let begun = Instant::now();
    while pids.iter().any(|pid| is_there(*pid)) {
        if begun.elapsed() > within {
            return Err(format!("ranks are there {:?} later", begun.elapsed()).into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn four_ranks_sum() -> Result<(), Failed> {
    let ended = Running::start("sums")?.end()?;
    ended.says("ended well")?;
    let said: BTreeSet<&String> = ended.lines.iter().collect();
    let expected = (0..4).map(|rank| format!("rank {rank} of 4 has 6"));
    let expected: Vec<String> = expected.chain(["ended well".into()]).collect();
    let expected: BTreeSet<&String> = expected.iter().collect();
    match ended.status.success() && said == expected && ended.lines.len() == 5 {
        true => Ok(()),
        false => Err(format!("{}: {:#?}", ended.status, ended.lines).into()),
    }
}

fn two_launches_in_a_row() -> Result<(), Failed> {
    let ended = Running::start("twice")?.end()?;
    ended.says("ended well")?;
    for rank in 0..2 {
        assert_eq!(ended.count(&format!("rank {rank} of 2 has 1")), 1);
    }
    for rank in 0..3 {
        assert_eq!(ended.count(&format!("rank {rank} of 3 has 3")), 1);
    }
    // In the first process; in the ranks, what comes before their launch.
    assert_eq!((ended.count("before"), ended.count("between")), (6, 4));
    Ok(())
}

fn arguments_are_passed_on() -> Result<(), Failed> {
    let ended = Running::start("argued")?.end()?;
    ended.says("rank 0 got [\"of\", \"ranks\"]")?;
    ended.says("rank 1 got [\"of\", \"ranks\"]")
}

/// The first process names the rank, and all are gone in time.
fn fails(program: &str, says: &[&str]) -> Result<(), Failed> {
    let running = Running::start(program)?;
    let ranks = running.ranks()?;
    let ended = running.end()?;
    says.iter().try_for_each(|line| ended.says(line))?;
    if ended.took > SLACK || ended.status.code() != Some(3) {
        return Err(format!("{} after {:?}", ended.status, ended.took).into());
    }
    gone(&ranks, Duration::ZERO)
}

fn a_rank_returns_an_error() -> Result<(), Failed> {
    let says = [
        "error: rank 2 failed: its process ended with exit status: 1; what it said is on the standard error",
        "rank 2: the disk is full",
    ];
    fails("fails", &says)
}

fn a_rank_panics() -> Result<(), Failed> {
    let says = [
        "error: rank 1 failed: its process ended with exit status: 1",
        "a user's bug",
    ];
    fails("panics", &says)
}

fn a_rank_exits() -> Result<(), Failed> {
    fails(
        "exits",
        &["error: rank 3 failed: its process ended with exit status: 7"],
    )
}

fn a_rank_is_killed() -> Result<(), Failed> {
    for victim in [0, 2] {
        let running = Running::start("sleeps")?;
        let ranks = running.ranks()?;
        let killed = Instant::now();
        kill_process(ranks[victim], Signal::KILL)?;
        gone(&ranks, SLACK)?;
        let ended = running.end()?;
        if killed.elapsed() > SLACK {
            return Err(format!("it took {:?}", killed.elapsed()).into());
        }
        ended.says(&format!(
            "error: rank {victim} failed: its process ended with signal: 9 (SIGKILL)"
        ))?;
    }
    Ok(())
}

/// Whether this process, and so what it starts, ignores the signal, as shells have it of what they
/// run in the background. Programs leave it so.
fn is_ignored(signal: Signal) -> Result<bool, Failed> {
    let status = fs::read_to_string("/proc/self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = u64::from_str_radix(mask.ok_or("no SigIgn")?.trim(), 16)?;
    Ok(mask >> (signal.as_raw() - 1) & 1 == 1)
}

fn the_parent_is_told_to_end() -> Result<(), Failed> {
    for signal in [Signal::TERM, Signal::INT] {
        if is_ignored(signal)? {
            continue;
        }
        let running = Running::start("sleeps")?;
        let ranks = running.ranks()?;
        kill_process(Pid::from_child(&running.child), signal)?;
        gone(&ranks, SLACK)?;
        let ended = running.end()?;
        assert_eq!(
            ended.status.signal(),
            Some(signal.as_raw()),
            "by the signal"
        );
    }
    Ok(())
}

fn the_parent_is_killed() -> Result<(), Failed> {
    let running = Running::start("sleeps")?;
    let ranks = running.ranks()?;
    kill_process(Pid::from_child(&running.child), Signal::KILL)?;
    gone(&ranks, SLACK)
}

fn a_launch_inside_a_launch() -> Result<(), Failed> {
    let ended = Running::start("nests")?.end()?;
    ended.says(
        "a launch inside a launch is not available: the process was started by World::launch",
    )?;
    ended.says("failed: its process ended with exit status: 1")
}

fn a_launch_under_torchrun() -> Result<(), Failed> {
    let torchrun = |ranks: &'static str| {
        move |command: &mut Command| {
            command.envs([
                ("RANK", "0"),
                ("WORLD_SIZE", ranks),
                ("MASTER_ADDR", "127.0.0.1"),
                ("MASTER_PORT", "1"),
            ]);
        }
    };
    let ended = Running::start_with("sums", torchrun("2"))?.end()?;
    ended.says("error: a launch inside a launch is not available: this process is rank 0 of 2 by torchrun (RANK)")?;
    // A world of one, such as a job's shell.
    let ended = Running::start_with("sums", torchrun("1"))?.end()?;
    ended.says("ended well")?;
    Ok(())
}
