//! Graphs and streams: forks and joins in a step, and launches among the work of other streams.

use symm_core::{Backend, Buf, GraphPool, Need, ReduceOp, Result, World, plain, symm};

use super::steps::{Buffer, MIB, captured_sum, eager, part, summed, sums, total};
use super::{Case, Outcome, Tp};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        other_streams_fork_and_join,
        a_fork_ends_in_the_graph_without_being_joined,
        inputs_are_written_on_other_streams,
        outputs_are_read_on_other_streams,
        two_graphs_on_two_streams,
        one_graphs_output_goes_on_on_another_stream,
        a_capture_starts_behind_earlier_work,
        what_was_freed_on_other_streams_is_no_part_of_it,
        what_is_freed_on_other_streams_in_it_is_ordered,
    ]
}

/// Long enough that work is still under way when the next is enqueued.
const LEN: usize = 50_000;
const ROUNDS: u64 = 10;

fn other_streams_fork_and_join<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (a, b) = (world.new_stream()?, world.new_stream()?);
    let graphs = GraphPool::new(world.pool());
    let mut x = eager(&tp, LEN)?;
    let mut graph = graphs.capture(world.stream(), |_| -> Result<_> {
        let mut copies = symm!(group = tp, {
            (0..3)
                .map(|_| tp.empty(LEN))
                .collect::<Result<Vec<Buffer<B>>>>()?
        })?;
        // Twice a third stream's work, which needs the first's, and the world's, which needs both.
        copies[0].copy_from(plain(&x))?;
        let (first, rest) = copies.split_at_mut(1);
        let on_a = world.on_stream(&a)?;
        rest[0].copy_from(plain(&first[0]))?;
        tp.all_reduce_in_place(&mut rest[0], ReduceOp::Sum)?;
        on_a.end()?;
        let on_b = world.on_stream(&b)?;
        rest[1].copy_from(plain(&first[0]))?;
        on_b.end()?;
        first[0].copy_from(plain(&rest[0]))?;
        Ok(copies)
    })?;
    for round in 0..ROUNDS {
        let data = part(round, tp.rank(), LEN);
        x.copy_from_slice(&data)?;
        graph.launch()?;
        let [sum, same, copy] = &graph.output()[..] else {
            return Ok(());
        };
        let expected = total(round, tp.size(), LEN);
        ensure_same!(sum.to_vec()?, expected, "the sum, round {round}");
        ensure_same!(same.to_vec()?, expected, "where it was made");
        ensure_same!(copy.to_vec()?, data, "the copy, round {round}");
    }
    Ok(())
}

fn a_fork_ends_in_the_graph_without_being_joined<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let side = world.new_stream()?;
    let graphs = GraphPool::new(world.pool());
    let mut x = eager(&tp, LEN)?;
    let mut graph = graphs.capture(world.stream(), |_| -> Result<_> {
        // Nothing in the step waits for the side's work.
        let on_side = world.on_stream(&side)?;
        let sum = summed(&tp, &x)?;
        on_side.end()?;
        Ok(sum)
    })?;
    sums(&tp, &mut x, &mut graph)?;
    // And outside the capture the side is free again.
    let on_side = world.on_stream(&side)?;
    sums(&tp, &mut x, &mut graph)?;
    on_side.end()?;
    Ok(())
}

fn inputs_are_written_on_other_streams<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let side = world.new_stream()?;
    let graphs = GraphPool::new(world.pool());
    let mut x = eager(&tp, LEN)?;
    let mut graph = captured_sum(world, &graphs, &tp, &x)?;
    let mut sums = Vec::new();
    for round in 0..ROUNDS {
        let on_side = world.on_stream(&side)?;
        x.copy_from_slice(&part(round, tp.rank(), LEN))?;
        on_side.end()?;
        graph.launch()?; // behind the side's write
        let mut sum = eager(&tp, LEN)?;
        sum.copy_from(plain(graph.output()))?;
        sums.push(sum);
        let on_side = world.on_stream(&side)?;
        x.fill_zero()?; // behind the launch
        on_side.end()?;
    }
    for (round, sum) in (0..).zip(sums) {
        ensure_same!(sum.to_vec()?, total(round, tp.size(), LEN), "round {round}");
    }
    Ok(())
}

fn outputs_are_read_on_other_streams<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let side = world.new_stream()?;
    let graphs = GraphPool::new(world.pool());
    let mut x = eager(&tp, LEN)?;
    let mut graph = captured_sum(world, &graphs, &tp, &x)?;
    let mut kept = symm!(group = tp, {
        (0..ROUNDS)
            .map(|_| tp.zeros(LEN))
            .collect::<Result<Vec<Buffer<B>>>>()?
    })?;
    for (round, kept) in (0..).zip(&mut kept) {
        x.copy_from_slice(&part(round, tp.rank(), LEN))?;
        graph.launch()?;
        let on_side = world.on_stream(&side)?;
        kept.copy_from(plain(graph.output()))?; // before the next launch overwrites it
        on_side.end()?;
    }
    for (round, kept) in (0..).zip(&kept) {
        ensure_same!(
            kept.to_vec()?,
            total(round, tp.size(), LEN),
            "round {round}"
        );
    }
    Ok(())
}

