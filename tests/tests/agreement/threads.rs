//! Several threads of a rank: serialised or refused, and never stuck.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use libtest_mimic::Failed;
use symm_core::{Error, Group, GroupTag, Host, ReduceOp, Result, World, plain_mut, symm};

use crate::Case;
use crate::harness::{Cp, Tp, config};

const ROUNDS: usize = 50;

pub(crate) const CASES: &[Case] = &[
    ("two_groups_in_opposite_order", two_groups_in_opposite_order),
    ("one_group_on_two_threads", one_group_on_two_threads),
    ("a_collective_beside_a_registration", beside_a_registration),
    ("opposite_order_on_one_stream", opposite_order_on_one_stream),
];

/// Everything a thread does with a group, from the first registration on.
fn uses<G: GroupTag>(world: &World<Host>, group: &Group<G, Host>) -> Result<()> {
    let stream = world.new_stream()?;
    let guard = world.on_stream(&stream)?;
    for round in 1..ROUNDS {
        let mut x = symm!(group = group, {
            group.from_slice(&vec![1.0f32; round * 1000])?
        })?;
        group.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
        assert_eq!(x.to_vec()?, vec![2.0; round * 1000]);
    }
    guard.end()
}

fn joined(thread: thread::ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|_| {
        Err(Error::Config {
            what: "a thread of the rank panicked".into(),
        })
    })
}

fn two_groups_in_opposite_order() -> Result<(), Failed> {
    config().first_segment(64 << 10).run(2, |world| {
        let (tp, cp) = (world.split::<Tp>(0, 0)?, world.split::<Cp>(0, 0)?);
        let (world, first) = (&world, world.rank() == 0);
        thread::scope(|scope| {
            // Rank 0 begins with one group, rank 1 with the other.
            let late = |late: bool| thread::sleep(Duration::from_millis(if late { 5 } else { 0 }));
            let a = scope.spawn(move || {
                late(first);
                uses(world, &tp)
            });
            let b = scope.spawn(move || {
                late(!first);
                uses(world, &cp)
            });
            joined(a).and(joined(b))
        })
    })?;
    Ok(())
}

fn one_group_on_two_threads() -> Result<(), Failed> {
    config().run(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let (world, tp) = (&world, &tp);
        let sums = || -> Result<()> {
            let mut x = world.pool().from_slice(&[1.0f32; 8])?;
            for _ in 0..ROUNDS {
                // Whichever thread comes, the ranks call the same. One that is refused tries again.
                loop {
                    match tp.all_reduce_in_place(plain_mut(&mut x), ReduceOp::Max) {
                        Err(Error::GroupBusy { .. }) => thread::yield_now(),
                        Err(error) => return Err(error),
                        Ok(_) => break,
                    }
                }
            }
            assert_eq!(x.to_vec()?, [1.0; 8]);
            Ok(())
        };
        thread::scope(|scope| {
            let (a, b) = (scope.spawn(sums), scope.spawn(sums));
            joined(a).and(joined(b))
        })
    })?;
    Ok(())
}

fn beside_a_registration() -> Result<(), Failed> {
    // A round to which the peer does not come, because its thread was refused, ends with this.
    let config = config().deadline(Duration::from_secs(2));
    let met = Barrier::new(2);
    config.run(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let (world, tp) = (&world, &tp);
        let mut x = world.pool().from_slice(&[1.0f32; 8])?;
        // A rank that is through sooner fails the world, to rebuild it.
        met.wait();
        thread::scope(|scope| -> Result<()> {
            let reserves = scope.spawn(|| -> Result<()> {
                for _ in 0..10 {
                    match tp.reserve(1 << 20) {
                        Ok(()) | Err(Error::GroupBusy { .. }) => {}
                        // It may differ from what the peer's other thread does, which is told.
                        Err(_) => return Ok(()),
                    }
                }
                Ok(())
            });
            for _ in 0..10 {
                match tp.all_reduce_in_place(plain_mut(&mut x), ReduceOp::Max) {
                    Ok(_) | Err(Error::GroupBusy { .. }) => {}
                    Err(_) => break,
                }
            }
            joined(reserves)
        })?;
        // Nothing is stuck: whatever came of it, the world ends or can be rebuilt.
        world.rebuild()?;
        let mut x = symm!(group = tp, { tp.from_slice(&[1.0f32; 8])? })?;
        tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
        assert_eq!(x.to_vec()?, [2.0; 8]);
        Ok(())
    })?;
    Ok(())
}

fn opposite_order_on_one_stream() -> Result<(), Failed> {
    let short = config().deadline(Duration::from_secs(1));
    let results = short.run_each(2, |world| {
        let (tp, cp) = (world.split::<Tp>(0, 0)?, world.split::<Cp>(0, 0)?);
        let mut x = symm!(group = tp, { tp.from_slice(&[1.0f32; 8])? })?;
        let mut y = symm!(group = cp, { cp.from_slice(&[1.0f32; 8])? })?;
        // Each group's ranks call the same, but the streams wait for each other.
        match world.rank() {
            0 => {
                tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
                cp.all_reduce_in_place(&mut y, ReduceOp::Sum)?;
            }
            _ => {
                cp.all_reduce_in_place(&mut y, ReduceOp::Sum)?;
                tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
            }
        }
        world.synchronize()
    });
    match results.iter().all(Result::is_err) {
        true => Ok(()),
        false => Err(format!("streams that wait for each other ended well: {results:?}").into()),
    }
}
