//! Mistakes: each is a typed error on the rank that made it, before anything is launched, and the
//! next right call works.

use std::thread;

use symm_core::{
    Backend, Buf, Cuda, Error, Group, Host, Path, ReduceOp, Result, SymmBuf, World, plain,
    plain_mut, symm,
};

use super::{Case, Outcome, Tp};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        lengths_must_fit_the_operation,
        parts_must_be_whole,
        ranks_must_exist,
        parts_of_plain_memory_stay_inside,
        a_thread_without_a_world_has_no_memory,
        the_other_backends_buffers_are_refused,
        mistakes_launch_nothing,
        messages_say_where_and_what_to_do,
    ]
}

/// The group works after a mistake.
fn still_works<B: Backend>(tp: &Group<Tp, B>) -> Outcome {
    let mut x = symm!(group = tp, { tp.from_slice(&[1i32; 10])? })?;
    tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    ensure_same!(x.to_vec()?, [tp.size() as i32; 10], "a sum after mistakes");
    Ok(())
}

fn lengths_must_fit_the_operation<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let n = tp.size();
    let (x, mut y, mut z) = symm!(group = tp, {
        (
            tp.zeros::<f32>(8 * n)?,
            tp.zeros::<f32>(8 * n + 1)?,
            tp.zeros::<f32>(7)?,
        )
    })?;
    let refused = [
        tp.all_reduce(&x, &mut y, ReduceOp::Sum),
        tp.all_gather(&x, &mut y),
        tp.reduce_scatter(&x, &mut z, ReduceOp::Sum),
        tp.all_to_all(&x, &mut y),
    ];
    for result in refused {
        ensure_matches!(result, Err(Error::Length { got, expected, .. }) if got != expected);
    }
    // Where a rank is not the root its operand may have any length, so each asks as the root.
    let root = tp.rank();
    let named = [
        (tp.broadcast(&x, &mut y, root), "broadcast, the source"),
        (
            tp.reduce(&x, &mut y, ReduceOp::Sum, root),
            "reduce, the destination",
        ),
        (tp.gather(&x, &mut y, root), "gather, the destination"),
        (tp.scatter(&x, &mut z, root), "scatter, the source"),
    ];
    for (result, operand) in named {
        ensure_matches!(result, Err(Error::Length { what, .. }) if *what == *operand);
    }
    still_works(&tp)
}

fn parts_must_be_whole<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let len = 3 * tp.size() + 1;
    let (mut x, mut y) = symm!(group = tp, {
        (tp.zeros::<f32>(len)?, tp.zeros::<f32>(len)?)
    })?;
    let next = 4 * tp.size();
    ensure_matches!(
        tp.all_gather_in_place(&mut x),
        Err(Error::Length { got, expected, .. }) if (got, expected) == (len, next)
    );
    ensure_matches!(
        tp.reduce_scatter_in_place(&mut x, ReduceOp::Sum),
        Err(Error::Length { got, .. }) if got == len
    );
    ensure_matches!(
        tp.all_to_all(&x, &mut y),
        Err(Error::Length { what, .. }) if what.contains("the source")
    );
    still_works(&tp)
}

fn ranks_must_exist<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let n = tp.size();
    let (x, mut y) = symm!(group = tp, {
        (tp.zeros::<f32>(2 * n)?, tp.zeros::<f32>(2 * n)?)
    })?;
    let refused = [
        tp.broadcast(&x, &mut y, n),
        tp.broadcast_in_place(&mut y, usize::MAX),
        tp.reduce(&x, &mut y, ReduceOp::Sum, n),
        tp.reduce_in_place(&mut y, ReduceOp::Sum, n),
        tp.gather(&x, &mut y, n),
        tp.scatter(&x, &mut y, n),
        tp.send(&x, n),
        tp.recv(&mut y, n),
    ];
    for result in refused {
        ensure_matches!(
            result,
            Err(Error::NoSuchRank { rank, size, .. }) if rank >= n && size == n
        );
    }
    still_works(&tp)
}

