//! What goes wrong: all ranks are told, and go on alike.

use std::fs;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use symm_core::host::{At, CallKind, Fault, Options, What};
use symm_core::{Error, Host, ReduceOp, Result, World, host, symm};

use crate::{FOUND, Folder, KIB, NOTHING, Tp, config, configured, slow_at_16k, sums};

#[test]
fn a_rebuilt_world_goes_on_with_the_table() {
    let folder = Folder::new();
    let config = config(&folder, "slow at 16k", slow_at_16k);
    let together = Barrier::new(3);
    let outcomes = config.run_each(3, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        tp.calibrate()?;
        assert_eq!(sums(&tp)?, FOUND);
        let mut x = symm!(group = tp, { tp.zeros::<f32>(4 * KIB)? })?;
        for _ in 0..2 {
            // Or one fails while another still reads.
            together.wait();
            let differs = match world.rank() {
                1 => tp.broadcast_in_place(&mut x, 0),
                _ => tp.all_reduce_in_place(&mut x, ReduceOp::Sum),
            };
            // Whoever came first may only hear of it later.
            let failed = differs.and_then(|_| x.to_vec());
            assert!(failed.is_err());
            world.rebuild()?;
            assert_eq!(sums(&tp)?, FOUND);
            assert_eq!(world.pool().stats().twins, 1);
            tp.calibrate()?;
            assert_eq!(sums(&tp)?, FOUND);
        }
        Ok(())
    });
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
}

#[test]
fn a_rank_that_calls_something_else_is_told() {
    let folder = Folder::new();
    let config = config(&folder, "slow at 16k", slow_at_16k).deadline(Duration::from_secs(5));
    let begun = Instant::now();
    let outcomes = config.run_each(3, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        match world.rank() {
            1 => sums(&tp).map(drop),
            _ => tp.calibrate().map(drop),
        }
    });
    let texts: Vec<String> = outcomes
        .into_iter()
        .map(|outcome| outcome.unwrap_err().to_string())
        .collect();
    for text in texts {
        assert!(
            text.contains("a calibration at") || text.contains("a round with"),
            "{text}"
        );
    }
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn no_memory_on_one_rank_leaves_all_as_they_were() {
    let folder = Folder::new();
    // The smaller segment has room; then none has.
    for (fails, succeeds) in [(&[1][..], true), (&[1, 2], false)] {
        let fault =
            |k: &u64| Fault::new(1, At::Call(CallKind::AllocSegment, *k), What::OutOfMemory);
        let options = Options::default().costs("slow at 16k", slow_at_16k);
        let options = fails.iter().map(fault).fold(options, Options::fault);
        configured(&folder, options)
            .run(3, |world| {
                let tp = world.split::<Tp>(0, 0)?;
                match (tp.calibrate(), world.rank()) {
                    (Ok(found), _) if succeeds => assert_eq!(found.points.len(), 5 * 4),
                    (Err(Error::OutOfMemory { .. }), 1) if !succeeds => {}
                    (Err(Error::PeerFailed { rank: 1, .. }), 0 | 2) if !succeeds => {}
                    (other, rank) => panic!("rank {rank}: {other:?}"),
                }
                assert_eq!(world.pool().stats().reserved_bytes, 0);
                // Nothing has failed for good.
                sums(&tp)
            })
            .unwrap();
        let _ = fs::remove_dir_all(&folder.0);
    }
}

#[test]
fn a_sealed_pool_says_so() {
    let folder = Folder::new();
    config(&folder, "slow at 16k", slow_at_16k)
        .run(2, |world| {
            let tp = world.split::<Tp>(0, 0)?;
            world.pool().seal();
            let refused = tp.calibrate();
            assert!(matches!(refused, Err(Error::Sealed { .. })), "{refused:?}");
            world.pool().unseal();
            tp.calibrate().map(drop)
        })
        .unwrap();
}

/// Calibrates, and uses what was found.
fn program(world: World<Host>) -> Result<u64> {
    let tp = world.split::<Tp>(0, 0)?;
    tp.calibrate()?;
    sums(&tp)?;
    Ok(host::calls(&world))
}

/// The same at every call that can fail or hang: all ranks end, with an error if one of them has one.
fn every_call(what: What) {
    let folder = Folder::new();
    let costs = || Options::default().costs("slow at 16k", slow_at_16k);
    let run = |options| {
        configured(&folder, options)
            .deadline(Duration::from_secs(2))
            .inside(Duration::from_secs(1))
            .run_each(2, program)
    };
    let calls: Vec<u64> = run(costs()).into_iter().map(Result::unwrap).collect();
    // A sweep repeats itself; its beginning and its end are looked at call by call.
    let last = calls[1];
    let chosen = (1..=last).filter(|k| *k < 60 || *k > last - 60 || k % 211 == 0);
    let mut failed = 0;
    for k in chosen {
        let _ = fs::remove_dir_all(&folder.0);
        let begun = Instant::now();
        let outcomes = run(costs().fault(Fault::new(1, At::Nth(k), what)));
        assert!(
            begun.elapsed() < Duration::from_secs(25),
            "call {k} of {last}"
        );
        failed += usize::from(outcomes.iter().any(Result::is_err));
    }
    println!("{failed} runs failed, of faults at {last} calls");
    assert!(failed > 30, "{failed} runs failed");
}

#[test]
fn every_call_may_fail() {
    every_call(What::Fail);
}

#[test]
fn every_call_may_find_no_memory() {
    every_call(What::OutOfMemory);
}

#[test]
fn a_call_that_hangs_ends_at_the_deadline() {
    let folder = Folder::new();
    for kind in [
        CallKind::Register,
        CallKind::Connect,
        CallKind::Launch,
        CallKind::LaunchGraph,
    ] {
        // The world's own communicator is the first.
        let k = if kind == CallKind::Connect { 2 } else { 1 };
        let options = Options::default()
            .costs("slow at 16k", slow_at_16k)
            .fault(Fault::new(1, At::Call(kind, k), What::Hang));
        let config = configured(&folder, options)
            .deadline(Duration::from_secs(2))
            .inside(Duration::from_secs(1));
        let begun = Instant::now();
        let outcomes = config.run_each(2, program);
        assert!(
            outcomes.iter().all(Result::is_err),
            "{kind:?}: {outcomes:?}"
        );
        assert!(begun.elapsed() < Duration::from_secs(20), "{kind:?}");
    }
}

/// A calibration that fails on one rank leaves a world that can be rebuilt, and ranks that agree.
#[test]
fn a_failed_calibration_can_be_repeated() {
    let folder = Folder::new();
    for k in [1, 3, 40] {
        let options = Options::default()
            .costs("slow at 16k", slow_at_16k)
            .fault(Fault::new(
                1,
                At::Call(CallKind::LaunchGraph, k),
                What::Fail,
            ));
        configured(&folder, options)
            .run(3, |world| {
                let tp = world.split::<Tp>(0, 0)?;
                assert!(tp.calibrate().is_err());
                world.rebuild()?;
                assert_eq!(sums(&tp)?, NOTHING);
                tp.calibrate()?;
                assert_eq!(sums(&tp)?, FOUND);
                Ok(())
            })
            .unwrap();
        let _ = fs::remove_dir_all(&folder.0);
    }
}
