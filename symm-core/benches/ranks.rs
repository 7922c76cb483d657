//! The cost of rounds and checks as ranks grow from 2 to 64: `cargo bench -p symm-core --bench ranks`
//!
//! Ranks are threads of the host backend, so all of them share this machine's cores: a round, for which
//! all ranks have to come, grows at least with ranks / cores. A collective waits for nobody: what is
//! shown is its call on rank 0, which only enqueues it.

use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use symm_core::{Config, Host, ReduceOp, Result, World, groups};

groups! { pub(crate) Tp = "tp"; }

const ROUNDS: u32 = 20;
const REPEATS: u32 = 5;
/// Fewer than a lap of the ring, so that no rank waits for another one inside.
const CALLS: u32 = 200;

/// What rank 0 saw, from when all had begun until all had ended.
#[derive(Clone, Copy, Debug)]
struct Took {
    split: Duration,
    round: Duration,
    call: Duration,
}

fn measure(ranks: usize, checks: bool) -> Result<Took> {
    let config = Config::<Host>::default()
        .checks(checks)
        .first_segment(2 << 20)
        .segment_cap(2 << 20);
    let rank = |world: World<Host>| {
        let begun = Instant::now();
        let tp = world.split::<Tp>(0, 0)?;
        let split = begun.elapsed();
        let scope = tp.scope()?;
        let mut x = scope.zeros::<f32>(64)?;
        scope.close()?;
        let begun = Instant::now();
        for _ in 0..ROUNDS {
            tp.reserve(2 << 20)?;
        }
        let round = begun.elapsed() / ROUNDS;
        let begun = Instant::now();
        for _ in 0..CALLS {
            tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
        }
        let call = begun.elapsed() / CALLS;
        x.to_vec()?;
        Ok(Took { split, round, call })
    };
    Ok(config.run(ranks, rank)?[0])
}

fn main() -> Result<()> {
    let cores = available_parallelism().map_or(1, usize::from);
    println!(
        "microseconds on rank 0, ranks are threads on {cores} cores; the least of {REPEATS} runs"
    );
    println!(
        "{:>6} {:>10} {:>10} {:>18} {:>12} {:>12}",
        "ranks", "split", "round", "round / ranks", "collective", "unchecked"
    );
    for ranks in [2, 4, 8, 16, 32, 64] {
        let (on, off) = (least(ranks, true)?, least(ranks, false)?);
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        println!(
            "{ranks:>6} {:>10.0} {:>10.0} {:>18.1} {:>12.2} {:>12.2}",
            micros(on.split),
            micros(on.round),
            micros(on.round) / ranks as f64,
            micros(on.call),
            micros(off.call),
        );
    }
    Ok(())
}

/// What disturbs a run makes it longer, never shorter.
fn least(ranks: usize, checks: bool) -> Result<Took> {
    let mut least = measure(ranks, checks)?;
    for _ in 1..REPEATS {
        let took = measure(ranks, checks)?;
        least = Took {
            split: least.split.min(took.split),
            round: least.round.min(took.round),
            call: least.call.min(took.call),
        };
    }
    Ok(least)
}
