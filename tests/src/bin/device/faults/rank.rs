//! One rank of a scenario: runs its program, and says what came of it.

use std::fmt;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use symm_core::{Config, Cuda, Error, Group, Path, ReduceOp, SymmBuf, World, groups, symm};

use super::scenario::Program;
use super::words::say;
use super::{deadline, inside};

groups! { Tp = "tp"; After = "after"; }

/// Segments of this size: each step's buffer needs one of its own.
const SEGMENT: u64 = 2 << 20;
const STEPS: usize = 5;
/// Elements of one rank's part in the raw wait: 1 MiB, for which NCCL takes the kernel that stores
/// to its peers.
const PART: usize = 256 << 10;

type Buf<T> = SymmBuf<T, Tp, Cuda>;

/// Wrong data, or an error of the crate.
enum Failure {
    Wrong(String),
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

pub(crate) fn run(program: Program) -> ExitCode {
    let bytes = match program {
        Program::Steps => SEGMENT,
        Program::Raw => 64 << 20,
    };
    let config = Config::<Cuda>::default()
        .tuned(false)
        .first_segment(bytes)
        .segment_cap(bytes)
        .deadline(deadline())
        .inside(inside());
    let world = match config.from_env() {
        Ok(world) => world,
        Err(error) if error.is_unavailable() => {
            say("unavailable", &error.to_string());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            told(&error);
            return ExitCode::FAILURE;
        }
    };
    let outcome = match program {
        Program::Steps => steps(&world),
        Program::Raw => raw(&world),
    };
    match &outcome {
        Ok(()) => say("done", ""),
        Err(Failure::Error(error)) => told(error),
        Err(Failure::Wrong(text)) => say("wrong", text),
    }
    // What is left of it ends before the process does; the parent looks when that is.
    drop(world);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The error's kind, and its text.
fn told(error: &Error) {
    let debug = format!("{error:?}");
    let kind = debug.split(|c: char| !c.is_alphanumeric()).next();
    say("error", &format!("{} {error}", kind.unwrap_or_default()));
}

/// Grows by a window in each step, and reduces in it.
fn steps(world: &World<Cuda>) -> Result<(), Failure> {
    let tp = world.split::<Tp>(0, 0)?;
    let len = SEGMENT as usize / 4;
    let mut kept: Vec<Buf<f32>> = Vec::new();
    for step in 0..STEPS {
        let mine = (world.rank() + step) as f32;
        let mut x = symm!(group = tp, { tp.from_slice(&vec![mine; len])? })?;
        tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
        let sum = (0..world.size()).map(|rank| (rank + step) as f32).sum();
        equal("a sum", &x.to_vec()?, &vec![sum; len])?;
        kept.push(x);
    }
    world.check()?;
    Ok(())
}

/// Rank 1 skips an all_gather, for which all others wait in a raw synchronise. All are told, rebuild,
/// and go on with the same memory.
fn raw(world: &World<Cuda>) -> Result<(), Failure> {
    let (rank, ranks) = (world.rank(), world.size());
    let tp = world.split::<Tp>(0, 0)?;
    let (first, last) = (pattern(rank, 1, PART), pattern(rank, 2, PART));
    let mine = pattern(rank, 3, PART);
    // One behind the other in one segment.
    let (before, own, mut all, after) = symm!(group = tp, {
        (
            tp.from_slice(&first)?,
            tp.from_slice(&mine)?,
            tp.zeros::<u32>(PART * ranks)?,
            tp.from_slice(&last)?,
        )
    })?;
    gathered(&tp, &own, &mut all, ranks, 3)?;
    say("ready", "");
    if rank == 1 {
        let since = Instant::now();
        while world.check().is_ok() && since.elapsed() < deadline() * 4 {
            thread::sleep(Duration::from_millis(5));
        }
    } else {
        say("launched", "");
        match tp.all_gather(&own, &mut all) {
            Ok(path) => {
                // cudarc's own, which knows nothing of this crate's failures.
                let waited = world.stream().synchronize();
                let how = waited.map_or_else(
                    |error| format!("error {}", error.0 as i32),
                    |()| "success".into(),
                );
                say("released", &format!("{path}: {how}"));
                if path != Path::Symmetric {
                    return Err(Failure::Wrong(format!("the all_gather is {path}")));
                }
            }
            // Where NCCL cannot release its kernels, the call has waited for all ranks first.
            Err(error) => say("released", &format!("before the launch: {error}")),
        }
    }
    match world.check() {
        Err(error) => told(&error),
        Ok(()) => return Err(Failure::Wrong("the world has not failed".into())),
    }
    world.rebuild()?;
    say("rebuilt", "");
    equal("what lies before", &before.to_vec()?, &first)?;
    equal("what lies behind", &after.to_vec()?, &last)?;
    equal("what was sent", &own.to_vec()?, &mine)?;

    let own = symm!(group = tp, { tp.from_slice(&pattern(rank, 4, PART))? })?;
    gathered(&tp, &own, &mut all, ranks, 4)?;
    let mut x = symm!(group = tp, {
        tp.from_slice(&vec![rank as f32 + 1.0; PART])?
    })?;
    tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    let sum = (ranks * (ranks + 1) / 2) as f32;
    equal("a sum", &x.to_vec()?, &vec![sum; PART])?;
    let after_all = world.split::<After>(0, 0)?;
    let mut y = symm!(group = after_all, {
        after_all.from_slice(&vec![1.0_f32; PART])?
    })?;
    after_all.all_reduce_in_place(&mut y, ReduceOp::Sum)?;
    equal(
        "a sum of a new group",
        &y.to_vec()?,
        &vec![ranks as f32; PART],
    )?;
    equal("what lies before, at last", &before.to_vec()?, &first)?;
    equal("what lies behind, at last", &after.to_vec()?, &last)
}

/// Gathers, and compares with what all ranks have.
fn gathered(
    tp: &Group<Tp, Cuda>,
    own: &Buf<u32>,
    all: &mut Buf<u32>,
    ranks: usize,
    which: u32,
) -> Result<(), Failure> {
    tp.all_gather(own, &mut *all)?;
    let expected: Vec<u32> = (0..ranks)
        .flat_map(|rank| pattern(rank, which, PART))
        .collect();
    equal("an all_gather", &all.to_vec()?, &expected)
}

/// Different in every element, on every rank, for every purpose.
fn pattern(rank: usize, which: u32, len: usize) -> Vec<u32> {
    let seed = (rank as u32 * 16 + which).wrapping_mul(0x9E37_79B9);
    (0..len as u32)
        .map(|i| i.wrapping_mul(0x85EB_CA6B) ^ seed)
        .collect()
}

fn equal<T: PartialEq + fmt::Debug>(
    what: &str,
    found: &[T],
    expected: &[T],
) -> Result<(), Failure> {
    let first = found.iter().zip(expected).position(|(a, b)| a != b);
    let count = found.iter().zip(expected).filter(|(a, b)| a != b).count();
    match first {
        None if found.len() == expected.len() => Ok(()),
        None => Err(Failure::Wrong(format!("{what}: {} elements", found.len()))),
        Some(at) => Err(Failure::Wrong(format!(
            "{what}: {count} of {} elements are wrong, first [{at}] = {:?}, not {:?}",
            found.len(),
            found[at],
            expected[at]
        ))),
    }
}
