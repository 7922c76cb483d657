//! Streams: a buffer that several of them use is ordered, and so is memory that passes from one to
//! another.

use symm_core::{Backend, Error, ReduceOp, Result, World, plain, plain_mut, symm};

use super::data::{Rng, elements, reduced, summands};
use super::ranks::alike;
use super::{Case, Outcome, Tp};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        what_one_writes_another_reads,
        what_one_reads_another_does_not_overwrite,
        collectives_run_on_the_current_one,
        a_block_freed_behind_a_read_is_reused_elsewhere,
        a_block_freed_behind_a_write_is_reused_elsewhere,
        merged_blocks_wait_for_the_streams_of_all_parts,
        a_block_used_elsewhere_is_freed_at_home,
        ordinary_memory_is_freed_behind_its_uses,
        parts_of_a_buffer_are_used_at_once,
        there_may_be_many,
        they_nest,
        placement_does_not_depend_on_them,
    ]
}

/// Long enough that work is still under way when the next is enqueued.
const LEN: usize = 50_000;
const ROUNDS: u64 = 10;

fn what_one_writes_another_reads<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (a, b) = (world.new_stream()?, world.new_stream()?);
    let mut x = symm!(group = tp, { tp.zeros::<u64>(LEN)? })?;
    for round in 0..ROUNDS {
        let data = elements(round, tp.rank(), LEN);
        let on_a = world.on_stream(&a)?;
        x.copy_from_slice(&data)?;
        on_a.end()?;
        let on_b = world.on_stream(&b)?;
        ensure_same!(x.to_vec()?, data, "round {round}");
        on_b.end()?;
    }
    Ok(())
}

fn what_one_reads_another_does_not_overwrite<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (a, b) = (world.new_stream()?, world.new_stream()?);
    let (mut x, mut y) = symm!(group = tp, {
        (tp.zeros::<u64>(LEN)?, tp.zeros::<u64>(LEN)?)
    })?;
    for round in 0..ROUNDS {
        x.copy_from_slice(&elements(round, tp.rank(), LEN))?;
        let on_a = world.on_stream(&a)?;
        tp.broadcast(&x, &mut y, 0)?;
        on_a.end()?;
        let on_b = world.on_stream(&b)?;
        x.fill_zero()?;
        on_b.end()?;
        ensure_same!(y.to_vec()?, elements(round, 0, LEN), "round {round}");
    }
    Ok(())
}

fn collectives_run_on_the_current_one<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let streams = [
        world.stream().clone(),
        world.new_stream()?,
        world.new_stream()?,
    ];
    let parts = summands::<f32>(ReduceOp::Sum, tp.size(), LEN);
    let mut x = symm!(group = tp, { tp.from_slice(&parts[tp.rank()])? })?;
    tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    for round in 0..ROUNDS as usize {
        // Each needs what the one before it did on another stream.
        let _on = world.on_stream(&streams[round % streams.len()])?;
        tp.all_reduce_in_place(&mut x, ReduceOp::Max)?;
        let mut y = symm!(group = tp, { tp.empty::<f32>(LEN)? })?;
        tp.broadcast(&x, &mut y, round % tp.size())?;
        std::mem::swap(&mut x, &mut y);
    }
    ensure_same!(
        x.to_vec()?,
        reduced(ReduceOp::Sum, &parts),
        "after all rounds"
    );
    Ok(())
}

fn a_block_freed_behind_a_read_is_reused_elsewhere<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (a, b) = (world.new_stream()?, world.new_stream()?);
    for round in 0..ROUNDS {
        let on_a = world.on_stream(&a)?;
        let (x, mut sum) = symm!(group = tp, {
            (tp.from_slice(&[1.0f32; LEN])?, tp.empty::<f32>(LEN)?)
        })?;
        tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?;
        let address = x.address();
        drop(x); // the collective has yet to read it
        on_a.end()?;
        let on_b = world.on_stream(&b)?;
        let y = symm!(group = tp, { tp.from_slice(&[50.0f32; LEN])? })?;
        ensure_eq!(
            y.address(),
            address,
            "the same block, for which the stream waits"
        );
        on_b.end()?;
        ensure_same!(
            sum.to_vec()?,
            vec![tp.size() as f32; LEN],
            "the sum of round {round}"
        );
        ensure_same!(y.to_vec()?, [50.0; LEN], "the next owner's data");
    }
    Ok(())
}

fn a_block_freed_behind_a_write_is_reused_elsewhere<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (a, b) = (world.new_stream()?, world.new_stream()?);
    for round in 0..ROUNDS {
        let on_a = world.on_stream(&a)?;
        let mut x = symm!(group = tp, { tp.from_slice(&[1.0f32; LEN])? })?;
        tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
        drop(x); // the collective has yet to write it
        on_a.end()?;
        let _on_b = world.on_stream(&b)?;
        let data = elements::<f32>(round, tp.rank(), LEN);
        let y = symm!(group = tp, { tp.from_slice(&data)? })?;
        ensure_same!(y.to_vec()?, data, "round {round}");
    }
    Ok(())
}

