//! Replays: exact, in the order of their launches, among eager work, on any streams.

use symm_core::{
    Backend, Buf, GraphPool, Group, ReduceOp, Result, SymmBuf, World, plain, plain_mut, symm,
};

use super::data::{Rng, elements, reduced, summands};
use super::steps::{captured_sum, eager, part, reserved_sum, summed, sums, total};
use super::{Case, Cp, Outcome, Tp};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        inputs_change_between_launches,
        launches_follow_each_other,
        eager_work_comes_in_between,
        every_operation_replays,
        two_groups_in_one_graph,
        rows_and_columns_in_one_graph from 4,
        zeros_are_written_again,
        random_steps,
    ]
}

/// Long enough that work is still under way when the next is enqueued.
const LEN: usize = 50_000;
const ROUNDS: u64 = 10;

fn inputs_change_between_launches<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let mut x = eager(&tp, LEN)?;
    let mut primed = captured_sum(world, &graphs, &tp, &x)?;
    let mut reserved = reserved_sum(world, &graphs, &tp, &x)?;
    sums(&tp, &mut x, &mut primed)?;
    sums(&tp, &mut x, &mut reserved)?;
    sums(&tp, &mut x, &mut primed)
}

fn launches_follow_each_other<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let mut x = symm!(group = tp, { tp.from_slice(&[3u64; LEN])? })?;
    let mut graph = graphs.capture(world.stream(), |_| -> Result<_> {
        tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
        Ok(())
    })?;
    // As many as there are bits for.
    let launches = 60 / tp.size().ilog2();
    for _ in 0..launches {
        graph.launch()?;
    }
    let expected = 3 * (tp.size() as u64).pow(launches + 1);
    ensure_same!(x.to_vec()?, [expected; LEN], "the prime and all launches");
    x.copy_from_slice(&[1; LEN])?;
    for _ in 0..7 {
        graph.launch()?;
    }
    let expected = (tp.size() as u64).pow(7);
    ensure_same!(x.to_vec()?, [expected; LEN], "after seven more");
    Ok(())
}

fn eager_work_comes_in_between<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let mut x = eager(&tp, LEN)?;
    let mut graph = captured_sum(world, &graphs, &tp, &x)?;
    let mut eagerly = eager(&tp, LEN)?;
    for round in 0..ROUNDS {
        x.copy_from_slice(&part(round, tp.rank(), LEN))?;
        tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
        graph.launch()?;
        tp.all_reduce(graph.output(), &mut eagerly, ReduceOp::Sum)?;
        x.fill_zero()?;
        graph.launch()?;
        let factor = (tp.size() * tp.size()) as f32;
        let sum: Vec<f32> = total(round, tp.size(), LEN);
        let sum: Vec<f32> = sum.iter().map(|sum| sum * factor).collect();
        ensure_same!(eagerly.to_vec()?, sum, "round {round}");
        ensure_same!(graph.output().to_vec()?, vec![0.0; LEN], "zeros");
    }
    Ok(())
}

fn every_operation_replays<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (ranks, me, len) = (tp.size(), tp.rank(), 1000);
    let graphs = GraphPool::new(world.pool());
    let mut x = symm!(group = tp, { tp.zeros::<i32>(len * ranks)? })?;
    let of = |buf: &SymmBuf<i32, Tp, B>| buf.to_vec();
    let (next, last) = ((me + 1) % ranks, (me + ranks - 1) % ranks);
    let mut graph = graphs.capture(world.stream(), |_| -> Result<_> {
        let mut whole = symm!(group = tp, {
            (0..4)
                .map(|_| tp.zeros::<i32>(len * ranks))
                .collect::<Result<Vec<_>>>()?
        })?;
        let mut small = symm!(group = tp, {
            (0..6)
                .map(|_| tp.zeros::<i32>(len))
                .collect::<Result<Vec<_>>>()?
        })?;
        tp.all_reduce(&x, &mut whole[0], ReduceOp::Max)?;
        tp.all_gather(x.view(0..len)?, &mut whole[1])?;
        tp.all_to_all(&x, &mut whole[2])?;
        tp.gather(x.view(0..len)?, &mut whole[3], 1)?;
        tp.reduce_scatter(&x, &mut small[0], ReduceOp::Sum)?;
        tp.broadcast(x.view(0..len)?, &mut small[1], 1)?;
        tp.reduce(x.view(0..len)?, &mut small[2], ReduceOp::Min, 0)?;
        tp.scatter(&x, &mut small[3], 1)?;
        let mut ring = tp.batch();
        ring.send(x.view(len..2 * len)?, next)
            .recv(&mut small[4], last);
        ring.launch()?;
        small[5].copy_from(plain(&x).part(7..7 + len)?)?;
        Ok((whole, small))
    })?;
    for round in 0..3 {
        let all: Vec<Vec<i32>> = (0..ranks)
            .map(|rank| elements(round, rank, len * ranks))
            .collect();
        x.copy_from_slice(&all[me])?;
        graph.launch()?;
        let (whole, small) = graph.output();
        let heads: Vec<i32> = all.iter().flat_map(|of| of[..len].to_vec()).collect();
        let to_me: Vec<i32> = all
            .iter()
            .flat_map(|of| of[me * len..][..len].to_vec())
            .collect();
        let firsts: Vec<Vec<i32>> = all.iter().map(|of| of[..len].to_vec()).collect();
        let what = format!("round {round}");
        ensure_same!(
            of(&whole[0])?,
            reduced(ReduceOp::Max, &all),
            "{what}: all_reduce"
        );
        ensure_same!(of(&whole[1])?, heads, "{what}: all_gather");
        ensure_same!(of(&whole[2])?, to_me, "{what}: all_to_all");
        if me == 1 {
            ensure_same!(of(&whole[3])?, heads, "{what}: gather");
        }
        let sum = reduced(ReduceOp::Sum, &all);
        ensure_same!(
            of(&small[0])?,
            sum[me * len..][..len],
            "{what}: reduce_scatter"
        );
        ensure_same!(of(&small[1])?, all[1][..len], "{what}: broadcast");
        if me == 0 {
            ensure_same!(
                of(&small[2])?,
                reduced(ReduceOp::Min, &firsts),
                "{what}: reduce"
            );
        }
        ensure_same!(of(&small[3])?, all[1][me * len..][..len], "{what}: scatter");
        ensure_same!(
            of(&small[4])?,
            all[last][len..2 * len],
            "{what}: send and recv"
        );
        ensure_same!(of(&small[5])?, all[me][7..7 + len], "{what}: a copy");
    }
    Ok(())
}

