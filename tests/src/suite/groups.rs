//! Groups: who is in them, what tells them apart, and who may use them.

use std::any::type_name;
use std::thread;

use symm_core::{Backend, Dyn, Error, Group, Path, ReduceOp, Result, SymmBuf, World, symm};

use super::data::{elements, reduced, summands};
use super::ranks::told;
use super::{Case, Cp, Failure, Left, Outcome, Right, Tp};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        colors_cut_and_keys_order,
        the_whole_world,
        of_unequal_sizes from 4,
        rows_by_columns from 4,
        rows_and_columns_in_one_scope from 4,
        erased_ones_get_their_tag_back,
        chosen_at_run_time,
        two_of_one_tag_are_told_apart,
        generations_are_never_reused,
        names_must_agree,
        one_thread_at_a_time,
        groups_of_one_arena_exclude_each_other,
        may_move_to_another_thread,
        clones_are_the_same_group,
        may_be_shared_by_scoped_threads,
    ]
}

fn colors_cut_and_keys_order<B: Backend>(world: &World<B>) -> Outcome {
    let (rank, size) = (world.rank(), world.size());
    let backwards = world.split::<Tp>(0, size - rank)?;
    ensure_eq!(
        (backwards.rank(), backwards.size()),
        (size - 1 - rank, size)
    );
    ensure_eq!(backwards.members(), (0..size).rev().collect::<Vec<_>>());
    ensure_eq!(
        told(world, &backwards, &[rank as u64])?.concat(),
        (0..size as u64).rev().collect::<Vec<_>>()
    );

    let parity = world.split::<Cp>(7 + rank % 2, 0)?;
    ensure_eq!(
        parity.members(),
        (rank % 2..size).step_by(2).collect::<Vec<_>>()
    );
    ensure_eq!(parity.members()[parity.rank()], rank);
    Ok(())
}

fn the_whole_world<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(usize::MAX, 3)?;
    ensure_eq!(
        (tp.rank(), tp.size(), tp.name()),
        (world.rank(), world.size(), "tp")
    );
    ensure_eq!(tp.members(), (0..world.size()).collect::<Vec<_>>());
    Ok(())
}

fn of_unequal_sizes<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(usize::from(world.rank() == 0), 0)?;
    ensure_eq!(
        tp.size(),
        if world.rank() == 0 {
            1
        } else {
            world.size() - 1
        }
    );
    let mut x = symm!(group = tp, { tp.from_slice(&vec![1i32; 100 * tp.size()])? })?;
    tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    ensure_same!(
        x.to_vec()?,
        vec![tp.size() as i32; x.len()],
        "a sum of some of the ranks"
    );
    Ok(())
}

/// Ranks in rows of two, and the columns across them.
fn grid<B: Backend>(world: &World<B>) -> Result<(Group<Tp, B>, Group<Cp, B>)> {
    let (row, column) = (world.rank() / 2, world.rank() % 2);
    Ok((world.split(row, column)?, world.split(column, row)?))
}

fn rows_by_columns<B: Backend>(world: &World<B>) -> Outcome {
    let (tp, cp) = grid(world)?;
    ensure_eq!((tp.size(), cp.size()), (2, world.size() / 2));
    let parts = summands::<f32>(ReduceOp::Sum, world.size(), 1500);
    let mut x = symm!(group = tp, { tp.from_slice(&parts[world.rank()])? })?;
    tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    let mut y = symm!(group = cp, { cp.from_slice(&x.to_vec()?)? })?;
    cp.all_reduce_in_place(&mut y, ReduceOp::Sum)?;
    ensure_same!(
        y.to_vec()?,
        reduced(ReduceOp::Sum, &parts),
        "along rows, then columns"
    );
    ensure_eq!((tp.windows(), cp.windows()), (1, 1));
    Ok(())
}

