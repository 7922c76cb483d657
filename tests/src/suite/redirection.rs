//! Where the memory of a capture comes from: private outside scopes, symmetric inside, and at places
//! that depend on captures alone.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use symm_core::{
    Backend, Buf, Error, GraphPool, Group, Need, Pass, Path, Reason, ReduceOp, Result, World,
    plain, symm,
};

use super::ranks::alike;
use super::steps::{MIB, eager, part, paths, place, sums, total};
use super::{Case, Cp, Failure, Left, Outcome, Right, Tp};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        memory_outside_scopes_is_private,
        memory_in_scopes_is_symmetric,
        scopes_suspend_private_memory_and_resume_it,
        suspended_memory_is_private,
        a_scope_that_is_off_gives_private_memory,
        an_error_in_a_scope_resumes_private_memory,
        a_panic_in_a_scope_resumes_private_memory,
        a_capture_begun_in_a_scope_stays_in_it,
        groups_of_one_arena_share_one_in_captures,
        positions_are_those_of_a_fresh_pool,
        a_stray_block_of_one_rank_changes_nothing,
        what_one_rank_warmed_up_changes_nothing,
        graphs_of_another_pool_change_nothing,
        positions_repeat,
    ]
}

const LEN: usize = 3000;
/// Bytes of such a block.
const BYTES: u64 = 12_288;

/// Bytes that buffers own in eager arenas, and outside them.
fn eager_bytes<B: Backend>(world: &World<B>) -> (u64, u64) {
    let stats = world.pool().stats();
    (stats.live_bytes(), stats.plain_live_bytes)
}

/// Whether untyped memory is symmetric here.
fn redirected<B: Backend>() -> Result<bool> {
    Buf::<u8, B>::empty(10).map(|buf| buf.is_symmetric())
}

fn memory_outside_scopes_is_private<B: Backend>(world: &World<B>) -> Outcome {
    let graphs = GraphPool::new(world.pool());
    let mut input = world.pool().zeros::<f32>(LEN)?;
    let before = eager_bytes(world);
    let mut graph = graphs.capture(world.stream(), |pass| -> Outcome<_> {
        let mut a = Buf::<f32, B>::empty(LEN)?;
        let mut b = world.pool().zeros::<f32>(LEN)?;
        ensure!(!a.is_symmetric() && a.position().is_none());
        ensure_eq!(eager_bytes(world), before, "in {pass:?}");
        a.copy_from(plain(&input))?;
        b.copy_from(plain(&a))?;
        Ok(b)
    })?;
    let stats = graphs.stats();
    ensure_eq!(stats.arenas.len(), 1);
    let private = &stats.arenas[0];
    ensure_eq!(private.name, "private");
    ensure_eq!(
        (private.live_bytes, private.peak_live_bytes),
        (BYTES, 2 * BYTES)
    );
    ensure_eq!(
        world.pool().stats().reserved_bytes,
        stats.reserved_bytes(),
        "counted by the rank's pool"
    );
    for round in 0..3 {
        let data = part(round, world.rank(), LEN);
        input.copy_from_slice(&data)?;
        graph.launch()?;
        ensure_same!(graph.output().to_vec()?, data, "round {round}");
    }
    Ok(())
}

fn memory_in_scopes_is_symmetric<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (_, captured) = paths(&tp)?;
    let mut x = eager(&tp, LEN)?;
    let (before, windows) = (eager_bytes(world), tp.windows());
    let graphs = GraphPool::new(world.pool());
    let mut graph = graphs.capture(world.stream(), |pass| -> Outcome<_> {
        let mut sum = symm!(group = tp, { tp.empty(LEN)? })?;
        ensure!(sum.is_symmetric());
        ensure_eq!(eager_bytes(world), before, "in {pass:?}");
        let path = tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?;
        if pass == Pass::Capture {
            ensure_eq!(path, captured);
        }
        Ok(sum)
    })?;
    let stats = graphs.stats();
    ensure_eq!(stats.arenas.len(), 1);
    ensure_eq!(stats.arenas[0].name, tp.arena());
    ensure_eq!(stats.arenas[0].live_bytes, BYTES);
    ensure_eq!(tp.windows(), windows + stats.arenas[0].segments);
    let window = graph.output().window()?;
    ensure!(window.is_some(), "registered before the capture");
    ensure_eq!(graph.stats().calls[0].path, captured);
    sums(&tp, &mut x, &mut graph)
}

