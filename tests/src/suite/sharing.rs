//! Graphs of one pool share what was freed before their captures ended, and nothing else.

use symm_core::{
    Backend, Buf, Error, Graph, GraphPool, Group, Need, Prime, ReduceOp, Result, World, plain, symm,
};

use super::data::Rng;
use super::steps::{
    Buffer, MIB, captured_sum, eager, part, place, summed, sums, total, usable, warm,
};
use super::{Case, Outcome, Tp};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        twenty_sizes_cost_what_the_largest_costs,
        sizes_that_grow_cost_little_more,
        temporaries_are_shared_and_counted,
        what_is_alive_at_the_end_is_not_shared,
        an_output_on_anothers_temporaries_is_refused,
        a_prime_grows_rather_than_overlap,
        what_a_prime_left_there_is_refused,
        private_memory_is_shared_alike,
        pools_share_nothing,
        a_dropped_graph_leaves_room,
        sharing_holds_across_streams,
    ]
}

const LEN: usize = 1000;

/// One batch size: a large temporary, of which the step uses the ends, and an output.
struct Bucket<B: Backend> {
    graph: Graph<Buffer<B>, B>,
    /// Which launch it was that wrote the output.
    written: Option<u64>,
}

impl<B: Backend> Bucket<B> {
    fn new(
        world: &World<B>,
        graphs: &GraphPool<B>,
        tp: &Group<Tp, B>,
        x: &Buffer<B>,
        mib: usize,
    ) -> Result<Self> {
        let len = mib << 18;
        let graph = graphs.capture(world.stream(), |_| -> Result<_> {
            let mut temporary = symm!(group = tp, { tp.empty::<f32>(len)? })?;
            let mut sum = symm!(group = tp, { tp.empty(LEN)? })?;
            temporary
                .view_mut(0..LEN)?
                .copy_from(plain(x).part(0..LEN)?)?;
            tp.all_reduce(x, temporary.view_mut(len - LEN..len)?, ReduceOp::Sum)?;
            sum.copy_from(plain(&temporary).part(len - LEN..len)?)?;
            Ok(sum)
        })?;
        Ok(Self {
            graph,
            written: None,
        })
    }
}

/// Launches them in a random order; each output stays what its own last launch made of it.
fn exact_in_any_order<B: Backend>(
    tp: &Group<Tp, B>,
    x: &mut Buffer<B>,
    buckets: &mut [Bucket<B>],
) -> Outcome {
    let mut rng = Rng::new(3);
    for round in 0..60 {
        let at = rng.below(buckets.len());
        x.copy_from_slice(&part(round, tp.rank(), LEN))?;
        buckets[at].graph.launch()?;
        buckets[at].written = Some(round);
    }
    for (at, bucket) in buckets.iter().enumerate() {
        if let Some(round) = bucket.written {
            let got = bucket.graph.output().to_vec()?;
            ensure_same!(got, total(round, tp.size(), LEN), "bucket {at}");
        }
    }
    Ok(())
}

fn twenty_sizes_cost_what_the_largest_costs<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut x = eager(&tp, LEN)?;
    let graphs = GraphPool::new(world.pool());
    let mut buckets = Vec::new();
    let mut of_the_largest = None;
    for mib in (1..=20).rev() {
        buckets.push(Bucket::new(world, &graphs, &tp, &x, mib)?);
        let reserved = graphs.stats().reserved_bytes();
        ensure_eq!(
            reserved,
            *of_the_largest.get_or_insert(reserved),
            "{mib} MiB"
        );
    }
    let stats = graphs.stats();
    ensure_eq!(stats.graphs, 20);
    ensure!(
        stats.reserved_bytes() <= (20 + 16) * MIB,
        "a segment for the temporary, and the next, in which outputs lie: {stats}"
    );
    ensure_eq!(stats.live_bytes(), 20 * 4096);
    ensure_eq!(stats.shared_bytes(), 20 * MIB);
    exact_in_any_order(&tp, &mut x, &mut buckets)
}

fn sizes_that_grow_cost_little_more<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut x = eager(&tp, LEN)?;
    let graphs = GraphPool::new(world.pool());
    let mut buckets = Vec::new();
    for mib in 1..=20 {
        buckets.push(Bucket::new(world, &graphs, &tp, &x, mib)?);
    }
    let stats = graphs.stats();
    ensure!(
        stats.reserved_bytes() <= (8 + 16 + 32) * MIB,
        "doubling segments, of 210 MiB in all: {stats}"
    );
    exact_in_any_order(&tp, &mut x, &mut buckets)
}

