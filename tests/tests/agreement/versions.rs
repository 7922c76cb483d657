//! NCCL versions whose kernels on windows cannot be released: there, ranks wait for each other
//! before they launch one.

use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use symm_core::host::Options;
use symm_core::{Error, Path, ReduceOp, Result, symm};

use crate::Case;
use crate::harness::{Rank, cause, config, same_cause};

pub(crate) const CASES: &[Case] = &[
    ("waits_for_all_before_2_29_7", waits_for_all),
    ("launches_at_once_from_2_29_7_on", launches_at_once),
];

fn sum(rank: &Rank) -> Result<Vec<f32>> {
    let mut x = symm!(group = rank.tp, { rank.tp.from_slice(&[1.0f32; 8])? })?;
    let path = rank.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    assert_eq!(path, Path::Symmetric);
    x.to_vec()
}

fn waits_for_all() -> Result<(), Failed> {
    for version in [22705, 22809, 22907 - 1] {
        let config = config()
            .deadline(Duration::from_secs(1))
            .options(Options::default().nccl_version(version));
        let causes = config.run(3, |world| {
            let rank = Rank::new(world)?;
            assert_eq!(sum(&rank)?, [3.0; 8]);
            let begun = Instant::now();
            // Rank 1 never comes to the collective.
            let told = match rank.me() {
                1 => rank.told(Ok(())),
                _ => rank.told(sum(&rank)),
            };
            assert!(begun.elapsed() < Duration::from_secs(10));
            assert!(!matches!(told, Error::Unrecoverable { .. }), "{told}");
            rank.world.rebuild()?;
            assert_eq!(sum(&rank)?, [3.0; 8], "after the rebuild");
            Ok(cause(&told))
        })?;
        let cause = same_cause(&causes)?;
        if !cause.contains("[1]") {
            return Err(format!("NCCL {version}: rank 1 is not named: {cause}").into());
        }
    }
    Ok(())
}

fn launches_at_once() -> Result<(), Failed> {
    config().run(2, |world| {
        let rank = Rank::new(world)?;
        let mut x = symm!(group = rank.tp, { rank.tp.from_slice(&[1.0f32; 8])? })?;
        for _ in 0..2 {
            // A rank that waited for its peer here would be as slow as that.
            let begun = Instant::now();
            if rank.me() == 1 {
                std::thread::sleep(Duration::from_millis(500));
            }
            rank.tp.all_reduce_in_place(&mut x, ReduceOp::Max)?;
            if rank.me() == 0 {
                assert!(begun.elapsed() < Duration::from_millis(400), "it waited");
            }
            assert_eq!(x.to_vec()?, [1.0; 8]);
        }
        Ok(())
    })?;
    Ok(())
}
