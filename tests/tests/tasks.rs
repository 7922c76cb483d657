//! Async tasks that take turns on one thread: none gets into another's scope.

#![allow(missing_docs)]

use symm_core::{
    Buf, Error, Group, Host, Path, ReduceOp, Result, SymmBuf, World, groups, symm, symmetric,
};
use tokio::runtime::Builder;
use tokio::task::{LocalSet, yield_now};

groups! {
    Tp = "tp";
    Cp = "cp";
}

const TURNS: usize = 20;

/// Runs both tasks of every rank on the rank's thread, turn by turn.
fn take_turns(tasks: impl Fn(World<Host>, LocalSet) -> Result<LocalSet> + Sync) -> Result<Vec<()>> {
    World::<Host>::run(2, |world| {
        let runtime = Builder::new_current_thread().build();
        let runtime = runtime.expect("a runtime of this thread");
        runtime.block_on(tasks(world, LocalSet::new())?);
        Ok(())
    })
}

#[symmetric(group = tp)]
fn sum(tp: &Group<Tp, Host>, x: f32, len: usize) -> Result<SymmBuf<f32, Tp, Host>> {
    let mut sum = SymmBuf::from_slice(&vec![x; len])?;
    let path = tp.all_reduce_in_place(&mut sum, ReduceOp::Sum)?;
    assert_eq!(path, Path::Symmetric);
    Ok(sum)
}

#[test]
fn scopes_of_interleaved_tasks_do_not_mix() -> Result<()> {
    let turns = |world: World<Host>, tasks: LocalSet| {
        let tp = world.split::<Tp>(0, 0)?;
        let cp = world.split::<Cp>(0, 0)?;
        let rank = world.rank();
        tasks.spawn_local(async move {
            let mut kept = Vec::new();
            for turn in 0..TURNS {
                let x = sum(&tp, (rank + turn) as f32, 100 + turn).expect("a sum");
                yield_now().await; // the other task opens and closes its scopes here
                assert!(!Buf::<u8, Host>::empty(1).expect("ordinary").is_symmetric());
                kept.push((turn, x));
            }
            for (turn, x) in kept {
                let expected = vec![(2 * turn + 1) as f32; 100 + turn];
                assert_eq!(x.to_vec().expect("read"), expected);
            }
            drop(tp);
        });
        tasks.spawn_local(async move {
            let mut last = None;
            for turn in 0..TURNS {
                let all = symm!(group = cp, {
                    let x = cp.from_slice(&[(rank + turn) as u64]).expect("a part");
                    let mut all = SymmBuf::<u64, Cp, Host>::zeros(2).expect("all");
                    cp.all_gather(&x, &mut all).expect("gathered");
                    all
                });
                yield_now().await;
                last = Some((turn as u64, all.expect("a scope")));
                assert!(matches!(
                    SymmBuf::<f32, Cp, Host>::empty(1),
                    Err(Error::NoScope { .. })
                ));
            }
            let (turn, all) = last.expect("a turn");
            assert_eq!(all.to_vec().expect("read"), [turn, turn + 1]);
            drop((cp, world));
        });
        Ok(tasks)
    };
    take_turns(turns).map(drop)
}

/// Only a guard that is held by hand across an await, in a task that cannot move to another thread,
/// gets past the compiler. Then both tasks are told.
#[test]
fn a_scope_that_is_held_across_an_await_is_told() -> Result<()> {
    let turns = |world: World<Host>, tasks: LocalSet| {
        let tp = world.split::<Tp>(0, 0)?;
        let cp = world.split::<Cp>(0, 0)?;
        let (of_tp, of_cp) = (tp.clone(), cp.clone());
        tasks.spawn_local(async move {
            let scope = tp.scope().expect("a scope");
            yield_now().await; // the other task opens one of its own inside
            // Typed buffers go by their tag, whatever is innermost.
            let x = SymmBuf::<f32, Tp, Host>::zeros(8).expect("a buffer of tp");
            assert!(tp.all_reduce_in_place(&mut { x }, ReduceOp::Sum).is_ok());
            let closed = scope.close();
            assert!(
                matches!(closed, Err(Error::ScopeOrder { .. })),
                "{closed:?}"
            );
        });
        tasks.spawn_local(async move {
            let scope = cp.scope().expect("a scope");
            yield_now().await; // the other task closes the one around it
            let closed = scope.close();
            assert!(
                matches!(closed, Err(Error::ScopeOrder { .. })),
                "{closed:?}"
            );
        });
        tasks.spawn_local(async move {
            for _ in 0..3 {
                yield_now().await;
            }
            // Nothing of it is left.
            assert!(!Buf::<u8, Host>::empty(1).expect("ordinary").is_symmetric());
            assert_eq!(
                sum(&of_tp, 1.0, 8).expect("a sum").to_vec().expect("read"),
                [2.0; 8]
            );
            assert!(symm!(group = of_cp, { of_cp.zeros::<f32>(8).expect("zeros") }).is_ok());
            drop(world);
        });
        Ok(tasks)
    };
    take_turns(turns).map(drop)
}
