//! What all ranks come to, and what calls do with it.

use std::time::Duration;

use symm_core::host::{Launched, Options};
use symm_core::{Calibration, Error, Host, Path, Reason, ReduceOp, Strict, f16, symm};
use symm_tests::suite;

use crate::{FASTER, FOUND, Folder, KIB, NOTHING, Tp, config, configured, slow_at_16k, sum, sums};

#[test]
fn the_faster_way_is_taken_where_it_was_measured() {
    let folder = Folder::new();
    let config = config(&folder, "slow at 16k", slow_at_16k);
    let found = config.run(4, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        assert_eq!(sums(&tp)?, NOTHING);
        let found = tp.calibrate()?;
        assert_eq!(sums(&tp)?, FOUND);
        assert_eq!(world.pool().stats().twins, 1);
        // All types of the rows, and no other operation.
        let (mut half, mut whole) = symm!(group = tp, {
            (tp.zeros::<f16>(8 * KIB)?, tp.zeros::<i32>(4 * KIB)?)
        })?;
        assert_eq!(tp.all_reduce_in_place(&mut half, ReduceOp::Sum)?, FASTER);
        assert_eq!(tp.all_gather_in_place(&mut whole)?, Path::Symmetric);
        assert_eq!(
            tp.all_reduce_in_place(&mut whole, ReduceOp::Sum)?,
            Path::Plain(Reason::NoKernel)
        );
        let faster: u64 = tp
            .counts()
            .iter()
            .filter(|count| count.path == FASTER)
            .map(|count| count.calls)
            .sum();
        assert_eq!(faster, 2);
        Ok(found)
    });
    let found = found.unwrap();
    let without_cached = |found: &Calibration| (found.points.clone(), found.noisy);
    for one in &found {
        assert_eq!(without_cached(one), without_cached(&found[0]));
    }
    let cached: Vec<bool> = found.iter().map(|found| found.cached).collect();
    assert_eq!(cached, [true, false, false, false]);
    let points = &found[0].points;
    assert_eq!(points.len(), 5 * 7); // 1 to 64 KiB
    let slow: Vec<_> = points.iter().filter(|point| point.path == FASTER).collect();
    assert_eq!(slow.len(), 2);
    for point in slow {
        assert_eq!(
            (point.operation, point.bytes, point.spread),
            ("all_reduce", 16 << 10, 0.0)
        );
        assert_eq!(point.windowed, Duration::from_nanos(10_400));
        assert_eq!(point.twin, Duration::from_micros(10));
    }
    let text = found[0].to_string();
    assert!(
        text.contains("plain: faster without the window") && text.contains("kept"),
        "{text}"
    );
}

#[test]
fn three_percent_have_to_be_won() {
    let folder = Folder::new();
    let config = config(&folder, "level", |call| {
        if call.symmetric { 10_000 } else { 9_700 }
    });
    config
        .run(2, |world| {
            let tp = world.split::<Tp>(0, 0)?;
            tp.calibrate()?;
            assert_eq!((sums(&tp)?, world.pool().stats().twins), (NOTHING, 0));
            Ok(())
        })
        .unwrap();
}

#[test]
fn the_slowest_rank_counts() {
    let folder = Folder::new();
    // The twin is faster on all ranks but one.
    let costs = |call: &Launched| match (call.symmetric, call.rank) {
        (true, _) => 10_000,
        (false, 2) => 12_000,
        (false, _) => 1_000,
    };
    let found = config(&folder, "one slow rank", costs).run(3, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let found = tp.calibrate()?;
        assert_eq!(sums(&tp)?, NOTHING);
        Ok(found.points[0].twin)
    });
    assert_eq!(found.unwrap(), [Duration::from_micros(12); 3]);
}

#[test]
fn strict_groups_allow_it_unless_they_say_so() {
    let folder = Folder::new();
    let config = config(&folder, "slow at 16k", slow_at_16k).strict(true);
    config
        .run(2, |world| {
            let tp = world.split::<Tp>(0, 0)?;
            tp.calibrate()?;
            assert_eq!(sums(&tp)?, FOUND);
            tp.set_strict(Strict::new().forbid(Reason::Faster));
            let refused = sum(&tp, 16);
            assert!(
                matches!(
                    refused,
                    Err(Error::NotSymmetric {
                        reason: Reason::Faster,
                        ..
                    })
                ),
                "{refused:?}"
            );
            assert_eq!(sum(&tp, 8)?, Path::Symmetric);
            Ok(())
        })
        .unwrap();
}

#[test]
fn without_kernels_there_is_no_choice() {
    let folder = Folder::new();
    let options = Options::default()
        .costs("slow at 16k", slow_at_16k)
        .windows(false);
    configured(&folder, options)
        .run(2, |world| {
            let tp = world.split::<Tp>(0, 0)?;
            let found = tp.calibrate()?;
            assert!(found.points.is_empty() && !found.cached);
            assert_eq!(sums(&tp)?, [Path::Plain(Reason::Unsupported); 3]);
            Ok(())
        })
        .unwrap();
    assert!(folder.files().is_empty());
}

#[test]
fn the_suite_holds_where_twins_are_faster() {
    for ranks in [2, 4] {
        for case in suite::cases::<Host>() {
            if case.concept != "faster" {
                continue;
            }
            let folder = Folder::new();
            let run = config(&folder, "slow at 16k", slow_at_16k)
                .tuned(false)
                .run(ranks, |world| case.run(&world).map_err(Error::from));
            run.unwrap_or_else(|error| panic!("{}: {error}", case.title()));
        }
    }
}