fn merged_blocks_wait_for_the_streams_of_all_parts<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let streams = [
        world.new_stream()?,
        world.new_stream()?,
        world.new_stream()?,
    ];
    for round in 0..ROUNDS {
        let mut parts = Vec::new();
        for stream in &streams {
            let _on = world.on_stream(stream)?;
            let mut part = symm!(group = tp, { tp.from_slice(&[1.0f32; LEN])? })?;
            tp.all_reduce_in_place(&mut part, ReduceOp::Sum)?;
            parts.push(part);
        }
        let address = parts[0].address();
        drop(parts); // three neighbours, each still to be written on a stream of its own
        let data = elements::<f32>(round, tp.rank(), 3 * LEN);
        let whole = symm!(group = tp, { tp.from_slice(&data)? })?;
        ensure_eq!(whole.address(), address);
        ensure_same!(whole.to_vec()?, data, "round {round}");
    }
    Ok(())
}

fn a_block_used_elsewhere_is_freed_at_home<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let side = world.new_stream()?;
    let mut sum = symm!(group = tp, { tp.zeros::<f32>(LEN)? })?;
    for round in 0..ROUNDS {
        let x = symm!(group = tp, { tp.from_slice(&[2.0f32; LEN])? })?;
        let on_side = world.on_stream(&side)?;
        tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?;
        on_side.end()?;
        drop(x); // freed on the world's stream, read on the other
        let _y = symm!(group = tp, { tp.from_slice(&[50.0f32; LEN])? })?;
        ensure_same!(
            sum.to_vec()?,
            vec![2.0 * tp.size() as f32; LEN],
            "round {round}"
        );
    }
    Ok(())
}

fn ordinary_memory_is_freed_behind_its_uses<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let side = world.new_stream()?;
    let mut sum = world.pool().zeros::<f32>(LEN)?;
    for round in 0..ROUNDS {
        let x = world.pool().from_slice(&[3.0f32; LEN])?;
        let on_side = world.on_stream(&side)?;
        tp.all_reduce(plain(&x), plain_mut(&mut sum), ReduceOp::Sum)?;
        on_side.end()?;
        drop(x);
        let _y = world.pool().from_slice(&[50.0f32; LEN])?;
        ensure_same!(
            sum.to_vec()?,
            vec![3.0 * tp.size() as f32; LEN],
            "round {round}"
        );
    }
    Ok(())
}

fn parts_of_a_buffer_are_used_at_once<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let side = world.new_stream()?;
    let parts = summands::<f32>(ReduceOp::Sum, tp.size(), 2 * LEN);
    let mut x = symm!(group = tp, { tp.from_slice(&parts[tp.rank()])? })?;
    let (low, mut high) = x.split_at_mut(LEN)?;
    tp.all_reduce_in_place(low, ReduceOp::Sum)?;
    let on_side = world.on_stream(&side)?;
    tp.all_reduce_in_place(&mut high, ReduceOp::Sum)?;
    high.view_mut(5..10)?.fill_zero()?;
    on_side.end()?;
    let mut expected = reduced(ReduceOp::Sum, &parts);
    expected[LEN + 5..LEN + 10].fill(0.0);
    ensure_same!(x.to_vec()?, expected, "both halves");
    Ok(())
}

fn there_may_be_many<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    // More than an arena tells apart.
    let streams = (0..70)
        .map(|_| world.new_stream())
        .collect::<Result<Vec<_>>>()?;
    let len = 10_000;
    let mut sum = symm!(group = tp, { tp.zeros::<f32>(len)? })?;
    for round in 0..3 {
        for (i, stream) in streams.iter().enumerate() {
            let _on = world.on_stream(stream)?;
            let x = symm!(group = tp, { tp.from_slice(&vec![i as f32; len])? })?;
            tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?;
            if i % 23 == 0 {
                ensure_same!(
                    sum.to_vec()?,
                    vec![(i * tp.size()) as f32; len],
                    "round {round}, stream {i}"
                );
            }
        }
    }
    ensure_same!(
        sum.to_vec()?,
        vec![69.0 * tp.size() as f32; len],
        "the last sum"
    );
    Ok(())
}

fn they_nest<B: Backend>(world: &World<B>) -> Outcome {
    let (a, b) = (world.new_stream()?, world.new_stream()?);
    let on_a = world.on_stream(&a)?;
    let on_b = world.on_stream(&b)?;
    let x = world.pool().from_slice(&[1u8; 1000])?;
    on_b.end()?;
    let y = world.pool().from_slice(&[2u8; 1000])?;
    on_a.end()?;
    ensure_eq!((x.to_vec()?, y.to_vec()?), (vec![1; 1000], vec![2; 1000]));
    let outer = world.on_stream(&a)?;
    let inner = world.on_stream(&b)?;
    ensure_matches!(outer.end(), Err(Error::ScopeOrder { .. }));
    drop(inner);
    world.synchronize()?;
    Ok(())
}

fn placement_does_not_depend_on_them<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let streams = [
        world.new_stream()?,
        world.new_stream()?,
        world.new_stream()?,
    ];
    let (mut program, mut own) = (Rng::new(5), Rng::new(world.rank() as u64));
    let mut live = Vec::new();
    for _ in 0..100 {
        // Each rank on the streams it likes: its blocks wait for other streams than a peer's, and
        // lie in the same place.
        let _on = world.on_stream(&streams[own.below(3)])?;
        live.push(symm!(group = tp, {
            tp.zeros::<u8>(1 + program.below(100_000))?
        })?);
        if program.below(2) == 0 {
            live.swap_remove(program.below(live.len()));
        }
    }
    let digest = world.pool().stats().arenas[0].digest;
    alike(world, &tp, &[digest], "placements")
}
