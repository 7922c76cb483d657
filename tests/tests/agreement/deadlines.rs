//! Ranks that do not come: named to all others, at the deadline if they live and at once if they
//! left.

use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use symm_core::{Config, Dyn, Error, Group, Host, ReduceOp, Result, symm};

use crate::Case;
use crate::harness::{Rank, cause, config, same_cause};

const DEADLINE: Duration = Duration::from_secs(1);
/// No test of speed: beyond this it hangs.
const SLACK: Duration = Duration::from_secs(10);

pub(crate) const CASES: &[Case] = &[
    ("stays_away_from_a_round", stays_away_from_a_round),
    ("stays_behind_a_collective", stays_behind_a_collective),
    ("stays_a_lap_behind", stays_a_lap_behind),
    ("stays_away_from_a_capture", stays_away_from_a_capture),
    ("stays_away_from_a_split", stays_away_from_a_split),
    ("comes_late_to_a_split", comes_late_to_a_split),
    ("stays_away_from_a_rebuild", stays_away_from_a_rebuild),
    ("leaves_before_a_collective", leaves_before_a_collective),
    ("leaves_before_a_round", leaves_before_a_round),
    ("leaves_before_a_split", leaves_before_a_split),
    ("panics_before_a_collective", panics_before_a_collective),
];

/// Rank 1 of three stays away from what the others do; they are told in time that it was rank 1.
/// Then all go on.
fn stays_away(step: fn(&Rank) -> Result<()>, says: &[&str]) -> Result<(), Failed> {
    let causes = config().deadline(DEADLINE).run(3, |world| {
        let rank = Rank::new(world)?;
        let begun = Instant::now();
        let told = match rank.me() {
            1 => rank.told(Ok(())),
            _ => rank.told(step(&rank)),
        };
        let took = begun.elapsed();
        assert!(took < DEADLINE + SLACK, "told after {took:?}");
        println!("rank {} was told after {took:?}", rank.me());
        rank.world.rebuild()?;
        step(&rank)?;
        rank.world.synchronize()?;
        Ok(cause(&told))
    })?;
    let cause = same_cause(&causes)?;
    match says.iter().find(|word| !cause.contains(**word)) {
        None => Ok(()),
        Some(word) => Err(format!("{word:?} is not in {cause:?}").into()),
    }
}

fn sum(rank: &Rank, times: usize) -> Result<()> {
    let mut x = symm!(group = rank.tp, { rank.tp.from_slice(&[1.0f32; 8])? })?;
    for _ in 0..times {
        rank.tp.all_reduce_in_place(&mut x, ReduceOp::Max)?;
    }
    x.to_vec().map(drop)
}

fn stays_away_from_a_round() -> Result<(), Failed> {
    let step = |rank: &Rank| symm!(group = rank.tp, { drop(rank.tp.zeros::<f32>(8)?) });
    stays_away(step, &["[1]", "waited"])
}

fn stays_behind_a_collective() -> Result<(), Failed> {
    let says = [
        "[1]",
        "rank 1 is at step 0",
        "all_reduce of 32 bytes",
        "deadlines.rs:",
    ];
    // In ordinary memory: no round comes first.
    let step = |rank: &Rank| {
        let mut x = rank.world.pool().from_slice(&[1.0f32; 8])?;
        let x_mut = symm_core::plain_mut(&mut x);
        rank.tp.all_reduce_in_place(x_mut, ReduceOp::Max)?;
        x.to_vec().map(drop)
    };
    stays_away(step, &says)
}

fn stays_a_lap_behind() -> Result<(), Failed> {
    let step = |rank: &Rank| {
        let mut x = rank.world.pool().from_slice(&[1.0f32; 8])?;
        for _ in 0..600 {
            let x = symm_core::plain_mut(&mut x);
            rank.tp.all_reduce_in_place(x, ReduceOp::Max)?;
        }
        Ok(())
    };
    stays_away(step, &["[1]", "waited"])
}

fn stays_away_from_a_capture() -> Result<(), Failed> {
    let step = |rank: &Rank| {
        let graphs = symm_core::GraphPool::new(rank.world.pool());
        let graph = graphs.capture(rank.world.stream(), |_| -> Result<_> {
            let mut x = symm!(group = rank.tp, { rank.tp.zeros::<f32>(8)? })?;
            rank.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
            Ok(x)
        });
        graph.map(drop)
    };
    stays_away(step, &["[1]"])
}

