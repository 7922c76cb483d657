//! Several operations in one NCCL group.

use symm_core::{Backend, Error, Path, Reason, ReduceOp, Result, World, plain, plain_mut, symm};

use super::data::{elements, reduced, summands};
use super::{Case, Outcome, Tp};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        a_ring_of_sends,
        all_pairs_with_lengths_of_their_own,
        to_itself,
        several_collectives,
        symmetric_and_plain_in_one,
        nothing_runs_before_the_launch,
        one_bad_call_stops_all,
        may_be_empty,
    ]
}

fn a_ring_of_sends<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (next, last) = (
        (tp.rank() + 1) % tp.size(),
        (tp.rank() + tp.size() - 1) % tp.size(),
    );
    for len in [1, 513, (1 << 18) + 1] {
        let mine: Vec<f32> = elements(1, tp.rank(), len);
        let (src, mut dst) = symm!(group = tp, {
            (tp.from_slice(&mine)?, tp.zeros::<f32>(len)?)
        })?;
        let mut ring = tp.batch();
        ring.send(&src, next).recv(&mut dst, last);
        ring.launch()?;
        ensure_same!(
            dst.to_vec()?,
            elements(1, last, len),
            "{len} around the ring"
        );
    }
    Ok(())
}

fn all_pairs_with_lengths_of_their_own<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (ranks, me) = (tp.size(), tp.rank());
    let len = |from: usize, to: usize| 1 + 37 * from + 101 * to;
    let data =
        |from: usize, to: usize| elements::<u64>((from * ranks + to) as u64, 0, len(from, to));
    let sources = (0..ranks)
        .map(|peer| world.pool().from_slice(&data(me, peer)))
        .collect::<Result<Vec<_>>>()?;
    let mut sinks = (0..ranks)
        .map(|peer| world.pool().zeros::<u64>(len(peer, me)))
        .collect::<Result<Vec<_>>>()?;
    let mut pairs = tp.batch();
    for (peer, (source, sink)) in sources.iter().zip(&mut sinks).enumerate() {
        pairs.send(plain(source), peer).recv(plain_mut(sink), peer);
    }
    let paths = pairs.launch()?;
    ensure_eq!(paths, vec![Path::Plain(Reason::NoKernel); 2 * ranks]);
    for (peer, sink) in sinks.iter().enumerate() {
        ensure_same!(sink.to_vec()?, data(peer, me), "from {peer}");
    }
    Ok(())
}

fn to_itself<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mine: Vec<i8> = elements(2, tp.rank(), 77);
    let (src, mut dst) = symm!(group = tp, { (tp.from_slice(&mine)?, tp.zeros::<i8>(77)?) })?;
    let mut batch = tp.batch();
    batch.recv(&mut dst, tp.rank()).send(&src, tp.rank());
    batch.launch()?;
    ensure_same!(dst.to_vec()?, mine, "what a rank sent to itself");
    Ok(())
}

fn several_collectives<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (ranks, me, len) = (tp.size(), tp.rank(), 501);
    let parts = summands::<f32>(ReduceOp::Sum, ranks, len * ranks);
    let sum = reduced(ReduceOp::Sum, &parts);
    let (src, mut reduced_all, mut scattered, mut gathered, mut cast, mut in_place) =
        symm!(group = tp, {
            let src = tp.from_slice(&parts[me])?;
            let cast = tp.from_slice::<f32>(&elements(3, me, 9))?;
            (
                src,
                tp.zeros(len * ranks)?,
                tp.zeros(len)?,
                tp.zeros(len * ranks)?,
                cast,
                tp.from_slice(&parts[me])?,
            )
        })?;
    let mut batch = tp.batch();
    batch.all_reduce(&src, &mut reduced_all, ReduceOp::Sum);
    batch.reduce_scatter(&src, &mut scattered, ReduceOp::Sum);
    batch.all_gather(src.view(0..len)?, &mut gathered);
    batch.broadcast_in_place(&mut cast, ranks - 1);
    batch.all_reduce_in_place(&mut in_place, ReduceOp::Sum);
    ensure_eq!(batch.launch()?.len(), 5);
    ensure_same!(reduced_all.to_vec()?, sum, "all_reduce");
    ensure_same!(
        scattered.to_vec()?,
        sum[me * len..][..len],
        "reduce_scatter"
    );
    ensure_same!(
        gathered.to_vec()?,
        parts
            .iter()
            .flat_map(|part| part[..len].to_vec())
            .collect::<Vec<_>>(),
        "all_gather"
    );
    ensure_same!(cast.to_vec()?, elements(3, ranks - 1, 9), "broadcast");
    ensure_same!(in_place.to_vec()?, sum, "all_reduce in place");
    Ok(())
}

fn symmetric_and_plain_in_one<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let ranks = world.size() as f32;
    let mut symmetric = symm!(group = tp, { tp.from_slice(&[1.0f32; 100])? })?;
    let mut ordinary = world.pool().from_slice(&[2.0f32; 100])?;
    let mut batch = tp.batch();
    batch.all_reduce_in_place(&mut symmetric, ReduceOp::Sum);
    batch.all_reduce_in_place(plain_mut(&mut ordinary), ReduceOp::Sum);
    let paths = batch.launch()?;
    ensure_eq!(paths[1], Path::Plain(Reason::Foreign));
    ensure_same!(symmetric.to_vec()?, [ranks; 100], "symmetric memory");
    ensure_same!(ordinary.to_vec()?, [2.0 * ranks; 100], "ordinary memory");
    Ok(())
}

fn nothing_runs_before_the_launch<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut x = symm!(group = tp, { tp.from_slice(&[1.0f32; 8])? })?;
    let mut batch = tp.batch();
    batch.all_reduce_in_place(&mut x, ReduceOp::Sum);
    drop(batch);
    ensure_same!(x.to_vec()?, [1.0; 8], "after a batch that was dropped");
    Ok(())
}

fn one_bad_call_stops_all<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (mut x, y, mut z) = symm!(group = tp, {
        (
            tp.from_slice(&[1i32; 8])?,
            tp.zeros::<i32>(8)?,
            tp.zeros::<i32>(8)?,
        )
    })?;
    let mut batch = tp.batch();
    batch.all_reduce_in_place(&mut x, ReduceOp::Sum);
    batch.all_gather(&y, &mut z);
    ensure_matches!(
        batch.launch(),
        Err(Error::Length { what, .. }) if what.starts_with("all_gather")
    );
    ensure_same!(x.to_vec()?, [1; 8], "the good call's buffer");
    tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    ensure_same!(x.to_vec()?, [tp.size() as i32; 8], "the next call");
    Ok(())
}

fn may_be_empty<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    ensure_eq!(tp.batch().launch()?, vec![]);
    Ok(())
}