fn scopes_suspend_private_memory_and_resume_it<B: Backend>(world: &World<B>) -> Outcome {
    let (tp, cp) = (world.split::<Tp>(0, 0)?, world.split::<Cp>(0, 0)?);
    let graphs = GraphPool::new(world.pool());
    let names = |bufs: &[Buf<u8, B>]| -> Vec<bool> { bufs.iter().map(Buf::is_symmetric).collect() };
    let here = Buf::<u8, B>::empty;
    let graph = graphs.capture(world.stream(), |pass| -> Outcome<_> {
        let mut bufs = vec![here(1)?];
        symm!(group = tp, {
            bufs.push(here(1)?);
            symm!(group = cp, {
                bufs.push(here(1)?);
            })?;
            bufs.push(here(1)?);
        })?;
        bufs.push(here(1)?);
        symm!(group = tp, {
            bufs.push(here(1)?);
        })?;
        bufs.push(here(1)?);
        let expected = [false, true, true, true, false, true, false];
        ensure_eq!(names(&bufs), expected, "in {pass:?}");
        bufs.remove(2).downcast::<Cp>().map_err(Error::from)?;
        bufs.remove(4).downcast::<Tp>().map_err(Error::from)?;
        Ok(bufs)
    })?;
    ensure_eq!(names(graph.output()), [false, true, true, false, false]);
    let arenas: Vec<_> = graphs
        .stats()
        .arenas
        .into_iter()
        .map(|arena| (arena.name, arena.live_bytes))
        .collect();
    let expected = [
        ("private".to_owned(), 3 * 512),
        (tp.arena().to_owned(), 2 * 512),
        (cp.arena().to_owned(), 0),
    ];
    ensure_eq!(arenas, expected);
    ensure!(!redirected::<B>()?, "after the capture");
    Ok(())
}

fn suspended_memory_is_private<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let mut input = world.pool().zeros::<f32>(LEN)?;
    let before = eager_bytes(world);
    let mut graph = graphs.capture(world.stream(), |_| -> Outcome<_> {
        symm!(group = tp, {
            ensure!(redirected::<B>()?);
            let suspended = tp.suspend()?;
            let mut copy = Buf::<f32, B>::empty(LEN)?;
            ensure!(!copy.is_symmetric());
            ensure_eq!(eager_bytes(world), before);
            copy.copy_from(plain(&input))?;
            suspended.resume()?;
            ensure!(redirected::<B>()?, "resumed");
            copy
        })
        .map_err(Failure::from)
    })?;
    let data = part(1, world.rank(), LEN);
    input.copy_from_slice(&data)?;
    graph.launch()?;
    ensure_same!(graph.output().to_vec()?, data, "copied");
    Ok(())
}

fn a_scope_that_is_off_gives_private_memory<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let mut x = symm!(group = tp, when = false, { tp.zeros(LEN)? })?;
    let windows = tp.windows();
    let mut graph = graphs.capture(world.stream(), |_| -> Outcome<_> {
        let mut sum = symm!(group = tp, when = false, { tp.empty(LEN)? })?;
        ensure!(!sum.is_symmetric());
        let path = tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?;
        ensure_eq!(path, Path::Plain(Reason::Disabled));
        Ok(sum)
    })?;
    ensure_eq!(graph.stats().calls[0].path, Path::Plain(Reason::Disabled));
    ensure_eq!(tp.windows(), windows);
    sums(&tp, &mut x, &mut graph)
}