fn splits(rank: &Rank) -> Result<Group<Dyn, Host>> {
    rank.world.split_dyn("experts", 0, 0)
}

fn stays_away_from_a_split() -> Result<(), Failed> {
    let step = |rank: &Rank| sum_of(&splits(rank)?);
    stays_away(step, &["[1]", "at world.split #1 of experts:"])
}

/// Rank 1 comes when the others have given up: it must not go into the split alone. What all split
/// after the rebuild is one group again.
fn comes_late_to_a_split() -> Result<(), Failed> {
    let causes = config().deadline(DEADLINE).run(3, |world| {
        let rank = Rank::new(world)?;
        if rank.me() == 1 {
            let end = Instant::now() + DEADLINE + SLACK;
            while rank.world.check().is_ok() {
                assert!(Instant::now() < end, "not told");
                thread::sleep(Duration::from_millis(1));
            }
        }
        let told = splits(&rank).map(drop).unwrap_err();
        assert!(
            matches!(told, Error::Timeout { .. } | Error::Poisoned { .. }),
            "{told:?}"
        );
        assert!(matches!(rank.world.check(), Err(Error::Poisoned { .. })));
        rank.world.rebuild()?;
        for _ in 0..2 {
            sum_of(&splits(&rank)?)?;
        }
        sum(&rank, 1)?;
        Ok(cause(&told))
    })?;
    same_cause(&causes).map(drop)
}

fn sum_of(group: &Group<Dyn, Host>) -> Result<()> {
    let mut x = symm!(group = group, { group.from_slice(&[1.0f32; 8])? })?;
    group.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    assert_eq!(x.to_vec()?, [group.size() as f32; 8]);
    Ok(())
}

fn stays_away_from_a_rebuild() -> Result<(), Failed> {
    config().deadline(DEADLINE).run(3, |world| {
        let rank = Rank::new(world)?;
        let begun = Instant::now();
        if rank.me() == 1 {
            thread::sleep(DEADLINE * 2);
        } else {
            let late = rank.world.rebuild();
            assert!(
                matches!(&late, Err(Error::Timeout { missing, .. }) if missing[..] == [1]),
                "{late:?}"
            );
            assert!(begun.elapsed() < DEADLINE + SLACK);
            // It can be called again, and then finds those who came late.
            while begun.elapsed() < DEADLINE * 3 / 2 {
                thread::sleep(Duration::from_millis(10));
            }
        }
        rank.world.rebuild()?;
        sum(&rank, 3)
    })?;
    Ok(())
}

/// Rank 1 of three leaves before what the others do; they are told at once.
fn leaves(
    config: &Config<Host>,
    step: fn(&Rank) -> Result<()>,
    leave: fn() -> Result<()>,
    says: &str,
) -> Result<(), Failed> {
    let begun = Instant::now();
    let results = config.run_each(3, |world| {
        let rank = Rank::new(world)?;
        sum(&rank, 3)?;
        match rank.me() {
            1 => leave().map(|()| None),
            _ => Ok(Some(rank.told(step(&rank)))),
        }
    });
    if begun.elapsed() > SLACK {
        return Err(format!("it took {:?}", begun.elapsed()).into());
    }
    for result in [&results[0], &results[2]] {
        let named = match result {
            Ok(Some(Error::PeerFailed { rank: 1, cause } | Error::Poisoned { rank: 1, cause })) => {
                cause.contains(says)
            }
            _ => false,
        };
        if !named {
            return Err(format!("rank 1 and {says:?} are not named: {results:?}").into());
        }
    }
    Ok(())
}

fn leaves_before_a_collective() -> Result<(), Failed> {
    leaves(&config(), |rank| sum(rank, 1), || Ok(()), "it left")
}

fn leaves_before_a_round() -> Result<(), Failed> {
    let step = |rank: &Rank| symm!(group = rank.tp, { drop(rank.tp.zeros::<u8>(64 << 20)?) });
    leaves(&config(), step, || Ok(()), "it left")
}

fn leaves_before_a_split() -> Result<(), Failed> {
    leaves(
        &config(),
        |rank| splits(rank).map(drop),
        || Ok(()),
        "it left",
    )
}

fn panics_before_a_collective() -> Result<(), Failed> {
    let panics = || std::panic::resume_unwind(Box::new("a user's bug"));
    leaves(&config(), |rank| sum(rank, 1), panics, "a user's bug")
}
