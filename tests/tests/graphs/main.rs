//! Graphs on the host backend: the conformance cases about captures, random programs against a
//! model that knows whose every byte is, and what goes wrong on purpose.

#![allow(missing_docs)]

mod faults;
mod model;
mod program;
mod rank;
mod step;

use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use symm_core::{Config, Error, Host, World, host};
use symm_tests::suite::{self, Outcome};

const RANKS: [usize; 2] = [2, 4];
/// Each stands for another order in which streams run, and for other addresses.
const SEEDS: [u64; 3] = [1, 2, 3];
/// The reference version, under which everything runs.
const NCCL: u32 = 23007;
/// Those before it whose rules differ: without early reads, with them, with one window enough, and
/// with windows that are made in captures.
const OLDER: [u32; 4] = [22705, 22809, 22907, 23006];
/// What depends on these rules.
const RULED: [&str; 4] = ["versions", "captures", "capture_errors", "redirection"];

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for ranks in RANKS {
        let cases = suite::cases::<Host>().into_iter();
        for case in cases.filter(|case| suite::GRAPHS.contains(&case.concept)) {
            if case.ranks > ranks {
                continue;
            }
            let title = format!("host/{ranks}/{}", case.title());
            let all_seeds = move || worlds(ranks, NCCL, &SEEDS, |world| case.run(&world));
            trials.push(Trial::test(title, all_seeds));
            for nccl in OLDER.into_iter().filter(|_| RULED.contains(&case.concept)) {
                let title = format!("host/{ranks}/nccl-{nccl}/{}", case.title());
                let one_seed = move || worlds(ranks, nccl, &SEEDS[..1], |world| case.run(&world));
                trials.push(Trial::test(title, one_seed));
            }
        }
    }
    trials.extend(faults::trials());
    trials.extend(program::trials());
    libtest_mimic::run(&arguments, trials).exit();
}

/// Runs `rank` on every rank of a world for each seed.
fn worlds(
    ranks: usize,
    nccl: u32,
    seeds: &[u64],
    rank: impl Fn(World<Host>) -> Outcome + Sync,
) -> Result<(), Failed> {
    for seed in seeds {
        let options = host::Options::default().seed(*seed).nccl_version(nccl);
        let config = Config::default()
            .deadline(Duration::from_secs(30))
            .options(options);
        let outcome = config.run(ranks, |world| {
            suite::expect_nccl(nccl);
            rank(world).map_err(Error::from)
        });
        outcome.map_err(|error| format!("seed {seed}: {error}"))?;
    }
    Ok(())
}