fn an_error_in_a_scope_resumes_private_memory<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let mut x = eager(&tp, LEN)?;
    let mut graph = graphs.capture(world.stream(), |pass| -> Outcome<_> {
        // An optional part of the step, such as a cache, that fails by itself.
        let optional = || {
            symm!(group = tp, {
                let _part = tp.empty::<f32>(LEN)?;
                let what = "no cache".into();
                Err(Error::Config { what })?
            })
        };
        let optional: Result<()> = optional();
        ensure_matches!(optional, Err(Error::Config { .. }));
        ensure!(!redirected::<B>()?, "in {pass:?}");
        let mut sum = symm!(group = tp, { tp.empty(LEN)? })?;
        tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?;
        Ok(sum)
    })?;
    sums(&tp, &mut x, &mut graph)
}

fn a_panic_in_a_scope_resumes_private_memory<B: Backend>(world: &World<B>) -> Outcome {
    let (tp, cp) = (world.split::<Tp>(0, 0)?, world.split::<Cp>(0, 0)?);
    let graphs = GraphPool::new(world.pool());
    let mut x = eager(&tp, LEN)?;
    let mut graph = graphs.capture(world.stream(), |pass| -> Outcome<_> {
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            symm!(group = cp, {
                let _part = cp.empty::<f32>(LEN)?;
                let _inner = tp.scope()?;
                if _part.len() == LEN {
                    resume_unwind(Box::new("boom")); // says nothing on the terminal
                }
            })
        }));
        ensure!(panicked.is_err());
        ensure!(!redirected::<B>()?, "in {pass:?}");
        let mut sum = symm!(group = tp, { tp.empty(LEN)? })?;
        tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?;
        Ok(sum)
    })?;
    sums(&tp, &mut x, &mut graph)
}

fn a_capture_begun_in_a_scope_stays_in_it<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let mut x = eager(&tp, LEN)?;
    let live = eager_bytes(world).0;
    let mut graph = symm!(group = tp, {
        let graph = graphs.capture(world.stream(), |_| -> Outcome<_> {
            let mut sum = Buf::<f32, B>::empty(LEN)?
                .downcast::<Tp>()
                .map_err(Error::from)?;
            ensure_eq!(eager_bytes(world).0, live, "not of the scope's own arena");
            tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?;
            Ok(sum)
        })?;
        let outside = Buf::<f32, B>::empty(LEN)?;
        ensure!(outside.is_symmetric(), "the scope is still open");
        ensure_eq!(eager_bytes(world).0, live + BYTES, "of its own arena again");
        graph
    })
    .map_err(Failure::from)?;
    ensure!(graph.output().is_symmetric());
    ensure!(!redirected::<B>()?);
    sums(&tp, &mut x, &mut graph)
}

fn groups_of_one_arena_share_one_in_captures<B: Backend>(world: &World<B>) -> Outcome {
    let (left, right) = (world.split::<Left>(0, 0)?, world.split::<Right>(0, 0)?);
    let mut x = symm!(group = left, { left.zeros::<f32>(LEN)? })?;
    let graphs = GraphPool::new(world.pool());
    let mut graph = graphs.capture(world.stream(), |_| -> Result<_> {
        let mut a = symm!(group = left, { left.empty::<f32>(LEN)? })?;
        let mut b = symm!(group = right, { right.empty::<f32>(LEN)? })?;
        left.all_reduce(&x, &mut a, ReduceOp::Sum)?;
        right.all_reduce(plain(&a), &mut b, ReduceOp::Max)?;
        Ok((a, b))
    })?;
    let stats = graphs.stats();
    ensure_eq!(stats.arenas.len(), 1);
    ensure_eq!(stats.arenas[0].name, left.arena());
    let (a, b) = graph.output();
    ensure!(place(a)? != place(b)?);
    for round in 0..3 {
        x.copy_from_slice(&part(round, left.rank(), LEN))?;
        graph.launch()?;
        let (a, b) = graph.output();
        let sum = total(round, left.size(), LEN);
        ensure_same!(a.to_vec()?, sum, "of the left");
        ensure_same!(b.to_vec()?, sum, "of the right");
    }
    Ok(())
}

