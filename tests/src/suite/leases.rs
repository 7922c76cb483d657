//! Leases: what a graph uses is nobody else's as long as the graph lives, and everybody's again
//! after it.

use symm_core::{
    Backend, Buf, Error, Graph, GraphPool, Group, Need, Pass, ReduceOp, Result, SymmBuf, World,
    plain, plain_mut, symm,
};

use super::data::elements;
use super::steps::{
    Buffer, MIB, captured_sum, disk_full, eager, part, summed, sums, total, twice, warm,
};
use super::{Case, Outcome, Tp};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        what_is_dropped_after_the_capture_is_not_handed_out,
        what_is_dropped_in_the_capture_is_not_handed_out,
        what_a_view_was_taken_of_is_not_handed_out,
        ordinary_memory_is_not_handed_out,
        what_the_capture_made_is_not_handed_out,
        two_graphs_keep_their_outputs_in_either_order,
        two_graphs_keep_one_buffer_until_both_are_gone,
        the_output_of_one_is_the_input_of_another,
        another_pools_output_is_kept,
        what_a_capture_did_not_use_is_free_after_it,
        a_failed_capture_keeps_nothing,
    ]
}

const LEN: usize = 3000;
/// Bytes of such a block.
const BYTES: u64 = 12_288;
const REPLAYS: u64 = 100;

/// Fails unless the buffer still holds the pattern that [`filled`] wrote.
fn intact<B: Backend>(pattern: &[(Buf<u32, B>, u64)], rank: usize) -> Outcome {
    for (buf, seed) in pattern {
        let expected = elements(*seed, rank, buf.len());
        ensure_same!(buf.to_vec()?, expected, "somebody else's memory, {seed}");
    }
    Ok(())
}

/// Takes all that the group's arena has left, by blocks of falling sizes, and fills it.
fn filled<B: Backend>(world: &World<B>, tp: &Group<Tp, B>) -> Outcome<Vec<(Buf<u32, B>, u64)>> {
    let mut taken: Vec<SymmBuf<u32, Tp, B>> = Vec::new();
    world.pool().seal();
    let outcome = symm!(group = tp, {
        for bytes in [4 << 20, 1 << 20, 64 << 10, 4 << 10, 512] {
            loop {
                match tp.empty(bytes / 4) {
                    Ok(buf) => taken.push(buf),
                    Err(Error::Sealed { .. }) => break,
                    Err(error) => Err(error)?,
                }
            }
        }
    });
    world.pool().unseal();
    outcome?;
    let stats = world.pool().stats();
    let arena = stats.arenas.iter().find(|arena| arena.name == tp.arena());
    ensure!(
        arena.is_some_and(|arena| arena.live_bytes == arena.reserved_bytes),
        "there is some left: {arena:?}"
    );
    let fill = |(seed, mut buf): (u64, SymmBuf<u32, Tp, B>)| {
        buf.copy_from_slice(&elements(seed, world.rank(), buf.len()))?;
        Ok((buf.into_buf(), seed))
    };
    (0..).zip(taken).map(fill).collect()
}

/// Launches the graph, which sums what `x` held and nobody has any more, among the pattern.
fn replays_beside<B: Backend>(
    world: &World<B>,
    tp: &Group<Tp, B>,
    graph: &mut Graph<Buffer<B>, B>,
    pattern: &[(Buf<u32, B>, u64)],
) -> Outcome {
    let expected = total(7, tp.size(), LEN);
    for replay in 0..REPLAYS {
        graph.output_mut().fill_zero()?;
        graph.launch()?;
        if replay % 10 == 9 {
            ensure_same!(graph.output().to_vec()?, expected, "replay {replay}");
        }
    }
    intact(pattern, world.rank())
}

fn what_is_dropped_after_the_capture_is_not_handed_out<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let (x, mut y) = symm!(group = tp, {
        (
            tp.from_slice(&part(7, tp.rank(), LEN))?,
            tp.empty::<f32>(LEN)?,
        )
    })?;
    let mut graph = graphs.capture(world.stream(), |_| -> Result<_> {
        tp.all_reduce(&x, &mut y, ReduceOp::Sum)?;
        let mut out = symm!(group = tp, { tp.empty(LEN)? })?;
        out.copy_from(plain(&y))?;
        Ok(out)
    })?;
    ensure_eq!(graph.stats().leases, 2);
    drop((x, y));
    ensure_eq!(world.pool().stats().live_bytes(), 2 * BYTES);
    let pattern = filled(world, &tp)?;
    replays_beside(world, &tp, &mut graph, &pattern)
}

