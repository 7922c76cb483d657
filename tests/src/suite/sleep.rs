//! A world that is suspended: NCCL's memory is given back, nothing runs meanwhile, and afterwards
//! everything is as it was.

use std::thread;

use symm_core::{
    Backend, Buf, Error, GraphPool, Group, Need, Path, ReduceOp, Result, Suspended, World, plain,
    plain_mut, symm,
};

use super::ranks::alike;
use super::steps::{Buffer, captured_sum, eager, part, paths, place, sums, total};
use super::{Case, Cp, Outcome, Tp, nccl};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        collectives_are_exact_after_it,
        nothing_runs_meanwhile,
        what_is_pending_is_registered_after_it,
        graphs_are_replayed_after_it,
        twins_sleep_too,
        memory_is_used_meanwhile,
        groups_dropped_meanwhile_end_after_it,
        captures_do_not_hold_it,
        an_older_nccl_refuses,
    ]
}

const LEN: usize = 3000;
/// Elements that fill an arena's first segment.
const FIRST_SEGMENT: usize = 2 << 20;

/// Whether this NCCL suspends communicators.
fn sleeps() -> bool {
    nccl() >= 22_907
}

/// Fails unless sums in windows and outside of them are exact.
fn exact<B: Backend>(world: &World<B>, tp: &Group<Tp, B>, seed: u64) -> Outcome<Path> {
    let data = part(seed, tp.rank(), LEN);
    let mut x = symm!(group = tp, { tp.from_slice(&data)? })?;
    let path = tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    ensure_same!(x.to_vec()?, total(seed, tp.size(), LEN), "in a window");
    let mut y = world.pool().from_slice(&data)?;
    let other = tp.all_reduce_in_place(plain_mut(&mut y), ReduceOp::Sum)?;
    ensure!(other != Path::Symmetric);
    ensure_same!(y.to_vec()?, total(seed, tp.size(), LEN), "in plain memory");
    Ok(path)
}

/// Suspended after some use, so that NCCL holds memory.
fn suspended<B: Backend>(world: &World<B>, groups: usize) -> Outcome<Suspended> {
    let suspended = world.suspend()?;
    ensure!(
        suspended.communicators > groups,
        "{groups} groups and the world itself: {suspended}"
    );
    let on_a_gpu = world.device().starts_with("cuda");
    ensure_eq!(suspended.bytes > 0, on_a_gpu, "{suspended}");
    Ok(suspended)
}

fn collectives_are_exact_after_it<B: Backend>(world: &World<B>) -> Outcome {
    let (tp, cp) = (
        world.split::<Tp>(0, 0)?,
        world.split::<Cp>(world.rank(), 0)?,
    );
    let path = exact(world, &tp, 0)?;
    let (kept, mut x) = symm!(group = tp, {
        (
            tp.from_slice(&part(9, tp.rank(), LEN))?,
            tp.empty::<f32>(LEN)?,
        )
    })?;
    let windows = tp.windows();
    for turn in 1..4 {
        if !sleeps() {
            return Ok(());
        }
        // Still under way.
        tp.all_reduce(&kept, &mut x, ReduceOp::Sum)?;
        suspended(world, 2)?;
        world.resume()?;
        ensure_eq!(exact(world, &tp, turn)?, path);
        ensure_same!(x.to_vec()?, total(9, tp.size(), LEN), "before turn {turn}");
        ensure_eq!(tp.windows(), windows, "none was lost or added");
        ensure_same!(kept.to_vec()?, part(9, tp.rank(), LEN), "kept");
        let mut alone = symm!(group = cp, { cp.from_slice(&[1.0f32])? })?;
        cp.all_reduce_in_place(&mut alone, ReduceOp::Sum)?;
        ensure_same!(alone.to_vec()?, [1.0], "a group of one");
        alike(world, &tp, &place(&x)?, "the places")?;
    }
    Ok(())
}

fn nothing_runs_meanwhile<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (mut x, y) = (eager(&tp, LEN)?, eager(&tp, LEN)?);
    let graphs = GraphPool::new(world.pool());
    let mut graph = captured_sum(world, &graphs, &tp, &y)?;
    exact(world, &tp, 0)?;
    if !sleeps() {
        return Ok(());
    }
    suspended(world, 1)?;
    let outcomes: [(&str, Result<()>); 9] = [
        (
            "a collective in a window",
            tp.all_reduce_in_place(&mut x, ReduceOp::Sum).map(drop),
        ),
        (
            "a collective in plain memory",
            world.pool().zeros::<f32>(8).and_then(|mut z| {
                let z = plain_mut(&mut z);
                tp.all_reduce_in_place(z, ReduceOp::Sum).map(drop)
            }),
        ),
        ("a batch", {
            let mut batch = tp.batch();
            batch.all_reduce(&y, &mut x, ReduceOp::Sum);
            batch.launch().map(drop)
        }),
        ("a launch of a graph", graph.launch()),
        ("a reservation", tp.reserve(64 << 20)),
        ("a trim", tp.trim().map(drop)),
        ("a calibration", tp.calibrate().map(drop)),
        ("a split", world.split::<Cp>(0, 0).map(drop)),
        ("a second time", world.suspend().map(drop)),
    ];
    for (what, outcome) in outcomes {
        ensure!(
            matches!(outcome, Err(Error::Suspended { .. })),
            "{what}: {outcome:?}"
        );
    }
    let captured = captured_sum(world, &graphs, &tp, &y);
    ensure_matches!(captured.map(drop), Err(Error::Suspended { .. }));
    ensure_matches!(world.rebuild(), Err(Error::Suspended { .. }));
    world.check()?;
    world.resume()?;
    ensure_matches!(world.resume(), Err(Error::Config { .. }));
    exact(world, &tp, 1)?;
    graph.launch()?;
    ensure_same!(graph.output().to_vec()?, [0.0; LEN], "zeros");
    Ok(())
}

