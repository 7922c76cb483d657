//! Every collective, out of place and in place, against the CPU.

use symm_core::{
    Backend, Group, Path, Reason, ReduceOp, Result, SymmBuf, World, plain, plain_mut, symm,
};

use super::data::{Number, REDUCTIONS, elements, reduced, summands};
use super::{Case, Outcome, Tp};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        all_reduce,
        all_reduce_in_place,
        all_gather,
        all_gather_in_place,
        reduce_scatter,
        reduce_scatter_in_place,
        broadcast,
        broadcast_in_place,
        reduce,
        reduce_in_place,
        all_to_all,
        gather,
        scatter,
        send_and_recv,
        large_all_reduce,
        large_all_gather,
        large_reduce_scatter,
        large_all_to_all,
        ordinary_kernels_behind_exchanges,
        operands_of_other_ranks_may_have_any_length,
        nothing_to_move_is_no_error,
        follow_each_other_without_waiting,
        work_inside_the_scope,
    ]
}

/// Multiples of nothing, and both sides of the sizes at which kernels change their ways.
const LENGTHS: [usize; 9] = [1, 2, 3, 17, 127, 128, 1000, 4097, 10_007];
/// Of `f32`: just over 1 MiB, and over 2.
const LARGE: [usize; 2] = [(1 << 18) + 3, (1 << 19) + 129];

/// What lies in destinations before: no collective may leave it there.
fn stale<T: Number>(len: usize) -> Vec<T> {
    elements(0x57A1E, 0, len)
}

/// The group of all ranks, a source with `src`, and a destination of `dst` stale elements.
fn operands<T: Number, B: Backend>(
    tp: &Group<Tp, B>,
    src: &[T],
    dst: usize,
) -> Result<(SymmBuf<T, Tp, B>, SymmBuf<T, Tp, B>)> {
    symm!(group = tp, {
        (tp.from_slice(src)?, tp.from_slice(&stale(dst))?)
    })
}

/// The parts of all ranks one after another.
fn joined<T: Number>(seed: u64, ranks: usize, len: usize) -> Vec<T> {
    (0..ranks)
        .flat_map(|rank| elements(seed, rank, len))
        .collect()
}

/// Every root with every length.
fn roots_and_lengths<B: Backend>(
    tp: &Group<Tp, B>,
) -> impl Iterator<Item = (usize, usize)> + use<B> {
    (0..tp.size()).flat_map(|root| LENGTHS.map(|len| (root, len)))
}

fn reduces_all<B: Backend>(tp: &Group<Tp, B>, op: ReduceOp, len: usize) -> Outcome {
    let parts = summands::<f32>(op, tp.size(), len);
    let (src, mut dst) = operands(tp, &parts[tp.rank()], len)?;
    tp.all_reduce(&src, &mut dst, op)?;
    ensure_same!(dst.to_vec()?, reduced(op, &parts), "{op:?} of {len}");
    ensure_same!(src.to_vec()?, parts[tp.rank()], "the source");
    Ok(())
}

fn gathers_all<B: Backend>(tp: &Group<Tp, B>, len: usize) -> Outcome {
    let (src, mut dst) = operands::<f32, B>(tp, &elements(1, tp.rank(), len), len * tp.size())?;
    tp.all_gather(&src, &mut dst)?;
    ensure_same!(
        dst.to_vec()?,
        joined(1, tp.size(), len),
        "{len} of each rank"
    );
    Ok(())
}

fn reduces_and_scatters<B: Backend>(tp: &Group<Tp, B>, op: ReduceOp, len: usize) -> Outcome {
    let parts = summands::<f32>(op, tp.size(), len * tp.size());
    let (src, mut dst) = operands(tp, &parts[tp.rank()], len)?;
    tp.reduce_scatter(&src, &mut dst, op)?;
    ensure_same!(
        dst.to_vec()?,
        reduced(op, &parts)[tp.rank() * len..][..len],
        "{op:?} of {len}"
    );
    ensure_same!(src.to_vec()?, parts[tp.rank()], "the source");
    Ok(())
}