/// Captures some steps in a new pool, drops some of the graphs, and says where everything was.
fn positions<B: Backend>(world: &World<B>, tp: &Group<Tp, B>) -> Outcome<Vec<u64>> {
    let graphs = GraphPool::new(world.pool());
    let mut places = Vec::new();
    let mut alive = Vec::new();
    for len in [LEN, 2 * LEN, 700, LEN] {
        let graph = graphs.capture(world.stream(), |_| -> Outcome<_> {
            let a = symm!(group = tp, { tp.empty::<f32>(len)? })?;
            let private = Buf::<f32, B>::empty(len + world.rank())?;
            let b = symm!(group = tp, { tp.empty::<f32>(2 * len)? })?;
            drop(a);
            let mut c = symm!(group = tp, { tp.zeros::<f32>(len)? })?;
            tp.all_reduce_in_place(&mut c, ReduceOp::Sum)?;
            places.extend([place(&b)?, place(&c)?].as_flattened());
            Ok((b, private))
        })?;
        alive.push(graph);
        if alive.len() == 3 {
            alive.remove(1);
        }
    }
    let stats = graphs.stats();
    places.push(stats.arenas[0].reserved_bytes);
    Ok(places)
}

fn positions_are_those_of_a_fresh_pool<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let first = positions(world, &tp)?;
    alike(world, &tp, &first, "places")?;
    let _kept = eager(&tp, 100_000)?;
    ensure_same!(positions(world, &tp)?, first, "in another fresh pool");
    Ok(())
}

fn a_stray_block_of_one_rank_changes_nothing<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let alone = world.split::<Cp>(world.rank(), 0)?;
    let expected = positions(world, &tp)?;
    drop(eager(&tp, 1000)?); // the group's arena has a segment now, on all ranks
    let mut kept = Vec::new();
    if world.rank() == 0 {
        // In the group's own arena too: what lies there is not what captures see.
        kept.push(eager(&tp, 12_345)?.into_buf());
        kept.push(world.pool().zeros(77)?);
        kept.push(symm!(group = alone, { alone.zeros(55_555)? })?.into_buf());
    }
    let places = positions(world, &tp)?;
    alike(world, &tp, &places, "places")?;
    ensure_same!(places, expected, "beside stray blocks");
    Ok(())
}

fn what_one_rank_warmed_up_changes_nothing<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let alone = world.split::<Cp>(world.rank(), 0)?;
    let expected = positions(world, &tp)?;
    // An autotuner tries sizes of its own, as many as it likes.
    for trial in 0..world.rank() * 3 {
        let _out = tp.suspend()?;
        let scratch = Buf::<f32, B>::zeros(1000 << trial)?;
        let mut copy = symm!(group = alone, { alone.empty::<f32>(1000 << trial)? })?;
        copy.copy_from(plain(&scratch))?;
        copy.to_vec()?;
    }
    ensure_same!(positions(world, &tp)?, expected, "after a warm-up");
    Ok(())
}

fn graphs_of_another_pool_change_nothing<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let expected = positions(world, &tp)?;
    let other = GraphPool::new(world.pool());
    let mut kept = Vec::new();
    for len in 0..world.rank() {
        // Of ordinary memory, so that one rank can do it alone.
        let graph = other.capture(world.stream(), |_| Buf::<f32, B>::zeros(1000 * (1 + len)))?;
        kept.push(graph);
    }
    ensure_same!(positions(world, &tp)?, expected, "beside another pool");
    drop(kept);
    ensure_same!(positions(world, &tp)?, expected, "after its end");
    Ok(())
}

fn positions_repeat<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let need = Need::new().group(&tp, MIB).plain(MIB);
    graphs.reserve(&need)?;
    let mut first = None;
    for round in 0..30 {
        let graph = graphs.capture_reserved(&need, world.stream(), |_| -> Outcome<_> {
            let (a, b) = symm!(group = tp, {
                (tp.empty::<u8>(1000)?, tp.empty::<u8>(70_000)?)
            })?;
            Ok([place(&a)?, place(&b)?])
        })?;
        let places = *graph.output();
        ensure_eq!(places, *first.get_or_insert(places), "capture {round}");
    }
    Ok(())
}