fn two_groups_in_one_graph<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let cp = world.split::<Cp>(0, world.size() - world.rank())?;
    let graphs = GraphPool::new(world.pool());
    let mut x = eager(&tp, LEN)?;
    let mut graph = graphs.capture(world.stream(), |_| -> Result<_> {
        let sum = summed(&tp, &x)?;
        let mut all = symm!(group = cp, { cp.empty::<f32>(LEN * cp.size())? })?;
        cp.all_gather(plain(&x), &mut all)?;
        Ok((sum, all))
    })?;
    for round in 0..ROUNDS {
        x.copy_from_slice(&part(round, tp.rank(), LEN))?;
        graph.launch()?;
        let (sum, all) = graph.output();
        ensure_same!(sum.to_vec()?, total(round, tp.size(), LEN), "round {round}");
        let backwards: Vec<f32> = (0..tp.size())
            .rev()
            .flat_map(|rank| part(round, rank, LEN))
            .collect();
        ensure_same!(all.to_vec()?, backwards, "gathered in round {round}");
    }
    Ok(())
}

fn rows_and_columns_in_one_graph<B: Backend>(world: &World<B>) -> Outcome {
    let (row, column) = (world.rank() / 2, world.rank() % 2);
    let tp = world.split::<Tp>(row, column)?;
    let cp = world.split::<Cp>(column, row)?;
    let graphs = GraphPool::new(world.pool());
    let mut x = eager(&tp, LEN)?;
    let mut graph = graphs.capture(world.stream(), |_| -> Result<_> {
        let sum = summed(&tp, &x)?;
        let mut all = symm!(group = cp, { cp.empty::<f32>(LEN)? })?;
        cp.all_reduce(plain(&sum), &mut all, ReduceOp::Sum)?;
        Ok(all)
    })?;
    for round in 0..ROUNDS {
        x.copy_from_slice(&part(round, world.rank(), LEN))?;
        graph.launch()?;
        let sum = total(round, world.size(), LEN);
        ensure_same!(graph.output().to_vec()?, sum, "round {round}");
    }
    Ok(())
}

fn zeros_are_written_again<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let mut graph = graphs.capture(world.stream(), |_| -> Result<_> {
        let sums = symm!(group = tp, { tp.zeros::<f32>(LEN)? })?;
        Ok((sums, Buf::<f32, B>::zeros(LEN)?))
    })?;
    for round in 0..3 {
        let (sum, private) = graph.output_mut();
        let data = part(round, tp.rank(), LEN);
        sum.copy_from_slice(&data)?;
        tp.all_reduce_in_place(plain_mut(&mut *private), ReduceOp::Sum)?;
        private.copy_from_slice(&data)?;
        ensure_same!(sum.to_vec()?, data, "an output is a buffer to write to");
        graph.launch()?;
        let (sum, private) = graph.output();
        ensure_same!(sum.to_vec()?, [0.0; LEN], "symmetric, round {round}");
        ensure_same!(private.to_vec()?, [0.0; LEN], "private, round {round}");
    }
    Ok(())
}

/// What one step of a random program does to buffers `from` and `to`.
#[derive(Clone, Copy, Debug)]
enum Act {
    Sum,
    Max,
    Copy,
    Rotate,
    /// `to` becomes a sum by way of a temporary, on another stream.
    Aside,
}