fn what_is_dropped_in_the_capture_is_not_handed_out<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let mut x = Some(symm!(group = tp, {
        tp.from_slice(&part(7, tp.rank(), LEN))?
    })?);
    let mut graph = graphs.capture(world.stream(), |pass| -> Result<_> {
        let sum = x.as_ref().map(|x| summed(&tp, x));
        let sum = sum.ok_or_else(|| Error::Config {
            what: "it is gone".into(),
        })?;
        if pass == Pass::Capture {
            x = None;
        }
        sum
    })?;
    ensure_eq!(world.pool().stats().live_bytes(), BYTES);
    let pattern = filled(world, &tp)?;
    replays_beside(world, &tp, &mut graph, &pattern)
}

fn what_a_view_was_taken_of_is_not_handed_out<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let mut x = eager(&tp, 3 * LEN)?;
    x.view_mut(LEN..2 * LEN)?
        .copy_from_slice(&part(7, tp.rank(), LEN))?;
    let mut graph = graphs.capture(world.stream(), |_| -> Result<_> {
        let mut out = symm!(group = tp, { tp.empty(LEN)? })?;
        tp.all_reduce(x.view(LEN..2 * LEN)?, &mut out, ReduceOp::Sum)?;
        Ok(out)
    })?;
    drop(x);
    ensure_eq!(
        world.pool().stats().live_bytes(),
        36_352,
        "the whole buffer"
    );
    let pattern = filled(world, &tp)?;
    replays_beside(world, &tp, &mut graph, &pattern)
}

fn ordinary_memory_is_not_handed_out<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let x = world.pool().from_slice(&part(7, tp.rank(), LEN))?;
    let mut y = world.pool().zeros::<f32>(LEN)?;
    let mut graph = graphs.capture(world.stream(), |_| -> Result<_> {
        tp.all_reduce(plain(&x), plain_mut(&mut y), ReduceOp::Sum)?;
        let mut out = symm!(group = tp, { tp.empty(LEN)? })?;
        out.copy_from(plain(&y))?;
        Ok(out)
    })?;
    drop((x, y));
    ensure_eq!(world.pool().stats().plain_live_bytes, 2 * 12_000);
    let fill = |seed| -> Result<_> {
        let data: Vec<u32> = elements(seed, world.rank(), LEN);
        Ok((world.pool().from_slice(&data)?, seed))
    };
    let pattern = (0..200).map(fill).collect::<Result<Vec<_>>>()?;
    replays_beside(world, &tp, &mut graph, &pattern)?;
    drop((pattern, graph));
    ensure_eq!(world.pool().stats().plain_live_bytes, 0);
    Ok(())
}

fn what_the_capture_made_is_not_handed_out<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let x = symm!(group = tp, { tp.from_slice(&part(7, tp.rank(), LEN))? })?;
    warm(&tp, LEN)?;
    // 8 MiB, in which there is room for 682 such blocks.
    let need = Need::new().group(&tp, 8 * MIB);
    graphs.reserve(&need)?;
    let blocks = |count: usize| {
        graphs.capture_reserved(&Need::new().group(&tp, 1), world.stream(), |_| {
            symm!(group = tp, {
                (0..count)
                    .map(|_| tp.empty::<u32>(LEN))
                    .collect::<Result<Vec<_>>>()?
            })
        })
    };
    let mut put = None;
    let mut graph = graphs.capture_reserved(&Need::new().group(&tp, 1), world.stream(), |_| {
        let mut middle = symm!(group = tp, { tp.empty(LEN)? })?;
        tp.all_reduce(&x, &mut middle, ReduceOp::Sum)?;
        let mut out = symm!(group = tp, { tp.empty(LEN)? })?;
        out.copy_from(plain(&middle))?;
        put = Some(middle);
        Ok::<_, Error>(out)
    })?;
    drop(put); // the graph still writes and reads it
    ensure_eq!(graphs.stats().live_bytes(), 2 * BYTES);
    ensure_matches!(blocks(681), Err(Error::CaptureMiss { need: BYTES, .. }));
    let rest = blocks(680)?.into_output();
    let fill = |(seed, mut buf): (u64, SymmBuf<u32, Tp, B>)| -> Result<_> {
        buf.copy_from_slice(&elements(seed, world.rank(), LEN))?;
        Ok((buf.into_buf(), seed))
    };
    let pattern = (0..).zip(rest).map(fill).collect::<Result<Vec<_>>>()?;
    replays_beside(world, &tp, &mut graph, &pattern)
}