fn temporaries_are_shared_and_counted<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let mut x = eager(&tp, 20 * LEN)?;
    let (block, mut owned) = (80_384, 0);
    let mut captured = Vec::new();
    for count in 1..=4 {
        captured.push(captured_sum(world, &graphs, &tp, &x)?);
        owned += block;
        let stats = graphs.stats();
        ensure_eq!(
            (stats.graphs, stats.live_bytes(), stats.shared_bytes()),
            (count, owned, block)
        );
    }
    let [first, .., last] = &mut captured[..] else {
        return Ok(());
    };
    ensure!(place(first.output())? != place(last.output())?);
    sums(&tp, &mut x, first)?;
    sums(&tp, &mut x, last)?;
    drop(captured);
    let stats = graphs.stats();
    ensure_eq!((stats.live_bytes(), stats.shared_bytes()), (0, 0));
    Ok(())
}

fn what_is_alive_at_the_end_is_not_shared<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let mut x = eager(&tp, LEN)?;
    // An output of each lies nowhere on a block of another, whatever its sizes and life.
    let mut taken: Vec<(u64, u64, u64)> = Vec::new();
    let mut kept = Vec::new();
    for turn in 0..8 {
        let graph = graphs.capture(world.stream(), |_| -> Outcome<_> {
            let mut bufs = Vec::new();
            for n in 0..4 {
                let len = LEN * (1 + (turn * 7 + n * 3) % 5);
                bufs.push(symm!(group = tp, { tp.zeros::<f32>(len)? })?);
            }
            tp.all_reduce(&x, bufs[0].view_mut(0..LEN)?, ReduceOp::Sum)?;
            bufs.truncate(2);
            Ok(bufs)
        })?;
        for buf in graph.output() {
            let [segment, offset] = place(buf)?;
            let end = offset + (buf.num_bytes() as u64).next_multiple_of(512);
            for (other, start, stop) in &taken {
                ensure!(
                    *other != segment || *stop <= offset || end <= *start,
                    "graph {turn} has an output at {offset}..{end}, another's is at {start}..{stop}"
                );
            }
            taken.push((segment, offset, end));
        }
        kept.push(graph);
    }
    x.copy_from_slice(&part(1, tp.rank(), LEN))?;
    for graph in &mut kept {
        graph.launch()?;
    }
    for graph in &kept {
        let sum = graph.output()[0].view(0..LEN)?.to_vec()?;
        ensure_same!(sum, total(1, tp.size(), LEN), "after all launches");
    }
    Ok(())
}

/// A pool of 8 MiB with a graph that has 6 MiB of them as a temporary.
fn with_a_large_temporary<B: Backend>(
    world: &World<B>,
    tp: &Group<Tp, B>,
) -> Outcome<(GraphPool<B>, Graph<(), B>)> {
    let graphs = GraphPool::new(world.pool());
    graphs.reserve(&Need::new().group(tp, 8 * MIB))?;
    let need = Need::new().group(tp, 1);
    let graph = graphs.capture_reserved(&need, world.stream(), |_| -> Result<()> {
        let mut temporary = symm!(group = tp, { tp.empty::<u8>(6 << 20)? })?;
        temporary.view_mut(0..100)?.fill_zero()
    })?;
    ensure_eq!(graphs.stats().shared_bytes(), 6 * MIB);
    Ok((graphs, graph))
}

fn an_output_on_anothers_temporaries_is_refused<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (graphs, mut first) = with_a_large_temporary(world, &tp)?;
    let need = Need::new().group(&tp, 1);
    let of_size = |bytes: usize| {
        graphs.capture_reserved(&need, world.stream(), |_| -> Result<_> {
            let mut output = symm!(group = tp, { tp.empty::<u8>(bytes)? })?;
            output.fill_zero()?;
            Ok(output)
        })
    };
    let before = graphs.stats();
    match of_size(3 << 20) {
        Err(Error::GraphOverlap {
            arena,
            bytes,
            here,
            there,
        }) => {
            ensure_eq!((&*arena, bytes), (tp.arena(), 3 * MIB));
            let (here, there) = (here.to_string(), there.to_string());
            ensure!(
                here != there
                    && [&here, &there]
                        .iter()
                        .all(|site| site.contains("sharing.rs")),
                "{here} and {there}"
            );
        }
        other => ensure!(false, "3 MiB of the 2 that are untouched: {other:?}"),
    }
    ensure_eq!(graphs.stats(), before, "nothing is left of it");
    let fits = of_size(2 << 20)?;
    first.launch()?;
    drop(first);
    drop(fits);
    drop(of_size(3 << 20)?);
    usable(world, &graphs, &tp)
}

fn a_prime_grows_rather_than_overlap<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (graphs, mut first) = with_a_large_temporary(world, &tp)?;
    let mut x = eager(&tp, 3 << 18)?; // 3 MiB
    let mut graph = graphs.capture(world.stream(), |_| -> Result<_> {
        // The temporary is gone when the output is made, so there is room: the first's.
        drop(symm!(group = tp, { tp.zeros::<f32>(6 << 18)? })?);
        let mut sum = symm!(group = tp, { tp.empty(x.len())? })?;
        tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?;
        Ok(sum)
    })?;
    first.launch()?;
    ensure_eq!(graphs.stats().arenas[0].segments, 2);
    sums(&tp, &mut x, &mut graph)
}

