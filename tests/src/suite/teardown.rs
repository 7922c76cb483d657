//! Teardown: in any order, without a leak and without a hang. That memory comes back is checked
//! behind every case; here for each order.

use symm_core::{Backend, GraphPool, Group, ReduceOp, Result, SymmBuf, World, plain_mut, symm};

use super::data::elements;
use super::{Case, Cp, Left, Outcome, Right, Tp, settles};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        the_group_before_its_buffer,
        the_group_before_its_scope,
        a_view_outlives_the_handle,
        with_work_under_way,
        before_anything_was_registered,
        in_an_order_of_each_rank,
        overlapping_groups from 4,
        groups_of_one_arena,
        many_groups_one_after_another,
        memory_comes_back_while_others_go_on,
    ]
}

/// One buffer of the group, with a sum in it.
fn used<B: Backend>(tp: &Group<Tp, B>) -> Result<SymmBuf<i32, Tp, B>> {
    let mut x = symm!(group = tp, { tp.from_slice(&[1; 1000])? })?;
    tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    Ok(x)
}

/// All memory is back.
fn nothing_is_left<B: Backend>(world: &World<B>) -> Outcome {
    settles(world, |stats| {
        stats.reserved_bytes == 0 && stats.segments == 0
    })
}

fn the_group_before_its_buffer<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut x = used(&tp)?;
    let ranks = tp.size() as i32;
    drop(tp);
    ensure_same!(x.to_vec()?, [ranks; 1000], "without the group");
    x.fill_zero()?;
    ensure!(
        x.window()?.is_some(),
        "the window lives as long as the buffer"
    );
    drop(x);
    nothing_is_left(world)
}

fn the_group_before_its_scope<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let scope = tp.scope()?;
    drop(tp);
    let x = scope.zeros::<f32>(100)?;
    scope.close()?;
    ensure!(x.window()?.is_some());
    drop(x);
    nothing_is_left(world)
}

fn a_view_outlives_the_handle<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let clone = tp.clone();
    let x = used(&tp)?;
    let view = x.view(10..20)?;
    drop(tp);
    ensure_same!(view.to_vec()?, [clone.size() as i32; 10], "the view");
    drop((clone, x));
    nothing_is_left(world)
}

fn with_work_under_way<B: Backend>(world: &World<B>) -> Outcome {
    let side = world.new_stream()?;
    let on_side = world.on_stream(&side)?;
    for _ in 0..3 {
        let tp = world.split::<Tp>(0, 0)?;
        let (src, mut dst) = symm!(group = tp, {
            (tp.zeros::<f32>(1 << 18)?, tp.empty::<f32>(1 << 18)?)
        })?;
        for _ in 0..5 {
            tp.all_reduce(&src, &mut dst, ReduceOp::Sum)?;
        }
        // Buffers, group and windows go while the stream is busy.
    }
    let tp = world.split::<Tp>(0, 0)?;
    let mut ordinary = world.pool().zeros::<f32>(1 << 18)?;
    for _ in 0..5 {
        tp.all_reduce_in_place(plain_mut(&mut ordinary), ReduceOp::Sum)?;
    }
    drop((tp, ordinary)); // here it is the communicator alone that is in use
    on_side.end()?;
    drop(side);
    nothing_is_left(world)
}

fn before_anything_was_registered<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let scope = tp.scope()?;
    let x = scope.zeros::<f32>(100)?;
    drop((scope, tp, x));
    nothing_is_left(world)
}

fn in_an_order_of_each_rank<B: Backend>(world: &World<B>) -> Outcome {
    // As a hash map of groups drops them: in another order on every rank.
    let mut groups = (0..4)
        .map(|_| world.split::<Tp>(0, 0))
        .collect::<Result<Vec<_>>>()?;
    let mut bufs = groups
        .iter()
        .map(|tp| used(tp).map(Some))
        .collect::<Result<Vec<_>>>()?;
    groups.rotate_left(world.rank() % 4);
    groups.clear();
    for i in 0..4 {
        bufs[(i + 3 * world.rank()) % 4] = None;
    }
    nothing_is_left(world)
}