const BUFFERS: usize = 4;

fn act<B: Backend>(
    world: &World<B>,
    tp: &Group<Tp, B>,
    side: &B::Stream,
    bufs: &mut [SymmBuf<i32, Tp, B>],
    (act, from, to): (Act, usize, usize),
) -> Result<()> {
    let (low, high) = bufs.split_at_mut(from.max(to));
    let (src, dst) = match from < to {
        true => (&low[from], &mut high[0]),
        false => (&high[0], &mut low[to]),
    };
    match act {
        Act::Sum => tp.all_reduce_in_place(dst, ReduceOp::Sum).map(drop),
        Act::Max => tp.all_reduce(src, dst, ReduceOp::Max).map(drop),
        Act::Copy => dst.copy_from(plain(src)),
        Act::Rotate => {
            let (next, last) = (
                (tp.rank() + 1) % tp.size(),
                (tp.rank() + tp.size() - 1) % tp.size(),
            );
            let mut ring = tp.batch();
            ring.send(src, next).recv(dst, last);
            ring.launch().map(drop)
        }
        Act::Aside => {
            let mut temporary = Buf::<i32, B>::empty(src.len())?;
            let on_side = world.on_stream(side)?;
            tp.all_reduce(plain(src), plain_mut(&mut temporary), ReduceOp::Sum)?;
            on_side.end()?;
            dst.copy_from(plain(&temporary))
        }
    }
}

/// The same on the CPU, for all ranks: by rank, then by buffer.
fn model(all: &mut [Vec<Vec<i32>>], (act, from, to): (Act, usize, usize)) {
    let of = |all: &[Vec<Vec<i32>>], buf: usize| -> Vec<Vec<i32>> {
        all.iter().map(|of_rank| of_rank[buf].clone()).collect()
    };
    let ranks = all.len();
    for rank in 0..ranks {
        let result = match act {
            Act::Sum if rank > 0 => all[0][to].clone(), // the same everywhere, and done already
            Act::Sum => reduced(ReduceOp::Sum, &of(all, to)),
            Act::Max => reduced(ReduceOp::Max, &of(all, from)),
            Act::Copy => all[rank][from].clone(),
            Act::Rotate => all[(rank + ranks - 1) % ranks][from].clone(),
            Act::Aside => reduced(ReduceOp::Sum, &of(all, from)),
        };
        all[rank][to] = result;
    }
}

fn random_steps<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (side, len) = (world.new_stream()?, 3001);
    let graphs = GraphPool::new(world.pool());
    let mut bufs = symm!(group = tp, {
        (0..BUFFERS)
            .map(|_| tp.zeros(len))
            .collect::<Result<Vec<SymmBuf<i32, Tp, B>>>>()?
    })?;
    let mut rng = Rng::new(17);
    let programs: Vec<Vec<(Act, usize, usize)>> = (0..6)
        .map(|_| {
            let acts = [Act::Sum, Act::Max, Act::Copy, Act::Rotate, Act::Aside];
            let one = |rng: &mut Rng| {
                let from = rng.below(BUFFERS);
                let to = (from + 1 + rng.below(BUFFERS - 1)) % BUFFERS;
                (acts[rng.below(acts.len())], from, to)
            };
            (0..8).map(|_| one(&mut rng)).collect()
        })
        .collect();
    let mut captured = Vec::new();
    for program in &programs {
        captured.push(graphs.capture(world.stream(), |_| {
            let mut steps = program.iter();
            steps.try_for_each(|step| act(world, &tp, &side, &mut bufs, *step))
        })?);
    }
    let parts = summands::<i32>(ReduceOp::Sum, tp.size(), len);
    let mut all: Vec<Vec<Vec<i32>>> = parts
        .iter()
        .map(|part| {
            (0..BUFFERS as i32)
                .map(|buf| part.iter().map(|x| x + buf).collect())
                .collect()
        })
        .collect();
    for (buf, data) in bufs.iter_mut().zip(&all[tp.rank()]) {
        buf.copy_from_slice(data)?;
    }
    for turn in 0..40 {
        let at = rng.below(programs.len());
        match turn % 5 {
            // The same eagerly, now and then.
            4 => programs[at]
                .iter()
                .try_for_each(|step| act(world, &tp, &side, &mut bufs, *step))?,
            _ => captured[at].launch()?,
        }
        programs[at].iter().for_each(|step| model(&mut all, *step));
        let look = rng.below(BUFFERS);
        if turn % 3 == 0 {
            let expected = &all[tp.rank()][look];
            ensure_same!(bufs[look].to_vec()?, expected, "buffer {look}, turn {turn}");
        }
    }
    for (buf, expected) in bufs.iter().zip(&all[tp.rank()]) {
        ensure_same!(buf.to_vec()?, expected, "at the end");
    }
    Ok(())
}