fn two_graphs_on_two_streams<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let streams = [world.new_stream()?, world.new_stream()?];
    let graphs = GraphPool::new(world.pool());
    let mut x = [eager(&tp, LEN)?, eager(&tp, 2 * LEN)?];
    let mut captured = Vec::new();
    for (stream, x) in streams.iter().zip(&x) {
        captured.push(graphs.capture(stream, |_| summed(&tp, x))?);
    }
    for round in 0..ROUNDS {
        for (graph, x) in captured.iter_mut().zip(&mut x) {
            x.copy_from_slice(&part(round, tp.rank(), x.len()))?;
            graph.launch()?;
        }
        if round % 3 == 0 {
            for (graph, x) in captured.iter().zip(&x) {
                let sum = total(round, tp.size(), x.len());
                ensure_same!(graph.output().to_vec()?, sum, "round {round}");
            }
        }
    }
    Ok(())
}

fn one_graphs_output_goes_on_on_another_stream<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (a, b) = (world.new_stream()?, world.new_stream()?);
    // Two pools, so that it is the buffer alone that orders the two.
    let (one, two) = (GraphPool::new(world.pool()), GraphPool::new(world.pool()));
    let mut x = eager(&tp, LEN)?;
    let mut first = one.capture(&a, |_| summed(&tp, &x))?;
    let mut second = two.capture(&b, |_| -> Result<_> {
        let mut copy = symm!(group = tp, { tp.empty::<f32>(LEN)? })?;
        copy.copy_from(plain(first.output()))?;
        Ok(copy)
    })?;
    let mut copies = Vec::new();
    for round in 0..ROUNDS {
        x.copy_from_slice(&part(round, tp.rank(), LEN))?;
        first.launch()?;
        second.launch()?;
        let mut copy = eager(&tp, LEN)?;
        copy.copy_from(plain(second.output()))?;
        copies.push(copy);
    }
    for (round, copy) in (0..).zip(copies) {
        ensure_same!(
            copy.to_vec()?,
            total(round, tp.size(), LEN),
            "round {round}"
        );
    }
    Ok(())
}

fn a_capture_starts_behind_earlier_work<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (side, stream) = (world.new_stream()?, world.new_stream()?);
    let graphs = GraphPool::new(world.pool());
    for round in 0..ROUNDS {
        let on_side = world.on_stream(&side)?;
        let data = part(round, tp.rank(), LEN);
        let x = symm!(group = tp, { tp.from_slice(&data)? })?; // still to be written
        on_side.end()?;
        let need = Need::new().group(&tp, MIB);
        let mut graph = graphs.capture_reserved(&need, &stream, |_| summed(&tp, &x))?;
        graph.launch()?;
        let sum = total(round, tp.size(), LEN);
        ensure_same!(graph.output().to_vec()?, sum, "round {round}");
    }
    Ok(())
}

fn what_was_freed_on_other_streams_is_no_part_of_it<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (side, stream) = (world.new_stream()?, world.new_stream()?);
    let graphs = GraphPool::new(world.pool());
    let mut x = eager(&tp, LEN)?;
    for round in 0..ROUNDS {
        // The pool's own blocks too: outputs of a graph, used and freed on another stream.
        let mut old = graphs.capture(&stream, |_| summed(&tp, &x))?;
        old.launch()?;
        let mut output = old.into_output();
        let on_side = world.on_stream(&side)?;
        tp.all_reduce_in_place(&mut output, ReduceOp::Sum)?;
        let stray = eager(&tp, LEN)?;
        drop((output, stray));
        on_side.end()?;

        // The next capture has their places, and its launches come behind that work.
        let mut graph = graphs.capture(world.stream(), |_| -> Result<_> {
            let scratch = symm!(group = tp, { tp.zeros::<f32>(3 * LEN)? })?;
            let private = Buf::<f32, B>::zeros(LEN)?;
            drop((scratch, private));
            summed(&tp, &x)
        })?;
        x.copy_from_slice(&part(round, tp.rank(), LEN))?;
        graph.launch()?;
        let sum = total(round, tp.size(), LEN);
        ensure_same!(graph.output().to_vec()?, sum, "round {round}");
    }
    Ok(())
}

fn what_is_freed_on_other_streams_in_it_is_ordered<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let side = world.new_stream()?;
    let graphs = GraphPool::new(world.pool());
    let mut x = eager(&tp, LEN)?;
    let mut graph = graphs.capture(world.stream(), |_| -> Result<_> {
        let mut kept = symm!(group = tp, { tp.empty(LEN)? })?;
        let on_side = world.on_stream(&side)?;
        let mut first = symm!(group = tp, { tp.empty(LEN)? })?;
        tp.all_reduce(&x, &mut first, ReduceOp::Sum)?;
        kept.copy_from(plain(&first))?;
        drop(first); // its block is the next one's, on another stream
        on_side.end()?;
        let second = symm!(group = tp, { tp.zeros::<f32>(LEN)? })?;
        let mut zeros = symm!(group = tp, { tp.empty(LEN)? })?;
        zeros.copy_from(plain(&second))?;
        Ok((kept, zeros))
    })?;
    for round in 0..ROUNDS {
        x.copy_from_slice(&part(round, tp.rank(), LEN))?;
        graph.launch()?;
        let (kept, zeros): &(Buffer<B>, Buffer<B>) = graph.output();
        ensure_same!(
            kept.to_vec()?,
            total(round, tp.size(), LEN),
            "round {round}"
        );
        ensure_same!(zeros.to_vec()?, vec![0.0; LEN], "the next owner's");
    }
    Ok(())
}