fn two_graphs_keep_their_outputs_in_either_order<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let (mut x, mut y) = (eager(&tp, LEN)?, eager(&tp, 5 * LEN)?);
    let mut a = captured_sum(world, &graphs, &tp, &x)?;
    let mut b = captured_sum(world, &graphs, &tp, &y)?;
    ensure!(graphs.stats().shared_bytes() > 0, "they share temporaries");
    for round in 0..10 {
        x.copy_from_slice(&part(round, tp.rank(), x.len()))?;
        y.copy_from_slice(&part(100 + round, tp.rank(), y.len()))?;
        if round % 2 == 0 {
            a.launch()?;
            b.launch()?;
        } else {
            b.launch()?;
            a.launch()?;
        }
        ensure_same!(
            a.output().to_vec()?,
            total(round, tp.size(), LEN),
            "the first, round {round}"
        );
        ensure_same!(
            b.output().to_vec()?,
            total(100 + round, tp.size(), 5 * LEN),
            "the second, round {round}"
        );
    }
    Ok(())
}

fn two_graphs_keep_one_buffer_until_both_are_gone<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let other = GraphPool::new(world.pool());
    let x = symm!(group = tp, { tp.from_slice(&part(7, tp.rank(), LEN))? })?;
    let mut a = captured_sum(world, &graphs, &tp, &x)?;
    let mut b = captured_sum(world, &other, &tp, &x)?;
    drop(x);
    a.launch()?;
    drop(a);
    ensure_eq!(world.pool().stats().live_bytes(), BYTES);
    let pattern = filled(world, &tp)?;
    replays_beside(world, &tp, &mut b, &pattern)?;
    drop(b);
    ensure_eq!(
        world.pool().stats().live_bytes(),
        8 * MIB - BYTES,
        "its block is free, and the pattern's are not"
    );
    Ok(())
}

fn the_output_of_one_is_the_input_of_another<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let mut x = eager(&tp, LEN)?;
    let mut a = captured_sum(world, &graphs, &tp, &x)?;
    let mut b = graphs.capture(world.stream(), |_| summed(&tp, a.output()))?;
    for round in 0..5 {
        x.copy_from_slice(&part(round, tp.rank(), LEN))?;
        a.launch()?;
        b.launch()?;
        ensure_same!(
            b.output().to_vec()?,
            twice(round, tp.size(), LEN),
            "round {round}"
        );
    }
    drop(a);
    // Others come and go, and do not get what the second still reads.
    for _ in 0..3 {
        let mut own = eager(&tp, 2 * LEN)?;
        let mut other = captured_sum(world, &graphs, &tp, &own)?;
        sums(&tp, &mut own, &mut other)?;
        b.output_mut().fill_zero()?;
        b.launch()?;
        ensure_same!(
            b.output().to_vec()?,
            twice(4, tp.size(), LEN),
            "without the first"
        );
    }
    drop(b);
    ensure_eq!(graphs.stats().live_bytes(), 0);
    Ok(())
}

fn another_pools_output_is_kept<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (first, second) = (GraphPool::new(world.pool()), GraphPool::new(world.pool()));
    let x = symm!(group = tp, { tp.from_slice(&part(3, tp.rank(), LEN))? })?;
    let mut a = captured_sum(world, &first, &tp, &x)?;
    let mut b = captured_sum(world, &second, &tp, a.output())?;
    a.launch()?;
    drop((a, first, x)); // the first pool's memory lives on in the second's graph
    for _ in 0..5 {
        b.output_mut().fill_zero()?;
        b.launch()?;
        ensure_same!(
            b.output().to_vec()?,
            twice(3, tp.size(), LEN),
            "of another pool"
        );
    }
    Ok(())
}

fn what_a_capture_did_not_use_is_free_after_it<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let mut x = eager(&tp, LEN)?;
    let mut stray = Some(eager(&tp, LEN)?);
    let address = stray.as_ref().map(|stray| stray.address());
    let mut graph = graphs.capture(world.stream(), |pass| {
        if pass == Pass::Capture {
            stray = None;
        }
        summed(&tp, &x)
    })?;
    ensure_eq!(graph.stats().leases, 1);
    ensure_eq!(
        Some(eager(&tp, LEN)?.address()),
        address,
        "handed out again"
    );
    sums(&tp, &mut x, &mut graph)
}

fn a_failed_capture_keeps_nothing<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let x = eager(&tp, LEN)?;
    let address = x.address();
    let outcome = graphs.capture(world.stream(), |pass| {
        let sum = summed(&tp, &x)?;
        match pass {
            Pass::Prime => Ok(sum),
            Pass::Capture => Err(disk_full()),
        }
    });
    ensure_matches!(outcome, Err(Error::Config { .. }));
    ensure_eq!((graphs.stats().graphs, graphs.stats().live_bytes()), (0, 0));
    drop(x);
    ensure_eq!(world.pool().stats().live_bytes(), 0);
    ensure_eq!(eager(&tp, LEN)?.address(), address);
    Ok(())
}