fn overlapping_groups<B: Backend>(world: &World<B>) -> Outcome {
    let (row, column) = (world.rank() / 2, world.rank() % 2);
    let (tp, cp) = (
        world.split::<Tp>(row, column)?,
        world.split::<Cp>(column, row)?,
    );
    let x = used(&tp)?;
    let mut y = symm!(group = cp, { cp.from_slice(&[1.0f32; 10])? })?;
    cp.all_reduce_in_place(&mut y, ReduceOp::Sum)?;
    match world.rank() % 3 {
        0 => drop((tp, x, cp, y)),
        1 => drop((y, cp, x, tp)),
        _ => drop((cp, tp, y, x)),
    }
    nothing_is_left(world)
}

fn groups_of_one_arena<B: Backend>(world: &World<B>) -> Outcome {
    let (left, right) = (world.split::<Left>(0, 0)?, world.split::<Right>(0, 0)?);
    let mut x = symm!(group = left, { left.from_slice(&[1i32; 100])? })?;
    let mut y = symm!(group = right, { right.from_slice(&[2i32; 100])? })?;
    left.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    let ranks = left.size() as i32;
    drop((left, x));
    right.all_reduce_in_place(&mut y, ReduceOp::Sum)?;
    ensure_same!(
        y.to_vec()?,
        [2 * ranks; 100],
        "in the arena of two, of which one is gone"
    );
    ensure_eq!(world.pool().stats().segments, 1);
    drop((y, right));
    nothing_is_left(world)
}

fn many_groups_one_after_another<B: Backend>(world: &World<B>) -> Outcome {
    let kept = world.split::<Cp>(0, 0)?;
    let data: Vec<u64> = elements(9, kept.rank(), 5000);
    let x = symm!(group = kept, { kept.from_slice(&data)? })?;
    for _ in 0..8 {
        let tp = world.split::<Tp>(0, 0)?;
        used(&tp)?;
    }
    ensure_same!(x.to_vec()?, data, "another group's buffer");
    settles(world, |stats| stats.segments == 1)?;
    drop((kept, x));
    nothing_is_left(world)
}

fn memory_comes_back_while_others_go_on<B: Backend>(world: &World<B>) -> Outcome {
    let (tp, cp) = (world.split::<Tp>(0, 0)?, world.split::<Cp>(0, 0)?);
    let mut going_on = symm!(group = cp, { cp.from_slice(&[1.0f32; 10_000])? })?;
    drop((used(&tp)?, tp));
    for _ in 0..50 {
        cp.all_reduce_in_place(&mut going_on, ReduceOp::Max)?;
    }
    ensure_same!(going_on.to_vec()?, [1.0; 10_000], "of the group that stays");
    settles(world, |stats| stats.segments == 1)?;
    drop((cp, going_on));
    nothing_is_left(world)
}

/// The title of [`farewell`].
pub const FAREWELL: &str = "teardown::the_world_first";

/// The last thing that happens to a world: it goes first, and what came out of it goes on for a
/// while.
///
/// # Errors
/// What did not hold, and where.
pub fn farewell<B: Backend>(world: World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut ordinary = world.pool().from_slice(&[5i32; 9])?;
    let (rank, side) = (world.rank(), world.new_stream()?);
    let graphs = GraphPool::new(world.pool());
    let mut summand = symm!(group = tp, { tp.zeros::<i32>(100)? })?;
    let mut graph = graphs.capture(&side, |_| -> Result<_> {
        let mut sum = symm!(group = tp, { tp.empty::<i32>(100)? })?;
        tp.all_reduce(&summand, &mut sum, ReduceOp::Sum)?;
        Ok(sum)
    })?;
    let on_side = world.on_stream(&side)?;
    drop((world, graphs));
    on_side.end()?;
    summand.copy_from_slice(&[7; 100])?;
    graph.launch()?;
    let sum = graph.output().to_vec()?;
    ensure_same!(
        sum,
        [7 * tp.size() as i32; 100],
        "a graph without its world"
    );
    let mut x = used(&tp)?;
    tp.all_reduce_in_place(plain_mut(&mut ordinary), ReduceOp::Max)?;
    ensure_same!(ordinary.to_vec()?, [5; 9], "ordinary memory");
    let ranks = tp.size() as i32;
    ensure_eq!(tp.members()[tp.rank()], rank);
    drop(tp);
    graph.launch()?;
    ensure_same!(
        graph.output().to_vec()?,
        [7 * ranks; 100],
        "without its group"
    );
    drop((summand, graph));
    x.view_mut(0..1)?.fill_zero()?;
    let expected: Vec<i32> = std::iter::once(0)
        .chain(std::iter::repeat_n(ranks, 999))
        .collect();
    ensure_same!(x.to_vec()?, expected, "without world and group");
    Ok(())
}
