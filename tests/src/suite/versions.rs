//! What NCCL's version decides in captures: symmetric kernels of 2.28.0 to 2.30.6 read too early
//! behind the kernel before them, so there a capture takes the ordinary ones unless told otherwise.

use symm_core::{
    Backend, GraphOptions, GraphPool, Pass, Path, ReduceOp, Result, World, bf16, plain, symm,
};

use super::steps::{Buffer, eager, part, paths, summed, sums, total};
use super::{Case, Outcome, Tp};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        the_path_of_a_capture_follows_the_version,
        an_override_takes_the_symmetric_path,
        every_symmetric_operation_follows,
        eager_calls_do_not_follow,
        ordinary_kernels_behind_exchanges,
    ]
}

const LEN: usize = 20_000;

fn the_path_of_a_capture_follows_the_version<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (now, captured) = paths(&tp)?;
    let graphs = GraphPool::new(world.pool());
    let mut x = eager(&tp, LEN)?;
    let mut told = Vec::new();
    let mut graph = graphs.capture(world.stream(), |pass| -> Result<_> {
        let mut sum = symm!(group = tp, { tp.empty(LEN)? })?;
        told.push((pass, tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?));
        Ok(sum)
    })?;
    ensure_eq!(told, [(Pass::Prime, now), (Pass::Capture, captured)]);
    ensure_eq!(graph.stats().calls[0].path, captured);
    sums(&tp, &mut x, &mut graph)
}

fn an_override_takes_the_symmetric_path<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (now, _) = paths(&tp)?;
    let graphs = GraphPool::with(world.pool(), GraphOptions::default().early_reads(true))?;
    let mut x = eager(&tp, LEN)?;
    let mut graph = graphs.capture(world.stream(), |_| summed(&tp, &x))?;
    ensure_eq!(graph.stats().calls[0].path, now);
    sums(&tp, &mut x, &mut graph)?;

    // Each reads what the one before it has just written: what an early read gets wrong.
    let mut y = symm!(group = tp, { tp.zeros::<f32>(LEN)? })?;
    let mut chain = graphs.capture(world.stream(), |_| -> Result<_> {
        let mut sums = symm!(group = tp, {
            (0..4)
                .map(|_| tp.empty(LEN))
                .collect::<Result<Vec<Buffer<B>>>>()?
        })?;
        sums[0].copy_from(plain(&y))?;
        for at in 1..4 {
            let (done, next) = sums.split_at_mut(at);
            tp.all_reduce(&done[at - 1], &mut next[0], ReduceOp::Sum)?;
        }
        Ok(sums)
    })?;
    ensure!(chain.stats().calls.iter().all(|call| call.path == now));
    let factor = (tp.size() * tp.size()) as f32;
    for round in 0..5 {
        y.copy_from_slice(&part(round, tp.rank(), LEN))?;
        chain.launch()?;
        let expected: Vec<f32> = total(round, tp.size(), LEN)
            .iter()
            .map(|sum| sum * factor)
            .collect();
        ensure_same!(chain.output()[3].to_vec()?, expected, "round {round}");
    }
    Ok(())
}

fn every_symmetric_operation_follows<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (_, captured) = paths(&tp)?;
    let graphs = GraphPool::new(world.pool());
    let (ranks, me) = (tp.size(), tp.rank());
    let mut x = symm!(group = tp, { tp.zeros::<bf16>(LEN * ranks)? })?;
    let mut graph = graphs.capture(world.stream(), |_| -> Result<_> {
        let (mut all, mut part) = symm!(group = tp, {
            (tp.empty::<bf16>(LEN * ranks)?, tp.empty::<bf16>(LEN)?)
        })?;
        tp.all_gather(x.view(0..LEN)?, &mut all)?;
        tp.reduce_scatter(&x, &mut part, ReduceOp::Sum)?;
        Ok((all, part))
    })?;
    let calls: Vec<Path> = graph.stats().calls.iter().map(|call| call.path).collect();
    ensure_eq!(calls, [captured; 2]);
    let data = |rank: usize| -> Vec<bf16> {
        let small = |i: usize| bf16::from_f32(((i * (rank + 3)) % 16) as f32);
        (0..LEN * ranks).map(small).collect()
    };
    x.copy_from_slice(&data(me))?;
    graph.launch()?;
    let (all, part) = graph.output();
    let heads: Vec<bf16> = (0..ranks)
        .flat_map(|rank| data(rank)[..LEN].to_vec())
        .collect();
    ensure_same!(all.to_vec()?, heads, "gathered");
    let sum = (0..ranks).fold(vec![bf16::ZERO; LEN], |sum, rank| {
        let part = data(rank)[me * LEN..][..LEN].to_vec();
        sum.iter().zip(part).map(|(sum, x)| *sum + x).collect()
    });
    ensure_same!(part.to_vec()?, sum, "scattered");
    Ok(())
}

fn eager_calls_do_not_follow<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (now, _) = paths(&tp)?;
    let graphs = GraphPool::new(world.pool());
    let mut x = eager(&tp, LEN)?;
    let mut graph = graphs.capture(world.stream(), |_| summed(&tp, &x))?;
    for round in 0..5 {
        x.copy_from_slice(&part(round, tp.rank(), LEN))?;
        graph.launch()?;
        // Right behind the graph's kernels, which wrote what it reads.
        let path = tp.all_reduce_in_place(graph.output_mut(), ReduceOp::Sum)?;
        ensure_eq!(path, now, "round {round}");
        let expected: Vec<f32> = total(round, tp.size(), LEN)
            .iter()
            .map(|sum| sum * tp.size() as f32)
            .collect();
        ensure_same!(graph.output().to_vec()?, expected, "round {round}");
    }
    Ok(())
}

/// As the case of this name about collectives, in captures and behind them.
fn ordinary_kernels_behind_exchanges<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let (len, ranks) = (1 << 21, tp.size());
    let mut x = symm!(group = tp, { tp.zeros::<f64>(len)? })?;
    let mut graph = graphs.capture(world.stream(), |_| -> Result<_> {
        let (mut y, mut z) = symm!(group = tp, { (tp.empty(len)?, tp.empty(len)?) })?;
        tp.all_to_all(&x, &mut y)?;
        tp.all_reduce(&y, &mut z, ReduceOp::Sum)?;
        Ok(z)
    })?;
    let sum = (0..ranks).sum::<usize>() as f64;
    for round in 1..4 {
        x.copy_from_slice(&vec![(round * tp.rank()) as f64; len])?;
        graph.launch()?;
        // Each rank had the same parts, from ranks 0, 1, ..
        let expected: Vec<f64> = (0..ranks)
            .flat_map(|rank| vec![(round * rank * ranks) as f64; len / ranks])
            .collect();
        ensure_same!(graph.output().to_vec()?, expected, "replay {round}");
        let mut y = symm!(group = tp, { tp.empty(len)? })?;
        tp.all_reduce(&x, &mut y, ReduceOp::Sum)?;
        ensure_same!(y.to_vec()?, vec![round as f64 * sum; len], "eager {round}");
    }
    Ok(())
}
