//! The end of a graph: what it kept comes back, behind its last launch, and nothing depends on the
//! order in which things go.

use std::any::Any;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use symm_core::{
    Backend, Buf, Capture, Error, GraphPool, Need, Pass, ReduceOp, Result, World, plain, symm,
};

use super::steps::{MIB, captured_sum, eager, part, summed, sums, total, twice};
use super::{Case, Left, Outcome, Right, Tp, settles};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        leases_end_with_the_graph,
        memory_comes_back_behind_the_last_launch,
        outputs_outlive_their_graph,
        a_graph_may_be_dropped_in_a_capture,
        kept_values_go_behind_the_graph,
        everything_may_go_in_any_order,
        everything_may_go_before_the_first_launch,
        a_shared_arena_ends_with_its_last_group,
    ]
}

const LEN: usize = 3000;
/// Bytes of such a block.
const BYTES: u64 = 12_288;

fn leases_end_with_the_graph<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let x = eager(&tp, LEN)?;
    let ordinary = world.pool().zeros::<f32>(LEN)?;
    let address = x.address();
    let mut graph = graphs.capture(world.stream(), |_| -> Result<_> {
        let mut sum = summed(&tp, &x)?;
        sum.copy_from(plain(&ordinary))?;
        Ok(sum)
    })?;
    graph.launch()?;
    drop((x, ordinary));
    let held = |world: &World<B>| {
        let stats = world.pool().stats();
        (stats.live_bytes(), stats.plain_live_bytes)
    };
    ensure_eq!(held(world), (BYTES, 12_000));
    ensure!(eager(&tp, LEN)?.address() != address);
    drop(graph);
    ensure_eq!(
        held(world),
        (0, 0),
        "at once, without waiting for the launch"
    );
    ensure_eq!(eager(&tp, LEN)?.address(), address, "the block is free");
    let stats = graphs.stats();
    ensure_eq!(
        (stats.graphs, stats.live_bytes(), stats.shared_bytes()),
        (0, 0, 0)
    );
    drop((graphs, tp));
    settles(world, |stats| stats.reserved_bytes == 0)
}

fn memory_comes_back_behind_the_last_launch<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (side, graphs) = (world.new_stream()?, GraphPool::new(world.pool()));
    let len = 50_000;
    for round in 0..5 {
        let mut x = eager(&tp, len)?;
        let address = x.address();
        let mut graph = graphs.capture(&side, |_| -> Result<_> {
            for _ in 0..5 {
                tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
            }
            Ok(())
        })?;
        graph.launch()?;
        drop((x, graph)); // the launch has yet to write it
        let y: Vec<f32> = part(round, tp.rank(), len);
        let next = symm!(group = tp, { tp.from_slice(&y)? })?;
        ensure_eq!(next.address(), address, "the same block");
        ensure_same!(next.to_vec()?, y, "the next owner's data, round {round}");
        world.synchronize()?;
        ensure_same!(next.to_vec()?, y, "later, round {round}");
    }
    Ok(())
}

fn outputs_outlive_their_graph<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let x = symm!(group = tp, { tp.from_slice(&part(2, tp.rank(), LEN))? })?;
    let mut graph = captured_sum(world, &graphs, &tp, &x)?;
    graph.launch()?;
    let mut output = graph.into_output();
    ensure_eq!(
        (graphs.stats().graphs, graphs.stats().live_bytes()),
        (0, BYTES)
    );
    // Another graph takes what is free, and not the output.
    let mut own = eager(&tp, LEN)?;
    let mut other = captured_sum(world, &graphs, &tp, &own)?;
    sums(&tp, &mut own, &mut other)?;
    ensure_same!(
        output.to_vec()?,
        total(2, tp.size(), LEN),
        "without its graph"
    );
    // It is a buffer like any other: of the group, and in its window.
    drop(graphs);
    tp.all_reduce_in_place(&mut output, ReduceOp::Sum)?;
    ensure_same!(
        output.to_vec()?,
        twice(2, tp.size(), LEN),
        "without its pool"
    );
    Ok(())
}