fn parts_of_plain_memory_stay_inside<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let x = world.pool().from_slice(&[0i32, 1, 2, 3, 4, 5])?;
    let mut y = world.pool().zeros::<i32>(6)?;
    ensure_matches!(
        plain(&x).part(3..7),
        Err(Error::Range {
            start: 3,
            end: 7,
            len: 6
        })
    );
    ensure_matches!(
        plain_mut(&mut y).part(0..4)?.part(2..5),
        Err(Error::Range {
            start: 2,
            end: 5,
            len: 4
        })
    );
    tp.broadcast(
        plain(&x).part(1..5)?.part(1..3)?,
        plain_mut(&mut y).part(4..6)?,
        0,
    )?;
    ensure_same!(y.to_vec()?, [0, 0, 0, 0, 2, 3], "a part of a part");
    Ok(())
}

fn a_thread_without_a_world_has_no_memory<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let elsewhere = thread::scope(|threads| {
        let strange = || {
            (
                Buf::<f32, B>::empty(1).map(drop),
                SymmBuf::<f32, Tp, B>::empty(1).map(drop),
                tp.empty::<f32>(1).map(drop),
            )
        };
        threads.spawn(strange).join().unwrap()
    });
    ensure_matches!(
        elsewhere,
        (
            Err(Error::NoWorld { .. }),
            Err(Error::NoScope { .. }),
            Err(Error::NoScope { .. })
        )
    );
    // A scope on the thread is enough.
    let in_scope = thread::scope(|threads| {
        let stranger = || symm!(group = tp, { Buf::<f32, B>::empty(1)?.is_symmetric() });
        threads.spawn(stranger).join().unwrap()
    });
    ensure!(in_scope?);
    Ok(())
}

fn the_other_backends_buffers_are_refused<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    // `SymmBuf::<f32, Tp>::empty` means Cuda's, also where the scope is of the host backend.
    let other = symm!(group = tp, {
        match world.device().starts_with("host") {
            true => SymmBuf::<f32, Tp, Cuda>::empty(1).map(drop),
            false => SymmBuf::<f32, Tp, Host>::empty(1).map(drop),
        }
    })?;
    ensure_matches!(
        other,
        Err(Error::WrongBackend { wanted, found })
            if wanted != found && world.device().starts_with(found)
    );
    Ok(())
}

fn mistakes_launch_nothing<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut x = symm!(group = tp, { tp.from_slice(&[3i32; 12])? })?;
    // Only one rank errs; its peers have no reason to wait for it.
    if world.rank() == 0 {
        ensure_matches!(
            tp.broadcast_in_place(&mut x, 99),
            Err(Error::NoSuchRank { .. })
        );
        ensure_matches!(
            tp.all_gather_in_place(x.view_mut(0..tp.size() + 1)?),
            Err(Error::Length { .. })
        );
        ensure_matches!(plain_mut(&mut x).part(1..13), Err(Error::Range { .. }));
    }
    ensure_same!(x.to_vec()?, [3; 12], "after mistakes");
    still_works(&tp)
}

fn messages_say_where_and_what_to_do<B: Backend>(world: &World<B>) -> Outcome {
    let (a, b) = (world.split::<Tp>(0, 0)?, world.split::<Tp>(0, 0)?);
    let mut x = symm!(group = a, { a.zeros::<f32>(3)? })?;
    let said = |result: Result<Path>| {
        result
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    let mismatch = said(b.all_reduce_in_place(&mut x, ReduceOp::Sum));
    let label = format!("{b:?}");
    let label = label.split('"').nth(1).unwrap_or_default();
    let place = format!(" (rank {} of {})", b.rank(), b.size());
    ensure!(
        label.starts_with("tp#")
            && label.ends_with(&place)
            && mismatch.contains(label)
            && mismatch.contains("all_reduce")
            && mismatch.contains("plain(&buffer)"),
        "{mismatch}"
    );
    let root = said(a.broadcast_in_place(&mut x, 9));
    ensure!(
        root.contains("broadcast") && root.contains("rank 9 does not exist"),
        "{root}"
    );
    let no_scope = a
        .empty::<f32>(1)
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    ensure!(no_scope.contains("#[symmetric(group = ..)]"), "{no_scope}");
    Ok(())
}