fn exchanges_all<B: Backend>(tp: &Group<Tp, B>, len: usize) -> Outcome {
    let (ranks, me) = (tp.size(), tp.rank());
    let (src, mut dst) = operands::<f32, B>(tp, &elements(2, me, len * ranks), len * ranks)?;
    tp.all_to_all(&src, &mut dst)?;
    let expected: Vec<f32> = (0..ranks)
        .flat_map(|rank| elements::<f32>(2, rank, len * ranks)[me * len..][..len].to_vec())
        .collect();
    ensure_same!(dst.to_vec()?, expected, "{len} of each rank");
    Ok(())
}

fn all_reduce<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split(0, 0)?;
    LENGTHS.iter().try_for_each(|&len| {
        REDUCTIONS
            .iter()
            .try_for_each(|&op| reduces_all(&tp, op, len))
    })
}

fn all_reduce_in_place<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    for len in LENGTHS {
        for op in REDUCTIONS {
            let parts = summands::<f32>(op, tp.size(), len);
            let mut x = symm!(group = tp, { tp.from_slice(&parts[tp.rank()])? })?;
            tp.all_reduce_in_place(&mut x, op)?;
            ensure_same!(x.to_vec()?, reduced(op, &parts), "{op:?} of {len}");
        }
    }
    Ok(())
}

fn all_gather<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split(0, 0)?;
    LENGTHS.iter().try_for_each(|&len| gathers_all(&tp, len))
}

fn all_gather_in_place<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    for len in LENGTHS {
        let mut x = symm!(group = tp, {
            tp.from_slice::<f32>(&stale(len * tp.size()))?
        })?;
        x.view_mut(tp.rank() * len..(tp.rank() + 1) * len)?
            .copy_from_slice(&elements(1, tp.rank(), len))?;
        tp.all_gather_in_place(&mut x)?;
        ensure_same!(x.to_vec()?, joined(1, tp.size(), len), "{len} of each rank");
    }
    Ok(())
}

fn reduce_scatter<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split(0, 0)?;
    LENGTHS.iter().try_for_each(|&len| {
        REDUCTIONS
            .iter()
            .try_for_each(|&op| reduces_and_scatters(&tp, op, len))
    })
}

fn reduce_scatter_in_place<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    for len in LENGTHS {
        for op in REDUCTIONS {
            let parts = summands::<f32>(op, tp.size(), len * tp.size());
            let mine = tp.rank() * len..(tp.rank() + 1) * len;
            let mut x = symm!(group = tp, { tp.from_slice(&parts[tp.rank()])? })?;
            let (part, _) = tp.reduce_scatter_in_place(&mut x, op)?;
            let expected = &reduced(op, &parts)[mine.clone()];
            ensure_same!(part.as_view().to_vec()?, expected, "{op:?} of {len}");
            let mut whole = parts[tp.rank()].clone();
            whole[mine].copy_from_slice(expected);
            ensure_same!(x.to_vec()?, whole, "the rest of the buffer");
        }
    }
    Ok(())
}

fn broadcast<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    for (root, len) in roots_and_lengths(&tp) {
        let mine = elements::<f32>(3, tp.rank(), len);
        let (src, mut dst) = operands(&tp, &mine, len)?;
        tp.broadcast(&src, &mut dst, root)?;
        ensure_same!(dst.to_vec()?, elements(3, root, len), "{len} from {root}");
        ensure_same!(src.to_vec()?, mine, "the source");
    }
    Ok(())
}

fn broadcast_in_place<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    for (root, len) in roots_and_lengths(&tp) {
        let mut x = symm!(group = tp, {
            tp.from_slice::<f32>(&elements(3, tp.rank(), len))?
        })?;
        tp.broadcast_in_place(&mut x, root)?;
        ensure_same!(x.to_vec()?, elements(3, root, len), "{len} from {root}");
    }
    Ok(())
}

fn reduce<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    for (root, len) in roots_and_lengths(&tp) {
        for op in REDUCTIONS {
            let parts = summands::<f32>(op, tp.size(), len);
            let (src, mut dst) = operands(&tp, &parts[tp.rank()], len)?;
            tp.reduce(&src, &mut dst, op, root)?;
            let expected = if tp.rank() == root {
                reduced(op, &parts)
            } else {
                stale(len)
            };
            ensure_same!(dst.to_vec()?, expected, "{op:?} of {len} on {root}");
        }
    }
    Ok(())
}