fn what_a_prime_left_there_is_refused<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (graphs, first) = with_a_large_temporary(world, &tp)?;
    // 2 MiB are untouched, so one of two blocks of 1.5 MiB lies where the first graph writes: well
    // for a temporary, but not for what is still there when the step is captured.
    let prime = Prime::begin(&graphs, world.stream())?;
    let stays = symm!(group = tp, {
        [tp.zeros::<u8>(3 << 19)?, tp.zeros::<u8>(3 << 19)?]
    })?;
    let need = prime.end()?;
    let capture = || graphs.capture_reserved(&need, world.stream(), |_| Ok::<_, Error>(()));
    ensure_matches!(
        capture(),
        Err(Error::GraphOverlap { bytes, .. }) if bytes == 3 << 19
    );
    drop(stays);
    drop(capture()?);
    drop(first);
    usable(world, &graphs, &tp)
}

fn private_memory_is_shared_alike<B: Backend>(world: &World<B>) -> Outcome {
    let graphs = GraphPool::new(world.pool());
    let mut input = world.pool().zeros::<f32>(LEN)?;
    let mut captured = Vec::new();
    for factor in [7, 3, 5] {
        captured.push(graphs.capture(world.stream(), |_| -> Result<_> {
            let mut temporary = Buf::<f32, B>::zeros(factor * LEN)?;
            let mut output = Buf::<f32, B>::empty(LEN)?;
            temporary.copy_from(plain(&Buf::<f32, B>::zeros(factor * LEN)?))?;
            output.copy_from(plain(&temporary).part(0..LEN)?)?;
            output.copy_from(plain(&input))?;
            Ok(output)
        })?);
    }
    let stats = graphs.stats();
    ensure_eq!(stats.live_bytes(), 3 * 4096);
    ensure_eq!(stats.shared_bytes(), 2 * 28_160);
    let mut written = [0; 3];
    let mut rng = Rng::new(8);
    for round in 1..20 {
        let at = rng.below(3);
        input.copy_from_slice(&part(round, world.rank(), LEN))?;
        captured[at].launch()?;
        written[at] = round;
    }
    for (graph, round) in captured.iter().zip(written) {
        let expected = part(round, world.rank(), LEN);
        ensure_same!(graph.output().to_vec()?, expected, "of round {round}");
    }
    Ok(())
}

fn pools_share_nothing<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut x = eager(&tp, LEN)?;
    let one = GraphPool::new(world.pool());
    let (handle, two) = (one.clone(), GraphPool::new(world.pool()));
    let mut a = captured_sum(world, &one, &tp, &x)?;
    let mut b = captured_sum(world, &two, &tp, &x)?;
    ensure_eq!(handle.stats(), one.stats(), "a clone is the same pool");
    ensure_eq!(one.stats().reserved_bytes(), 8 * MIB);
    ensure_eq!(two.stats().reserved_bytes(), 8 * MIB);
    ensure!(a.output().address() != b.output().address());
    sums(&tp, &mut x, &mut a)?;
    sums(&tp, &mut x, &mut b)
}

fn a_dropped_graph_leaves_room<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    warm(&tp, LEN)?;
    let graphs = GraphPool::new(world.pool());
    let mut x = eager(&tp, 1 << 19)?; // 2 MiB; two of it are a step's
    for round in 0..10 {
        let mut kept = [
            captured_sum(world, &graphs, &tp, &x)?,
            captured_sum(world, &graphs, &tp, &x)?,
        ];
        ensure_eq!(
            graphs.stats().reserved_bytes(),
            8 * MIB,
            "two outputs and a shared temporary, in round {round}"
        );
        if round == 9 {
            sums(&tp, &mut x, &mut kept[0])?;
            sums(&tp, &mut x, &mut kept[1])?;
        }
    }
    Ok(())
}

fn sharing_holds_across_streams<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let len = 50_000;
    let (mut x, mut y) = (eager(&tp, len)?, eager(&tp, len)?);
    let (a, b) = (world.new_stream()?, world.new_stream()?);
    let step = |x: &Buffer<B>| summed(&tp, x);
    let mut on_a = graphs.capture(&a, |_| step(&x))?;
    let mut on_b = graphs.capture(&b, |_| step(&y))?;
    ensure_eq!(
        graphs.stats().shared_bytes(),
        200_192,
        "one temporary for both"
    );
    for round in 0..20 {
        // Nothing waits in between: the second's launch overwrites the first's temporary.
        x.copy_from_slice(&part(round, tp.rank(), len))?;
        y.copy_from_slice(&part(500 + round, tp.rank(), len))?;
        on_a.launch()?;
        on_b.launch()?;
        on_a.launch()?;
    }
    ensure_same!(on_a.output().to_vec()?, total(19, tp.size(), len), "one");
    ensure_same!(on_b.output().to_vec()?, total(519, tp.size(), len), "two");
    Ok(())
}