fn rows_and_columns_in_one_scope<B: Backend>(world: &World<B>) -> Outcome {
    let (tp, cp) = grid(world)?;
    for round in 0..5 {
        let len = 100 + round as usize;
        symm!(group = tp, {
            let mut sum: SymmBuf<f32, Tp, B> = SymmBuf::from_slice(&vec![1.0; len])?;
            symm!(group = cp, {
                let part: SymmBuf<f32, Cp, B> =
                    SymmBuf::from_slice(&elements(round, world.rank(), len))?;
                let mut all: SymmBuf<f32, Cp, B> = SymmBuf::empty(len * cp.size())?;
                cp.all_gather(&part, &mut all)?;
                // A buffer of the outer scope, inside the inner one.
                tp.all_reduce_in_place(&mut sum, ReduceOp::Sum)?;
                let column = cp
                    .members()
                    .iter()
                    .flat_map(|&rank| elements::<f32>(round, rank, len));
                ensure_same!(
                    all.to_vec()?,
                    column.collect::<Vec<_>>(),
                    "gathered along the column"
                );
            })?;
            ensure_same!(sum.to_vec()?, vec![2.0; len], "summed along the row");
        })?;
    }
    Ok(())
}

fn erased_ones_get_their_tag_back<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let id = tp.id();
    let erased: Group<Dyn, B> = tp.erase();
    let (erased, error) = erased
        .downcast::<Cp>()
        .err()
        .ok_or_else(|| Failure::new("the wrong tag was accepted"))?;
    match error {
        Error::WrongTag { found, wanted, .. } => ensure!(
            found == type_name::<Tp>() && wanted == type_name::<Cp>(),
            "{found} and {wanted}"
        ),
        other => ensure!(false, "the wrong tag is {other:?}"),
    }
    // It goes on working meanwhile, with buffers of its own kind.
    let mut x = symm!(group = erased, { erased.from_slice(&[1i64; 9])? })?;
    erased.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    let tp = erased.downcast::<Tp>().map_err(|(_, error)| error)?;
    let mut x = x.downcast::<Tp>().map_err(|(_, error)| error)?;
    tp.all_reduce_in_place(&mut x, ReduceOp::Max)?;
    ensure_eq!((x.to_vec()?, tp.id()), (vec![tp.size() as i64; 9], id));
    Ok(())
}

fn chosen_at_run_time<B: Backend>(world: &World<B>) -> Outcome {
    let groups = ["experts", "shared"].map(|name| world.split_dyn(name, 0, 0));
    let [experts, shared] = groups;
    let (experts, shared) = (experts?, shared?);
    ensure_eq!([experts.name(), shared.name()], ["experts", "shared"]);
    let mut x = symm!(group = experts, { experts.zeros::<f32>(10)? })?;
    ensure_matches!(
        shared.all_reduce_in_place(&mut x, ReduceOp::Sum),
        Err(Error::GroupMismatch { .. })
    );
    experts.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    Ok(())
}

fn two_of_one_tag_are_told_apart<B: Backend>(world: &World<B>) -> Outcome {
    let (a, b) = (world.split::<Tp>(0, 0)?, world.split::<Tp>(0, 0)?);
    ensure!(a.id() != b.id() && a.arena() != b.arena());
    let (mut x, mut y) = (
        symm!(group = a, { a.zeros::<f32>(4)? })?,
        symm!(group = b, { b.zeros::<f32>(4)? })?,
    );
    match b.all_reduce_in_place(&mut x, ReduceOp::Sum) {
        Err(Error::GroupMismatch { buffer, group, .. }) => {
            ensure!(
                buffer != group
                    && format!("{a:?}").contains(&*buffer)
                    && format!("{b:?}").contains(&*group),
                "{buffer} and {group}"
            );
        }
        other => ensure!(false, "a buffer of another instance gave {other:?}"),
    }
    ensure_matches!(
        a.all_reduce(&x, &mut y, ReduceOp::Sum),
        Err(Error::GroupMismatch { .. })
    );
    std::mem::swap(&mut x, &mut y); // type-checks, so the instance is looked up at run time
    ensure_matches!(
        a.all_reduce_in_place(&mut x, ReduceOp::Sum),
        Err(Error::GroupMismatch { .. })
    );
    b.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    a.all_reduce_in_place(&mut y, ReduceOp::Sum)?;
    Ok(())
}

fn generations_are_never_reused<B: Backend>(world: &World<B>) -> Outcome {
    let first = world.split::<Tp>(0, 0)?;
    let mut stale = symm!(group = first, { first.zeros::<u8>(1)? })?;
    let id = first.id();
    drop(first); // the buffer keeps the communicator
    let second = world.split::<Tp>(0, 0)?;
    ensure!(second.id() > id);
    ensure_matches!(
        second.all_reduce_in_place(&mut stale, ReduceOp::Sum),
        Err(Error::GroupMismatch { .. })
    );
    Ok(())
}