fn what_is_pending_is_registered_after_it<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (symmetric, _) = paths(&tp)?;
    let _first = eager(&tp, LEN)?;
    if !sleeps() {
        return Ok(());
    }
    let windows = tp.windows();
    world.suspend()?;
    let scope = tp.scope()?;
    let mut x = scope.from_slice(&part(1, tp.rank(), FIRST_SEGMENT))?;
    ensure_matches!(scope.close(), Err(Error::Suspended { .. }));
    ensure_eq!(tp.windows(), windows, "nothing was registered");
    world.resume()?;
    ensure_eq!(tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?, symmetric);
    ensure_same!(x.to_vec()?, total(1, tp.size(), FIRST_SEGMENT), "the sum");
    ensure_eq!(tp.windows(), windows + 1);
    Ok(())
}

fn graphs_are_replayed_after_it<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let mut x: Buffer<B> = eager(&tp, LEN)?;
    let mut graph = captured_sum(world, &graphs, &tp, &x)?;
    // One whose collective takes NCCL's ordinary buffers.
    let mut other = graphs.capture(world.stream(), |_| -> Result<_> {
        let mut sum = Buf::<f32, B>::empty(LEN)?;
        tp.all_reduce(&x, plain_mut(&mut sum), ReduceOp::Max)?;
        Ok(sum)
    })?;
    sums(&tp, &mut x, &mut graph)?;
    for turn in 0..3 {
        if sleeps() {
            graph.launch()?;
            suspended(world, 1)?;
            world.resume()?;
        }
        sums(&tp, &mut x, &mut graph)?;
        x.copy_from_slice(&vec![tp.rank() as f32; LEN])?;
        other.launch()?;
        let largest = vec![(tp.size() - 1) as f32; LEN];
        ensure_same!(other.output().to_vec()?, largest, "turn {turn}");
    }
    Ok(())
}

fn twins_sleep_too<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    tp.calibrate()?;
    exact(world, &tp, 0)?;
    if !sleeps() {
        return Ok(());
    }
    let twins = world.pool().stats().twins;
    suspended(world, 1 + twins)?;
    world.resume()?;
    for turn in 1..4 {
        exact(world, &tp, turn)?;
    }
    ensure_eq!(world.pool().stats().twins, twins);
    Ok(())
}

fn memory_is_used_meanwhile<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let x = eager(&tp, LEN)?;
    let shared = symm!(group = tp, { tp.zeros::<f32>(LEN)? })?
        .share()
        .map_err(Error::from)?;
    if !sleeps() {
        return Ok(());
    }
    world.suspend()?;
    // In the segment that is there.
    let mut y = symm!(group = tp, { tp.from_slice(&part(1, tp.rank(), LEN))? })?;
    ensure!(y.is_symmetric());
    y.copy_from(plain(&x))?;
    ensure_same!(y.to_vec()?, vec![0.0; LEN], "a copy");
    y.copy_from_slice(&part(2, tp.rank(), LEN))?;
    drop(x);
    let dropped = thread::spawn(move || drop(shared)).join();
    ensure!(dropped.is_ok());
    world.synchronize()?;
    world.resume()?;
    tp.all_reduce_in_place(&mut y, ReduceOp::Sum)?;
    ensure_same!(y.to_vec()?, total(2, tp.size(), LEN), "the sum");
    alike(world, &tp, &place(&y)?, "the places")?;
    drop(y);
    tp.trim()?;
    ensure_eq!(world.pool().stats().live_bytes(), 0);
    Ok(())
}

fn groups_dropped_meanwhile_end_after_it<B: Backend>(world: &World<B>) -> Outcome {
    let (tp, cp) = (world.split::<Tp>(0, 0)?, world.split::<Cp>(0, 0)?);
    exact(world, &tp, 0)?;
    let graphs = GraphPool::new(world.pool());
    let x = eager(&tp, LEN)?;
    let graph = captured_sum(world, &graphs, &tp, &x)?;
    if !sleeps() {
        return Ok(());
    }
    suspended(world, 2)?;
    let y = symm!(group = tp, { tp.zeros::<f32>(LEN)? })?;
    drop((graph, graphs, x, y, tp, cp));
    world.resume()?;
    // What is new does not meet what is on its way out.
    let tp = world.split::<Tp>(0, 0)?;
    exact(world, &tp, 1)?;
    suspended(world, 1)?;
    world.resume()?;
    exact(world, &tp, 2).map(drop)
}

fn captures_do_not_hold_it<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let need = Need::new();
    for wake in [false, true] {
        let captured = graphs.capture_reserved(&need, world.stream(), |_| match wake {
            true => world.resume(),
            false => world.suspend().map(drop),
        });
        ensure_matches!(captured.map(drop), Err(Error::InCapture { .. }));
    }
    exact(world, &tp, 0).map(drop)
}

fn an_older_nccl_refuses<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    match sleeps() {
        true => {
            world.suspend()?;
            world.resume()?;
        }
        false => {
            ensure_matches!(world.suspend(), Err(Error::Unsupported { .. }));
            ensure_matches!(world.resume(), Err(Error::Config { .. }));
        }
    }
    exact(world, &tp, 0).map(drop)
}