fn a_graph_may_be_dropped_in_a_capture<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let mut x = eager(&tp, LEN)?;
    let side = world.new_stream()?;
    let mut old = Some(graphs.capture(&side, |_| summed(&tp, &x))?);
    if let Some(old) = &mut old {
        old.launch()?;
    }
    let mut graph = graphs.capture(world.stream(), |pass| {
        let sum = summed(&tp, &x)?;
        if pass == Pass::Capture {
            old = None;
        }
        Ok::<_, Error>(sum)
    })?;
    ensure_eq!(graphs.stats().graphs, 1);
    ensure_eq!(graphs.stats().live_bytes(), BYTES);
    sums(&tp, &mut x, &mut graph)
}

fn kept_values_go_behind_the_graph<B: Backend>(world: &World<B>) -> Outcome {
    let graphs = GraphPool::new(world.pool());
    let input = Buf::<f32, B>::zeros(LEN)?;
    let (module, late) = (Arc::new(1), Arc::new(2));
    let capture = Capture::begin(&graphs, &Need::new().plain(MIB), world.stream())?;
    capture.keep(Arc::clone(&module));
    let mut output = Buf::<f32, B>::empty(LEN)?;
    output.copy_from(plain(&input))?;
    let mut graph = capture.end(output)?;
    graph.keep(Arc::clone(&late));
    graph.launch()?;
    ensure_eq!(
        (Arc::strong_count(&module), Arc::strong_count(&late)),
        (2, 2)
    );
    drop((graph, input, graphs));
    settles(world, |_| {
        (Arc::strong_count(&module), Arc::strong_count(&late)) == (1, 1)
    })
}

/// The n-th of the 24 orders of four things.
fn order(n: usize) -> [usize; 4] {
    let mut left = vec![0, 1, 2, 3];
    [n % 4, n / 4 % 3, n / 12 % 2, 0].map(|pick| left.remove(pick))
}

/// Makes all there is, with a launch under way if `launched`, and drops it in the order.
fn drops<B: Backend>(world: &World<B>, order: [usize; 4], launched: bool) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let x = eager(&tp, LEN)?;
    let mut graph = captured_sum(world, &graphs, &tp, &x)?;
    if launched {
        for _ in 0..3 {
            graph.launch()?;
        }
    }
    let everything: [Box<dyn Any>; 4] =
        [Box::new(graph), Box::new(tp), Box::new(graphs), Box::new(x)];
    let mut everything = everything.map(Some);
    for thing in order {
        everything[thing] = None;
    }
    settles(world, |stats| {
        stats.reserved_bytes == 0 && stats.segments == 0 && stats.arenas.is_empty()
    })
}

fn everything_may_go_in_any_order<B: Backend>(world: &World<B>) -> Outcome {
    (0..24).try_for_each(|n| drops(world, order(n), true))
}

fn everything_may_go_before_the_first_launch<B: Backend>(world: &World<B>) -> Outcome {
    // Also in another order on every rank.
    let (rank, ranks) = (world.rank(), world.size());
    (0..6).try_for_each(|n| drops(world, order((5 * n + rank * (24 / ranks)) % 24), n % 2 == 0))
}

/// Keeps the reaper busy, on this rank alone.
struct Slow;

impl Drop for Slow {
    fn drop(&mut self) {
        thread::sleep(Duration::from_millis(100));
    }
}

fn a_shared_arena_ends_with_its_last_group<B: Backend>(world: &World<B>) -> Outcome {
    for _ in 0..2 {
        let (left, right) = (world.split::<Left>(0, 0)?, world.split::<Right>(0, 0)?);
        let graphs = GraphPool::new(world.pool());
        let x = symm!(group = left, { left.from_slice(&[1.0f32])? })?;
        let mut graph = graphs.capture(world.stream(), |_| -> Result<_> {
            let mut sum = symm!(group = right, { right.empty::<f32>(1)? })?;
            right.all_reduce(plain(&x), &mut sum, ReduceOp::Sum)?;
            Ok(sum)
        })?;
        graph.launch()?;
        if world.rank() == 1 {
            graph.keep(Slow);
        }
        // However long that takes, the next groups begin with an arena of their own.
    }
    Ok(())
}