fn reduce_in_place<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    for (root, len) in roots_and_lengths(&tp) {
        let parts = summands::<f32>(ReduceOp::Sum, tp.size(), len);
        let mut x = symm!(group = tp, { tp.from_slice(&parts[tp.rank()])? })?;
        tp.reduce_in_place(&mut x, ReduceOp::Sum, root)?;
        let expected = if tp.rank() == root {
            &reduced(ReduceOp::Sum, &parts)
        } else {
            &parts[tp.rank()]
        };
        ensure_same!(x.to_vec()?, expected, "{len} on {root}");
    }
    Ok(())
}

fn all_to_all<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split(0, 0)?;
    LENGTHS.iter().try_for_each(|&len| exchanges_all(&tp, len))
}

fn gather<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    for (root, len) in roots_and_lengths(&tp) {
        let total = len * tp.size();
        let (src, mut dst) = operands::<f32, B>(&tp, &elements(4, tp.rank(), len), total)?;
        tp.gather(&src, &mut dst, root)?;
        let expected = if tp.rank() == root {
            joined(4, tp.size(), len)
        } else {
            stale(total)
        };
        ensure_same!(dst.to_vec()?, expected, "{len} of each rank on {root}");
    }
    Ok(())
}

fn scatter<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    for (root, len) in roots_and_lengths(&tp) {
        let total = len * tp.size();
        let (src, mut dst) = operands::<f32, B>(&tp, &elements(5, tp.rank(), total), len)?;
        tp.scatter(&src, &mut dst, root)?;
        let expected = &elements::<f32>(5, root, total)[tp.rank() * len..][..len];
        ensure_same!(dst.to_vec()?, expected, "{len} for each rank from {root}");
    }
    Ok(())
}

fn send_and_recv<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    for len in LENGTHS {
        let (src, mut dst) = operands::<f32, B>(&tp, &elements(6, tp.rank(), len), len)?;
        // Down the line, so that every rank but the first waits for its predecessor.
        if tp.rank() > 0 {
            tp.recv(&mut dst, tp.rank() - 1)?;
            ensure_same!(
                dst.to_vec()?,
                elements(6, tp.rank() - 1, len),
                "{len} received"
            );
        }
        if tp.rank() + 1 < tp.size() {
            tp.send(&src, tp.rank() + 1)?;
        }
    }
    Ok(())
}

fn large_all_reduce<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split(0, 0)?;
    LARGE
        .iter()
        .try_for_each(|&len| reduces_all(&tp, ReduceOp::Sum, len))
}

fn large_all_gather<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split(0, 0)?;
    LARGE.iter().try_for_each(|&len| gathers_all(&tp, len))
}

fn large_reduce_scatter<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split(0, 0)?;
    LARGE
        .iter()
        .try_for_each(|&len| reduces_and_scatters(&tp, ReduceOp::Sum, len))
}

fn large_all_to_all<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split(0, 0)?;
    LARGE.iter().try_for_each(|&len| exchanges_all(&tp, len))
}

/// Before 2.29.2 NCCL's ordinary kernels fail on memory in a window that was sent or received before
/// (`EXCHANGE_FIRST`). Only large calls take the kernels that do.
fn ordinary_kernels_behind_exchanges<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (len, ranks, me) = (1 << 21, tp.size(), tp.rank());
    let (mut x, mut y) = operands::<f64, B>(&tp, &vec![me as f64; len], len)?;
    tp.all_to_all(&x, &mut y)?;
    let mut last: Vec<f64> = (0..ranks)
        .flat_map(|rank| vec![rank as f64; len / ranks])
        .collect();
    ensure_same!(y.to_vec()?, last, "exchanged");

    let (next, before) = ((me + 1) % ranks, (me + ranks - 1) % ranks);
    let mut ring = tp.batch();
    ring.send(&x, next).recv(&mut y, before);
    ring.launch()?;
    ensure_same!(
        y.to_vec()?,
        vec![before as f64; len],
        "from the rank before"
    );

    let sum = (0..ranks).sum::<usize>() as f64;
    for op in [ReduceOp::Sum, ReduceOp::Max] {
        let path = tp.all_reduce(&x, &mut y, op)?;
        ensure_eq!(path, Path::Plain(Reason::NoKernel));
        last.fill(match op {
            ReduceOp::Sum => sum,
            _ => (ranks - 1) as f64,
        });
        ensure_same!(y.to_vec()?, last, "{op:?}");
    }
    tp.broadcast_in_place(&mut x, ranks - 1)?;
    ensure_same!(x.to_vec()?, vec![(ranks - 1) as f64; len], "broadcast");
    Ok(())
}

