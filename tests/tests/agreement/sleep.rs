//! Worlds that are suspended: ranks that do something else, calls of NCCL that fail or hang half way,
//! ranks that go while all sleep, and worlds that end in their sleep.

use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use symm_core::host::{At, CallKind, Fault, Options, What};
use symm_core::{Error, ReduceOp, Result, symm};

use crate::Case;
use crate::harness::{Rank, cause, config, same_cause};

pub(crate) const CASES: &[Case] = &[
    (
        "one_rank_calls_something_else",
        one_rank_calls_something_else,
    ),
    ("suspend_fails_on_one_rank", suspend_fails),
    ("resume_fails_on_one_rank", resume_fails),
    ("suspend_hangs_on_one_rank", suspend_hangs),
    ("resume_hangs_on_one_rank", resume_hangs),
    ("a_rank_leaves_meanwhile", a_rank_leaves_meanwhile),
    ("the_world_fails_meanwhile", the_world_fails_meanwhile),
    ("a_world_ends_asleep", a_world_ends_asleep),
];

fn sum(rank: &Rank) -> Result<Vec<f32>> {
    let mut x = symm!(group = rank.tp, { rank.tp.from_slice(&[1.0f32; 64])? })?;
    rank.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    x.to_vec()
}

/// What ranks come to after a failure: the world is rebuilt, and sleeps as if nothing had been.
fn recovers(rank: &Rank) -> Result<()> {
    rank.world.rebuild()?;
    for _ in 0..2 {
        assert_eq!(sum(rank)?, [3.0; 64]);
        let suspended = rank.world.suspend()?;
        assert!(suspended.communicators >= 2, "{suspended}");
        assert!(matches!(sum(rank), Err(Error::Suspended { .. })));
        rank.world.resume()?;
    }
    assert_eq!(sum(rank)?, [3.0; 64]);
    Ok(())
}

fn one_rank_calls_something_else() -> Result<(), Failed> {
    for odd in [0, 2] {
        let begun = Instant::now();
        let causes = config().run(3, |world| {
            let rank = Rank::new(world)?;
            sum(&rank)?;
            let _met = rank.meets()?;
            let outcome = match rank.me() == odd {
                true => sum(&rank).map(drop),
                false => rank.world.suspend().map(drop),
            };
            let told = rank.told(outcome);
            recovers(&rank)?;
            Ok(cause(&told))
        })?;
        let cause = same_cause(&causes)?;
        // Far from the deadline: the board told them.
        let in_time = begun.elapsed() < Duration::from_secs(15);
        if !(in_time && cause.contains("world.suspend at") && cause.contains("all_reduce")) {
            return Err(format!("after {:?}: {cause}", begun.elapsed()).into());
        }
    }
    Ok(())
}

/// A fault at the n-th suspension or resumption of a communicator on one rank, in a world with a
/// group: the world's own comes first.
fn faulty(call: CallKind, what: What, says: &str) -> Result<(), Failed> {
    for (odd, nth) in [(0, 1), (2, 1), (1, 2)] {
        let options = Options::default().fault(Fault::new(odd, At::Call(call, nth), what));
        let config = config().inside(Duration::from_millis(300)).options(options);
        let causes = config.run(3, |world| {
            let rank = Rank::new(world)?;
            sum(&rank)?;
            let slept = rank.world.suspend().and_then(|_| rank.world.resume());
            let told = rank.told(slept);
            assert!(!matches!(told, Error::Suspended { .. }), "{told}");
            assert!(sum(&rank).is_err());
            recovers(&rank)?;
            Ok(cause(&told))
        })?;
        let cause = same_cause(&causes)?;
        if !cause.contains(says) {
            return Err(format!("rank {odd}, call {nth}: {says:?} is not in {cause:?}").into());
        }
    }
    Ok(())
}

fn suspend_fails() -> Result<(), Failed> {
    faulty(CallKind::Suspend, What::Fail, "suspend failed with code 1")
}

fn resume_fails() -> Result<(), Failed> {
    faulty(CallKind::Resume, What::Fail, "resume failed with code 1")
}

fn suspend_hangs() -> Result<(), Failed> {
    faulty(CallKind::Suspend, What::Hang, "world.suspend, inside NCCL")
}

fn resume_hangs() -> Result<(), Failed> {
    faulty(CallKind::Resume, What::Hang, "world.resume, inside NCCL")
}

fn a_rank_leaves_meanwhile() -> Result<(), Failed> {
    let begun = Instant::now();
    let results = config().run_each(3, |world| {
        let rank = Rank::new(world)?;
        sum(&rank)?;
        rank.world.suspend()?;
        match rank.me() {
            1 => Ok(()),
            // It wakes with its peers, to end.
            _ => rank.world.resume().and_then(|()| sum(&rank).map(drop)),
        }
    });
    if begun.elapsed() > Duration::from_secs(15) {
        return Err(format!("it took {:?}", begun.elapsed()).into());
    }
    for result in [&results[0], &results[2]] {
        let named = matches!(
            result,
            Err(Error::PeerFailed { rank: 1, .. } | Error::Poisoned { rank: 1, .. })
        );
        if !named {
            return Err(format!("{results:?}").into());
        }
    }
    Ok(())
}

/// One rank does not come to the resumption: the world fails in its sleep, and wakes rebuilt.
fn the_world_fails_meanwhile() -> Result<(), Failed> {
    let config = config().deadline(Duration::from_secs(2));
    let causes = config.run(3, |world| {
        let rank = Rank::new(world)?;
        let kept = symm!(group = rank.tp, { rank.tp.from_slice(&[7.0f32; 8])? })?;
        sum(&rank)?;
        let other = rank.meets()?;
        let before = rank.holds();
        rank.world.suspend()?;
        // One rank drops a group, which sleeps on: the rebuild leaves it out.
        let other = (rank.me() != 0).then_some(other);
        let told = match rank.me() {
            2 => rank.told(Ok(())),
            _ => rank.told(rank.world.resume()),
        };
        recovers(&rank)?;
        drop(other);
        assert_eq!(kept.to_vec()?, [7.0; 8]);
        rank.comes_to_hold(before);
        Ok(cause(&told))
    })?;
    let cause = same_cause(&causes)?;
    match cause.contains("[2] at world.resume") {
        true => Ok(()),
        false => Err(cause.into()),
    }
}

fn a_world_ends_asleep() -> Result<(), Failed> {
    for rounds in 0..3 {
        config().run(3, |world| {
            let rank = Rank::new(world)?;
            for _ in 0..rounds {
                sum(&rank)?;
            }
            let kept = symm!(group = rank.tp, { rank.tp.zeros::<f32>(8)? })?;
            rank.world.suspend()?;
            drop(kept);
            Ok(())
        })?;
    }
    Ok(())
}
