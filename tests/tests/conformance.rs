//! The conformance suite on the host backend: every case in a world of its own, for several numbers
//! of ranks, several orders of the streams' work, and the rules of several versions of NCCL. The cases about
//! captures are in `graphs`.

#![allow(missing_docs)]

use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use symm_core::{Config, Error, Host, World, host};
use symm_tests::suite::{self, Outcome};

const RANKS: [usize; 2] = [2, 4];
/// Each stands for another order in which streams run, and for other addresses.
const SEEDS: [u64; 3] = [1, 2, 3];
/// The reference version, under which everything runs.
const NCCL: u32 = 23007;
/// Those before it whose rules differ: both windows needed, unaligned loads, no average kernels.
const OLDER: [u32; 3] = [22705, 22809, 22907];
/// What depends on these rules.
const RULED: [&str; 7] = [
    "batch",
    "collectives",
    "paths",
    "programs",
    "sleep",
    "types",
    "views",
];

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for ranks in RANKS {
        for case in suite::cases::<Host>()
            .into_iter()
            .filter(|case| case.ranks <= ranks && !suite::GRAPHS.contains(&case.concept))
        {
            let title = format!("host/{ranks}/{}", case.title());
            let all_seeds = move || worlds(ranks, NCCL, &SEEDS, |world| case.run(&world));
            trials.push(Trial::test(title, all_seeds));
            for nccl in OLDER.into_iter().filter(|_| RULED.contains(&case.concept)) {
                let title = format!("host/{ranks}/nccl-{nccl}/{}", case.title());
                let one_seed = move || worlds(ranks, nccl, &SEEDS[..1], |world| case.run(&world));
                trials.push(Trial::test(title, one_seed));
            }
        }
        let title = format!("host/{ranks}/{}", suite::FAREWELL);
        let last = move || worlds(ranks, NCCL, &SEEDS, suite::farewell);
        trials.push(Trial::test(title, last));
    }
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
        // A rank that does not come is then an error that names it, long before anybody looks for a
        // hang.
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
