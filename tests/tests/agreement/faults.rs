//! Every call of the backend fails, hangs, is slow or finds no memory, on each rank: nothing hangs,
//! panics or leaks, and all ranks return errors.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use symm_core::Result;
use symm_core::host::{At, Fault, Options, What};

use crate::child::{Running, command, number};
use crate::kills::{program, small};

const WHAT: &str = "SYMM_AGREEMENT_FAULT";
const KINDS: [(&str, What); 4] = [
    ("fails", What::Fail),
    ("hangs", What::Hang),
    ("is_slow", What::Delay(Duration::from_millis(20))),
    ("finds_no_memory", What::OutOfMemory),
];
/// Of a world in which something hangs.
const DEADLINE: Duration = Duration::from_secs(1);
/// Beyond this a world hangs: what has to be waited for has deadlines of its own, one after another.
const LIMIT: Duration = Duration::from_secs(30);
/// Worlds at a time; most of them wait.
const PARALLEL: usize = 8;
/// Calls of the reaper come later than the program's own.
const BEYOND: u64 = 40;

pub(crate) fn trials() -> Vec<Trial> {
    let kinds = KINDS.iter().enumerate();
    kinds
        .map(|(at, (name, _))| Trial::test(format!("faults/each_call_{name}"), move || kind(at)))
        .collect()
}

/// In a process of its own, whose threads and files are counted.
fn kind(at: usize) -> Result<(), Failed> {
    let mut command = command("faults")?;
    command.env(WHAT, at.to_string());
    let mut child = Running::start(command)?;
    if !child.listen(Instant::now() + Duration::from_secs(100)) {
        return Err(format!("it hangs: {:#?}", child.all).into());
    }
    child.all.iter().for_each(|line| println!("{line}"));
    match child.end().starts_with("end ok") {
        true => Ok(()),
        false => Err(child.end().to_owned().into()),
    }
}

fn count(of: &str) -> usize {
    std::fs::read_dir(of).map_or(0, Iterator::count)
}

/// Threads and open files of this process.
fn open() -> (usize, usize) {
    (count("/proc/self/task"), count("/proc/self/fd"))
}

pub(crate) fn exhaust() -> Result<String, String> {
    let (name, what) = KINDS[number(WHAT).unwrap_or_default() as usize % KINDS.len()];
    let deadline = match what {
        What::Delay(_) => Duration::from_secs(30),
        _ => DEADLINE,
    };
    let before = open();
    let calls = small(Duration::from_secs(30)).run(2, program);
    let calls = calls.map_err(|error| error.to_string())?[0];
    let mut text = format!("each call {name}:");
    for rank in 0..2 {
        let (next, reached) = (AtomicU64::new(1), AtomicU64::new(0));
        let (alone, wrong) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        let work = || {
            loop {
                let k = next.fetch_add(1, Ordering::Relaxed);
                if k > calls + BEYOND {
                    return;
                }
                let options = Options::default().fault(Fault::new(rank, At::Nth(k), what));
                let begun = Instant::now();
                let results = small(deadline).options(options).run_each(2, program);
                let took = begun.elapsed();
                let failed = results.iter().filter(|result| result.is_err()).count();
                if failed > 0 {
                    reached.fetch_max(k, Ordering::Relaxed);
                }
                // The program's own calls concern both ranks; those of its end do not.
                let one_sided = failed == 1 && k <= calls;
                if failed == 1 {
                    alone.lock().map(|mut alone| alone.push(k)).ok();
                }
                let panicked = format!("{results:?}").contains("panicked");
                let slow = matches!(what, What::Delay(_)) && failed > 0;
                let missed = k <= calls / 2 && failed == 0 && !matches!(what, What::Delay(_));
                if took > LIMIT || panicked || slow || missed || one_sided {
                    let why = format!("rank {rank}, call {k}, after {took:?}: {results:?}");
                    wrong.lock().map(|mut wrong| wrong.push(why)).ok();
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..PARALLEL {
                scope.spawn(work);
            }
        });
        let wrong = wrong.into_inner().map_err(|error| error.to_string())?;
        let mut alone = alone.into_inner().map_err(|error| error.to_string())?;
        alone.sort_unstable();
        println!(
            "each call {name} on rank {rank}: {calls} calls of the program, {} reached; one rank alone failed at {alone:?}",
            reached.load(Ordering::Relaxed)
        );
        if let Some(first) = wrong.first() {
            return Err(format!("{} of {calls}: {first}", wrong.len()));
        }
        text += &format!(" rank {rank} {calls}");
    }
    let end = Instant::now() + Duration::from_secs(20);
    while open().0 > before.0 || open().1 > before.1 {
        if Instant::now() > end {
            return Err(format!(
                "threads and files leak: {before:?} before, {:?} after",
                open()
            ));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(text)
}
