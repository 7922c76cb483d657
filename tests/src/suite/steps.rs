//! Steps that several concepts capture, and what they must give.

use symm_core::{
    Backend, Element, Error, Graph, GraphOptions, GraphPool, Group, GroupTag, Need, Path, Reason,
    ReduceOp, Result, SymmBuf, World, plain, symm,
};

use super::data::Rng;
use super::{Outcome, Tp, nccl};

pub(super) const MIB: u64 = 1 << 20;

/// A buffer of the group of most cases.
pub(super) type Buffer<B> = SymmBuf<f32, Tp, B>;

/// Whole numbers that one rank puts into a sum; `round` tells one launch's from another's.
pub(super) fn part(round: u64, rank: usize, len: usize) -> Vec<f32> {
    let mut rng = Rng::new(round << 16 | rank as u64);
    (0..len).map(|_| rng.below(1000) as f32).collect()
}

/// The sum of the ranks' parts.
pub(super) fn total(round: u64, ranks: usize, len: usize) -> Vec<f32> {
    let parts = (0..ranks).map(|rank| part(round, rank, len));
    parts.fold(vec![0.0; len], |sum, part| {
        sum.iter().zip(part).map(|(sum, x)| sum + x).collect()
    })
}

/// The sum over the ranks of the sum over the ranks.
pub(super) fn twice(round: u64, ranks: usize, len: usize) -> Vec<f32> {
    let sum = total(round, ranks, len).into_iter();
    sum.map(|x| x * ranks as f32).collect()
}

/// An error of the step's own.
pub(super) fn disk_full() -> Error {
    let what = "disk full".into();
    Error::Config { what }
}

/// A buffer of the group, outside of captures.
pub(super) fn eager<B: Backend>(tp: &Group<Tp, B>, len: usize) -> Result<Buffer<B>> {
    symm!(group = tp, { tp.zeros(len)? })
}

/// The step of most cases: a sum of the ranks' `x`, by way of a temporary.
pub(super) fn summed<B: Backend>(tp: &Group<Tp, B>, x: &Buffer<B>) -> Result<Buffer<B>> {
    let mut temporary = symm!(group = tp, { tp.empty(x.len())? })?;
    let mut sum = symm!(group = tp, { tp.empty(x.len())? })?;
    tp.all_reduce(x, &mut temporary, ReduceOp::Sum)?;
    sum.copy_from(plain(&temporary))?;
    Ok(sum)
}

/// That step, captured.
pub(super) fn captured_sum<B: Backend>(
    world: &World<B>,
    graphs: &GraphPool<B>,
    tp: &Group<Tp, B>,
    x: &Buffer<B>,
) -> Result<Graph<Buffer<B>, B>> {
    graphs.capture(world.stream(), |_| summed(tp, x))
}

/// The same without a prime. The step runs once before it, outside, as NCCL wants.
pub(super) fn reserved_sum<B: Backend>(
    world: &World<B>,
    graphs: &GraphPool<B>,
    tp: &Group<Tp, B>,
    x: &Buffer<B>,
) -> Result<Graph<Buffer<B>, B>> {
    warm(tp, x.len())?;
    let need = Need::new().group(tp, 2 * MIB);
    graphs.capture_reserved(&need, world.stream(), |_| summed(tp, x))
}

/// Runs an operation once outside of captures: NCCL sets up the rest at its first use.
pub(super) fn warm<B: Backend>(tp: &Group<Tp, B>, len: usize) -> Result<()> {
    let x = eager(tp, len)?;
    summed(tp, &x)?.to_vec().map(drop)
}

/// Fails unless the graph sums what is in `x`, for several launches.
pub(super) fn sums<B: Backend>(
    tp: &Group<Tp, B>,
    x: &mut Buffer<B>,
    graph: &mut Graph<Buffer<B>, B>,
) -> Outcome {
    for round in 0..4 {
        x.copy_from_slice(&part(round, tp.rank(), x.len()))?;
        graph.launch()?;
        ensure_same!(
            graph.output().to_vec()?,
            total(round, tp.size(), x.len()),
            "launch {round}"
        );
    }
    Ok(())
}

/// Fails unless nothing is left of a capture that did not come to its end, and the thread, the
/// stream, the group and the pool are as usable as before.
pub(super) fn usable<B: Backend>(
    world: &World<B>,
    graphs: &GraphPool<B>,
    tp: &Group<Tp, B>,
) -> Outcome {
    let stats = graphs.stats();
    ensure_eq!((stats.graphs, stats.live_bytes()), (0, 0), "left behind");
    ensure!(
        !symm_core::Buf::<u8, B>::empty(1)?.is_symmetric(),
        "a scope was left open"
    );
    world.synchronize()?;
    let mut x = eager(tp, 300)?;
    let mut again = captured_sum(world, graphs, tp, &x)?;
    sums(tp, &mut x, &mut again)
}

/// Where the buffer lies in its arena.
pub(super) fn place<T: Element, G: GroupTag, B: Backend>(
    buf: &SymmBuf<T, G, B>,
) -> Outcome<[u64; 2]> {
    let position = buf.position();
    ensure!(position.is_some(), "ordinary memory has no place");
    Ok(position.map_or([0; 2], |position| {
        [position.segment as u64, position.offset]
    }))
}

/// The path of a sum in windows, now and in a capture. Only a machine can take the first away.
pub(super) fn paths<B: Backend>(tp: &Group<Tp, B>) -> Result<(Path, Path)> {
    let mut x = eager(tp, 64)?;
    let now = tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    let captured = match now {
        Path::Symmetric if reads_early() => Path::Plain(Reason::Defect),
        path => path,
    };
    Ok((now, captured))
}

/// Whether this NCCL's symmetric kernels read too early behind programmatic launches.
pub(super) fn reads_early() -> bool {
    (22_800..23_007).contains(&nccl())
}

/// Whether this NCCL registers windows in a capture.
pub(super) fn registers_in_captures() -> bool {
    nccl() >= 23_006
}

/// A pool whose captures may grow.
pub(super) fn growing<B: Backend>(world: &World<B>) -> Result<GraphPool<B>> {
    GraphPool::with(world.pool(), GraphOptions::default().growth(true))
}