fn operands_of_other_ranks_may_have_any_length<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (len, root) = (100, tp.size() - 1);
    // What only the root needs lies outside the arena, where lengths may differ by rank.
    let on_root = |len: usize| if tp.rank() == root { len } else { 1 };
    let mut part = symm!(group = tp, {
        tp.from_slice::<i32>(&elements(7, tp.rank(), len))?
    })?;
    let mut all = world.pool().zeros::<i32>(on_root(len * tp.size()))?;
    tp.gather(&part, plain_mut(&mut all), root)?;
    part.fill_zero()?;
    tp.scatter(plain(&all), &mut part, root)?;
    ensure_same!(
        part.to_vec()?,
        elements(7, tp.rank(), len),
        "gathered and scattered"
    );

    let one = world.pool().from_slice(&vec![9i32; on_root(len)])?;
    tp.broadcast(plain(&one), &mut part, root)?;
    ensure_same!(part.to_vec()?, vec![9; len], "broadcast");
    let mut sum = world.pool().zeros::<i32>(on_root(len))?;
    tp.reduce(&part, plain_mut(&mut sum), ReduceOp::Sum, root)?;
    let expected = if tp.rank() == root {
        vec![9 * tp.size() as i32; len]
    } else {
        vec![0]
    };
    ensure_same!(sum.to_vec()?, expected, "reduced");
    Ok(())
}

fn nothing_to_move_is_no_error<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (src, mut dst) = symm!(group = tp, { (tp.empty::<f32>(0)?, tp.empty::<f32>(0)?) })?;
    let paths = [
        tp.all_reduce(&src, &mut dst, ReduceOp::Sum)?,
        tp.all_gather(&src, &mut dst)?,
        tp.reduce_scatter(&src, &mut dst, ReduceOp::Sum)?,
        tp.broadcast(&src, &mut dst, 0)?,
        tp.reduce(&src, &mut dst, ReduceOp::Sum, 0)?,
        tp.all_to_all(&src, &mut dst)?,
        tp.gather(&src, &mut dst, 0)?,
        tp.scatter(&src, &mut dst, 0)?,
        tp.send(&src, 0)?,
        tp.recv(&mut dst, 0)?,
    ];
    ensure_eq!(paths, [Path::Plain(Reason::Empty); 10]);
    Ok(())
}

fn follow_each_other_without_waiting<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (ranks, len) = (tp.size(), 300);
    let (mut part, mut whole) = symm!(group = tp, {
        (
            tp.from_slice(&vec![1.0f32; len])?,
            tp.zeros::<f32>(len * ranks)?,
        )
    })?;
    // Ranks drift apart; a peer that runs ahead must not overwrite what another has yet to read.
    for _ in 0..100 {
        tp.all_gather(&part, &mut whole)?;
        tp.reduce_scatter(&whole, &mut part, ReduceOp::Avg)?;
        tp.all_reduce_in_place(&mut part, ReduceOp::Max)?;
    }
    tp.all_reduce_in_place(&mut part, ReduceOp::Sum)?;
    ensure_same!(
        part.to_vec()?,
        vec![ranks as f32; len],
        "after 301 collectives"
    );
    Ok(())
}

fn work_inside_the_scope<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let parts = summands::<f32>(ReduceOp::Sum, tp.size(), 999);
    let sum = symm!(group = tp, {
        let src = tp.from_slice(&parts[tp.rank()])?;
        let mut sum = tp.empty(999)?;
        tp.all_reduce(&src, &mut sum, ReduceOp::Sum)?;
        sum
    })?;
    ensure_same!(
        sum.to_vec()?,
        reduced(ReduceOp::Sum, &parts),
        "a sum from inside the scope"
    );
    Ok(())
}