fn names_must_agree<B: Backend>(world: &World<B>) -> Outcome {
    let name = if world.rank() == 0 { "one" } else { "another" };
    match world.split_dyn(name, 0, 0) {
        Err(Error::RanksDiffer { detail, .. }) => ensure!(
            detail.contains("one") && detail.contains("another"),
            "{detail}"
        ),
        other => ensure!(false, "ranks that split different groups got {other:?}"),
    }
    // Nobody has entered the backend, so the world goes on.
    world.split_dyn("the same", 0, 0)?;
    Ok(())
}

fn one_thread_at_a_time<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (scope, line) = (tp.scope()?, line!());
    let x = scope.zeros::<f32>(4)?;
    let elsewhere = |entry: fn(&Group<Tp, B>) -> Result<()>| {
        thread::scope(|threads| threads.spawn(|| entry(&tp)).join().unwrap())
    };
    let opens = |tp: &Group<Tp, B>| tp.scope().map(drop);
    let calls = |tp: &Group<Tp, B>| tp.batch().launch().map(drop);
    match elsewhere(opens) {
        Err(Error::GroupBusy { there, here, .. }) => {
            ensure_eq!((there.file(), there.line()), (file!(), line));
            ensure!(here.line() > line, "the refused call is at {here}");
        }
        other => ensure!(false, "a second thread got {other:?}"),
    }
    ensure_matches!(elsewhere(calls), Err(Error::GroupBusy { .. }));
    ensure_matches!(elsewhere(|tp| tp.reserve(1)), Err(Error::GroupBusy { .. }));
    scope.close()?;
    ensure_matches!(elsewhere(calls), Ok(()));
    // Where a free of this thread falls among the allocations of the other would depend on timing.
    ensure_matches!(elsewhere(opens), Err(Error::GroupBusy { .. }));
    drop(x);
    ensure_matches!(elsewhere(opens), Ok(()));
    Ok(())
}

fn groups_of_one_arena_exclude_each_other<B: Backend>(world: &World<B>) -> Outcome {
    let (left, right, tp) = (
        world.split::<Left>(0, 0)?,
        world.split::<Right>(0, 0)?,
        world.split::<Tp>(0, 0)?,
    );
    let scope = left.scope()?;
    let both = thread::scope(|threads| {
        threads
            .spawn(|| (right.scope().map(drop), tp.scope().map(drop)))
            .join()
            .unwrap()
    });
    ensure_matches!(both, (Err(Error::GroupBusy { .. }), Ok(())));
    scope.close()?;
    Ok(())
}

fn may_move_to_another_thread<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let parts = summands::<f32>(ReduceOp::Sum, tp.size(), 3000);
    let expected = reduced(ReduceOp::Sum, &parts);
    let worker = move || -> Result<(Vec<f32>, Path, Path)> {
        let (src, mut dst) = symm!(group = tp, {
            (tp.from_slice(&parts[tp.rank()])?, tp.empty::<f32>(3000)?)
        })?;
        let first = tp.all_reduce(&src, &mut dst, ReduceOp::Sum)?;
        let second = tp.all_reduce(&src, &mut dst, ReduceOp::Sum)?;
        Ok((dst.to_vec()?, first, second))
    };
    let (sum, first, second) = thread::spawn(worker).join().unwrap()?;
    ensure_same!(sum, expected, "a sum on another thread");
    ensure_eq!(first, second);
    Ok(())
}

fn clones_are_the_same_group<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let clone = tp.clone();
    let mut x = symm!(group = tp, { clone.from_slice(&[1.0f32; 3])? })?;
    drop(tp);
    clone.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    ensure_eq!(
        (x.to_vec()?, clone.windows()),
        (vec![clone.size() as f32; 3], 1)
    );
    Ok(())
}

fn may_be_shared_by_scoped_threads<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    // One after another; what a thread leaves open would show in the next.
    for round in 0..4 {
        let sum = thread::scope(|threads| {
            let turn = threads.spawn(|| -> Result<Vec<i32>> {
                let mut x = symm!(group = tp, { tp.from_slice(&[round; 20])? })?;
                tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
                x.to_vec()
            });
            turn.join().unwrap()
        })?;
        ensure_same!(
            sum,
            [round * tp.size() as i32; 20],
            "a sum on a thread of its own"
        );
    }
    ensure_eq!(tp.windows(), 1);
    Ok(())
}
