//! Shared buffers: read from any thread, given up on any thread, and placed alike on all ranks
//! whatever the threads do.

use std::thread;
use std::time::{Duration, Instant};

use symm_core::{
    Backend, Buf, Element, Error, GraphPool, Group, GroupTag, Need, Path, ReduceOp, Result, Shared,
    SymmBuf, World, plain, symm,
};

use super::data::{Rng, elements};
use super::ranks::alike;
use super::steps::{part, paths, total};
use super::{Case, Cp, Failure, Left, Outcome, Right, Tp};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        clones_are_read_on_other_threads,
        collectives_read_it_on_its_window,
        parts_of_it_are_read,
        it_is_written_by_who_is_alone,
        uses_on_several_streams_are_ordered,
        other_groups_do_not_take_it,
        memory_returns_in_a_round_when_all_have_dropped,
        one_rank_that_holds_it_keeps_it_on_all,
        drops_on_other_threads_place_alike,
        reuse_waits_for_all_streams,
        another_thread_may_open_scopes_meanwhile,
        ordinary_memory_is_shared_too,
        a_graph_keeps_it,
        a_graph_comes_after_its_writes,
        a_capture_does_not_write_it,
        what_graphs_use_is_not_shared,
        trim_gives_back_what_is_empty_everywhere,
        trim_stops_at_what_is_in_use,
        an_arena_grows_again_after_a_trim,
        sharers_of_an_arena_trim_together,
        groups_of_different_ranks_do_not_trim from 4,
        a_group_of_one_rank_asks_nobody,
        it_outlives_its_group,
    ]
}

const MIB: u64 = 1 << 20;
const LEN: usize = 3000;
/// Bytes of such a block.
const BYTES: u64 = 12_288;
/// Elements that fill an arena's first segment.
const FIRST_SEGMENT: usize = 2 << 20;
/// Bytes of the segments that come after it.
const NEXT: u64 = 128 * MIB;

type Weights<B> = Shared<f32, Tp, B>;

fn weights<B: Backend>(tp: &Group<Tp, B>, seed: u64, len: usize) -> Result<Weights<B>> {
    share(symm!(group = tp, {
        tp.from_slice(&part(seed, tp.rank(), len))?
    })?)
}

fn share<T: Element, G: GroupTag, B: Backend>(buf: SymmBuf<T, G, B>) -> Result<Shared<T, G, B>> {
    Ok(buf.share()?)
}

/// Runs `f` on a thread of its own, to its end.
fn elsewhere<R: Send>(f: impl FnOnce() -> R + Send) -> Outcome<R> {
    let joined = thread::scope(|scope| scope.spawn(f).join());
    joined.map_err(|_| Failure::new("the other thread panicked"))
}

fn live<B: Backend>(world: &World<B>) -> u64 {
    world.pool().stats().live_bytes()
}

/// A round: the arena grows by a segment that nobody keeps.
fn round<B: Backend>(tp: &Group<Tp, B>) -> Result<()> {
    tp.reserve(1)
}

fn clones_are_read_on_other_threads<B: Backend>(world: &World<B>) -> Outcome {
    fn is_free<T: Send + Sync + Clone>(_: &T) {}
    let tp = world.split::<Tp>(0, 0)?;
    let x = weights(&tp, 1, LEN)?;
    is_free(&x);
    let expected = part(1, tp.rank(), LEN);
    thread::scope(|scope| -> Outcome {
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let x = x.clone();
                scope.spawn(move || x.to_vec())
            })
            .collect();
        for reader in readers {
            let read = reader.join().map_err(|_| Failure::new("panicked"))??;
            ensure_same!(read, expected, "on another thread");
        }
        Ok(())
    })?;
    ensure_eq!((x.len(), x.num_bytes()), (LEN, 4 * LEN));
    ensure!(x.is_symmetric() && x.position().is_some());
    Ok(())
}

fn collectives_read_it_on_its_window<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (symmetric, _) = paths(&tp)?;
    let x = weights(&tp, 2, LEN)?;
    let window = x.window()?.map(|window| window.offset);
    ensure_eq!(window, x.position().map(|position| position.offset));
    let mut sum = symm!(group = tp, { tp.empty(LEN)? })?;
    ensure_eq!(tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?, symmetric);
    ensure_same!(sum.to_vec()?, total(2, tp.size(), LEN), "the sum");
    let mut copy: Buf<f32, B> = Buf::empty(LEN)?;
    copy.copy_from(plain(&x))?;
    ensure_same!(copy.to_vec()?, part(2, tp.rank(), LEN), "a copy");
    Ok(())
}

fn parts_of_it_are_read<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let x = weights(&tp, 3, LEN)?;
    let view = x.view(100..300)?;
    ensure_same!(view.to_vec()?, part(3, tp.rank(), LEN)[100..300], "a part");
    ensure_matches!(x.view(1..LEN + 1), Err(Error::Range { .. }));
    let mut sum = symm!(group = tp, { tp.empty(50)? })?;
    tp.all_reduce(view.view(50..100)?, &mut sum, ReduceOp::Sum)?;
    ensure_same!(
        sum.to_vec()?,
        total(3, tp.size(), LEN)[150..200],
        "a part of a part"
    );
    Ok(())
}

fn it_is_written_by_who_is_alone<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut x = weights(&tp, 4, LEN)?;
    let clone = x.clone();
    ensure!(x.get_mut().is_none(), "there is a clone");
    elsewhere(move || drop(clone))?;
    let Some(mut alone) = x.get_mut() else {
        return Err(Failure::new("nobody else has it"));
    };
    alone.copy_from_slice(&part(5, tp.rank(), LEN))?;
    ensure_matches!(alone.copy_from_slice(&[0.0]), Err(Error::CopyLength { .. }));
    tp.all_reduce_in_place(&mut alone, ReduceOp::Sum)?;
    ensure_same!(x.to_vec()?, total(5, tp.size(), LEN), "the sum");
    if let Some(mut alone) = x.get_mut() {
        alone.fill_zero()?;
    }
    ensure_same!(x.to_vec()?, [0.0; LEN], "zeros");
    Ok(())
}

fn uses_on_several_streams_are_ordered<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let streams = [world.new_stream()?, world.new_stream()?];
    let len = 50_000;
    let mut x = weights(&tp, 0, len)?;
    let mut sum = symm!(group = tp, { tp.empty(len)? })?;
    for round in 1..10 {
        let stream = &streams[round as usize % 2];
        let on = world.on_stream(stream)?;
        tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?;
        on.end()?;
        // On the world's stream, behind the reads on the others.
        let Some(mut alone) = x.get_mut() else {
            return Err(Failure::new("nobody else has it"));
        };
        alone.copy_from_slice(&part(round, tp.rank(), len))?;
        ensure_same!(
            sum.to_vec()?,
            total(round - 1, tp.size(), len),
            "round {round}"
        );
        let on = world.on_stream(stream)?;
        ensure_same!(
            x.to_vec()?,
            part(round, tp.rank(), len),
            "on another stream"
        );
        on.end()?;
    }
    Ok(())
}

fn other_groups_do_not_take_it<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let other = world.split::<Tp>(0, 0)?;
    let x = weights(&tp, 6, LEN)?;
    let mut sum = symm!(group = other, { other.empty(LEN)? })?;
    ensure_matches!(
        other.all_reduce(&x, &mut sum, ReduceOp::Sum),
        Err(Error::GroupMismatch { .. })
    );
    ensure!(other.all_reduce(plain(&x), &mut sum, ReduceOp::Sum)? != Path::Symmetric);
    ensure_same!(sum.to_vec()?, total(6, tp.size(), LEN), "as plain memory");
    let any = x.erase().downcast::<Cp>();
    ensure!(any.is_err());
    Ok(())
}

fn memory_returns_in_a_round_when_all_have_dropped<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (x, clone) = {
        let x = weights(&tp, 7, LEN)?;
        (x.clone(), x)
    };
    let position = x.position();
    drop(x);
    round(&tp)?;
    ensure_eq!(live(world), BYTES, "a clone is left");
    drop(clone);
    ensure_eq!(live(world), BYTES, "no round yet");
    let other = symm!(group = tp, { tp.empty::<f32>(LEN)? })?;
    ensure!(other.position() != position, "it is not free yet");
    round(&tp)?;
    ensure_eq!(live(world), BYTES, "the other's alone");
    let again = symm!(group = tp, { tp.empty::<f32>(LEN)? })?;
    ensure_eq!(again.position(), position);
    Ok(())
}

fn one_rank_that_holds_it_keeps_it_on_all<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut x = Some(weights(&tp, 8, LEN)?);
    for holder in (0..tp.size()).rev() {
        // All but the first ranks drop it, one after another.
        ensure_eq!(live(world), BYTES, "rank {holder} holds it");
        if tp.rank() == holder {
            x = None;
        }
        round(&tp)?;
    }
    ensure!(x.is_none());
    ensure_eq!(live(world), 0);
    Ok(())
}

fn drops_on_other_threads_place_alike<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut sizes = Rng::new(1);
    // The ranks drop in different orders, at different times, on different threads.
    let mut own = Rng::new(100 + world.rank() as u64);
    let mut held: Vec<Weights<B>> = Vec::new();
    let mut places = Vec::new();
    for turn in 0..30 {
        let mut turns_own = Vec::new();
        for _ in 0..4 {
            let buf = symm!(group = tp, { tp.empty(1 + sizes.below(400_000))? })?;
            places.extend(buf.position().map(|at| [at.segment as u64, at.offset]));
            turns_own.push(share(buf)?);
        }
        // Half of them in this turn, by names that all ranks share, in an order of their own.
        held.append(&mut turns_own);
        let mut gone: Vec<_> = (0..2)
            .map(|_| held.remove(sizes.below(held.len())))
            .collect();
        if own.below(2) == 0 {
            gone.reverse();
        }
        let late = Duration::from_micros(own.below(300) as u64);
        match own.below(3) {
            0 => drop(gone),
            1 => elsewhere(move || drop(gone))?,
            _ => drop(thread::spawn(move || {
                thread::sleep(late);
                drop(gone);
            })),
        }
        if turn % 10 == 9 {
            // Compared by windows: what lies at unequal offsets is an error, or wrong.
            let x = held[0].view(0..1)?;
            let mut sum = symm!(group = tp, { tp.empty(1)? })?;
            tp.all_reduce(x, &mut sum, ReduceOp::Sum)?;
            tp.trim()?;
        }
    }
    let places: Vec<u64> = places.into_iter().flatten().collect();
    alike(world, &tp, &places, "the places")?;
    drop(held);
    returns_after(world, &tp)
}

/// Streams that write while a graph is captured.
const WRITERS: u64 = 2;
/// Elements of a buffer that takes its time.
const LONG: usize = 1 << 20;

/// Has the stream do something before it comes to what matters.
fn keep_busy<B: Backend>(tp: &Group<Tp, B>, long: &mut SymmBuf<f32, Tp, B>) -> Result<()> {
    for _ in 0..5 {
        tp.all_reduce_in_place(&mut *long, ReduceOp::Max)?;
    }
    Ok(())
}

fn reuse_waits_for_all_streams<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (a, b) = (world.new_stream()?, world.new_stream()?);
    let len = 50_000;
    let mut sums = symm!(group = tp, { [tp.empty(len)?, tp.empty(len)?] })?;
    let mut before = symm!(group = tp, { [tp.zeros(LONG)?, tp.zeros(LONG)?] })?;
    for round in 0..5 {
        let x = weights(&tp, round, len)?;
        let streams = [&a, &b].into_iter().zip(&mut before);
        for ((stream, before), sum) in streams.zip(&mut sums) {
            let on = world.on_stream(stream)?;
            keep_busy(&tp, before)?;
            tp.all_reduce(&x, sum, ReduceOp::Sum)?;
            on.end()?;
        }
        let address = x.address();
        elsewhere(move || drop(x))?;
        self::round(&tp)?;
        // The collectives may have yet to read it.
        let next = symm!(group = tp, { tp.from_slice(&vec![1.0e9f32; len])? })?;
        ensure_eq!(next.address(), address, "the same block");
        for sum in &sums {
            ensure_same!(sum.to_vec()?, total(round, tp.size(), len), "round {round}");
        }
    }
    Ok(())
}

fn another_thread_may_open_scopes_meanwhile<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let x = weights(&tp, 9, LEN)?;
    let sum = elsewhere(|| -> Result<_> {
        let mut sum = symm!(group = tp, { tp.empty(LEN)? })?;
        tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?;
        sum.to_vec()
    })??;
    ensure_same!(sum, total(9, tp.size(), LEN), "on another thread");
    Ok(())
}

fn ordinary_memory_is_shared_too<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let scope = tp.scope_when(false)?;
    let x = scope.from_slice(&part(10, tp.rank(), LEN))?;
    scope.close()?;
    let x = share(x)?;
    ensure!(!x.is_symmetric() && x.window()?.is_none());
    let mut sum: Buf<f32, B> = Buf::empty(LEN)?;
    let path = tp.all_reduce(&x, symm_core::plain_mut(&mut sum), ReduceOp::Sum)?;
    ensure!(path != Path::Symmetric);
    ensure_same!(sum.to_vec()?, total(10, tp.size(), LEN), "the sum");
    let read = elsewhere(move || x.to_vec())??;
    ensure_same!(read, part(10, tp.rank(), LEN), "elsewhere");
    drop(sum);
    super::settles(world, |stats| stats.plain_live_bytes == 0)
}

fn a_graph_keeps_it<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let mut x = weights(&tp, 11, LEN)?;
    let mut graph = graphs.capture(world.stream(), |_| -> Result<_> {
        let mut sum = symm!(group = tp, { tp.empty(LEN)? })?;
        tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?;
        tp.all_reduce(x.view(0..LEN)?, &mut sum, ReduceOp::Sum)?;
        Ok(sum)
    })?;
    ensure!(x.get_mut().is_none(), "the graph has a clone");
    elsewhere(move || drop(x))?;
    round(&tp)?;
    ensure_eq!(live(world), BYTES, "the graph holds it");
    // Of the same size: it would lie there.
    let pattern = symm!(group = tp, {
        tp.from_slice(&elements::<u32>(1, tp.rank(), LEN))?
    })?;
    for _ in 0..10 {
        graph.output_mut().fill_zero()?;
        graph.launch()?;
        ensure_same!(
            graph.output().to_vec()?,
            total(11, tp.size(), LEN),
            "a replay"
        );
    }
    ensure_same!(
        pattern.to_vec()?,
        elements::<u32>(1, tp.rank(), LEN),
        "another's"
    );
    drop((pattern, graph));
    // The graph goes behind its last launch, on another thread.
    returns_after(world, &tp)
}

/// Trims until what was dropped elsewhere is back, as often on all ranks.
fn returns_after<B: Backend>(world: &World<B>, tp: &Group<Tp, B>) -> Outcome {
    for _ in 0..1000 {
        tp.trim()?;
        let here = live(world);
        if super::ranks::told(world, tp, &[here])?
            .concat()
            .iter()
            .all(|&live| live == 0)
        {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(Failure::new("it does not come back"))
}

fn a_graph_comes_after_its_writes<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let len = 50_000;
    // Reserved, because a prime would run the step, and order the stream behind the writes.
    let need = Need::new().plain(WRITERS * 256 * 1024);
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let x = weights(&tp, 0, len)?;
        let before = symm!(group = tp, { tp.zeros(LONG)? })?;
        writers.push((world.new_stream()?, part(writer, tp.rank(), len), x, before));
    }
    let new = |turn: u64, data: &[f32]| -> Vec<f32> {
        data.iter().map(|element| element + turn as f32).collect()
    };
    for turn in 1..4 {
        for (writer, data, x, before) in &mut writers {
            let on = world.on_stream(writer)?;
            keep_busy(&tp, before)?;
            if let Some(mut alone) = x.get_mut() {
                alone.copy_from_slice(&new(turn, data))?;
            }
            on.end()?;
        }
        // On a stream that waits for nothing yet.
        let other = world.new_stream()?;
        let mut graph = graphs.capture_reserved(&need, &other, |_| -> Result<_> {
            let copy = |x: &Weights<B>| -> Result<_> {
                let mut copy = Buf::<f32, B>::empty(len)?;
                copy.copy_from(plain(x))?;
                Ok(copy)
            };
            let copies = writers.iter().map(|(_, _, x, _)| copy(x));
            copies.collect::<Result<Vec<_>>>()
        })?;
        graph.launch()?;
        for (copy, (_, data, ..)) in graph.output().iter().zip(&writers) {
            ensure_same!(copy.to_vec()?, new(turn, data), "turn {turn}");
        }
        drop(graph);
        for (_, _, x, _) in &mut writers {
            let end = Instant::now() + super::MOMENT;
            while x.get_mut().is_none() {
                ensure!(Instant::now() < end, "the graph is gone");
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
    Ok(())
}

fn a_capture_does_not_write_it<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let mut x = weights(&tp, 12, LEN)?;
    let y = symm!(group = tp, { tp.empty::<f32>(LEN)? })?;
    let captured = graphs.capture_reserved(&symm_core::Need::new(), world.stream(), |_| {
        match x.get_mut() {
            Some(mut alone) => alone.fill_zero(),
            None => Ok(()),
        }
    });
    ensure_matches!(captured, Err(Error::InCapture { .. }));
    let mut y = Some(y);
    let captured = graphs.capture_reserved(&symm_core::Need::new(), world.stream(), |_| {
        let shared = y.take().map(SymmBuf::share);
        match shared {
            Some(Err((buf, error))) => {
                y = Some(buf);
                Err(error)
            }
            _ => Ok(()),
        }
    });
    ensure_matches!(captured, Err(Error::InCapture { .. }));
    ensure!(y.is_some(), "the buffer came back");
    ensure_same!(x.to_vec()?, part(12, tp.rank(), LEN), "as it was");
    Ok(())
}

fn what_graphs_use_is_not_shared<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let x = symm!(group = tp, { tp.from_slice(&part(13, tp.rank(), LEN))? })?;
    let graph = graphs.capture(world.stream(), |_| super::steps::summed(&tp, &x))?;
    let Err((x, error)) = x.share() else {
        return Err(Failure::new("the graph may write to it"));
    };
    ensure_matches!(error, Error::Unsupported { .. });
    let output = graph.into_output();
    let Err((output, error)) = output.share() else {
        return Err(Failure::new("it is a graph pool's"));
    };
    ensure_matches!(error, Error::Unsupported { .. });
    drop(output);
    let x = share(x)?; // the graph is gone
    ensure_same!(x.to_vec()?, part(13, tp.rank(), LEN), "as it was");
    Ok(())
}

fn trim_gives_back_what_is_empty_everywhere<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    ensure_eq!(tp.trim()?, 0, "nothing is there");
    let x = symm!(group = tp, { tp.empty::<f32>(100)? })?;
    let y = symm!(group = tp, { tp.empty::<f32>(FIRST_SEGMENT)? })?;
    let z = symm!(group = tp, { tp.empty::<f32>(16 * FIRST_SEGMENT)? })?;
    let reserved = world.pool().stats().reserved_bytes;
    ensure_eq!((reserved, tp.windows()), (8 * MIB + NEXT + NEXT, 3));
    drop(z);
    ensure_eq!(tp.trim()?, NEXT);
    let stats = world.pool().stats();
    ensure_eq!((stats.reserved_bytes, stats.segments), (8 * MIB + NEXT, 2));
    ensure_eq!(tp.windows(), 2);
    let shared = share(y)?;
    elsewhere(move || drop(shared))?;
    ensure_eq!(tp.trim()?, NEXT, "a shared buffer's, which is back");
    ensure_eq!(tp.trim()?, 0, "there is nothing more");
    drop(x);
    ensure_eq!(tp.trim()?, 8 * MIB);
    let stats = world.pool().stats();
    ensure_eq!(
        (stats.reserved_bytes, stats.segments, tp.windows()),
        (0, 0, 0)
    );
    Ok(())
}

fn trim_stops_at_what_is_in_use<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let first = symm!(group = tp, { tp.empty::<f32>(FIRST_SEGMENT)? })?;
    let last = symm!(group = tp, { tp.empty::<f32>(FIRST_SEGMENT)? })?;
    drop(first);
    ensure_eq!(tp.trim()?, 0, "the last is in use");
    let held = symm!(group = tp, { tp.empty::<f32>(FIRST_SEGMENT)? })?; // where the first was
    let mut last = Some(last);
    let mut held = Some(held);
    if tp.rank() == 0 {
        held = None;
    } else {
        // Rank 0 keeps the last, the others what lies before it.
        last = None;
    }
    ensure_eq!(tp.trim()?, 0, "the last is in use on one rank");
    drop((last, held));
    let last = symm!(group = tp, {
        let _first = tp.empty::<f32>(FIRST_SEGMENT)?;
        tp.empty::<f32>(FIRST_SEGMENT)?
    })?;
    let mut last = Some(share(last)?);
    if tp.rank() == 0 {
        last = None;
    }
    ensure_eq!(tp.trim()?, 0, "the last is in use elsewhere");
    ensure_eq!(tp.windows(), 2);
    drop(last);
    ensure_eq!(tp.trim()?, 8 * MIB + NEXT);
    Ok(())
}

fn an_arena_grows_again_after_a_trim<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (symmetric, _) = paths(&tp)?;
    for turn in 0..4 {
        let kept = symm!(group = tp, { tp.empty::<f32>(10)? })?;
        let mut x = symm!(group = tp, {
            tp.from_slice(&part(turn, tp.rank(), FIRST_SEGMENT))?
        })?;
        ensure_eq!(tp.windows(), 2);
        // Still under way when the segment goes.
        ensure_eq!(tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?, symmetric);
        if turn % 2 == 0 {
            ensure_same!(
                x.to_vec()?,
                total(turn, tp.size(), FIRST_SEGMENT),
                "turn {turn}"
            );
        }
        drop(x);
        ensure_eq!(tp.trim()?, NEXT);
        ensure_eq!(tp.windows(), 1);
        alike(world, &tp, &super::steps::place(&kept)?, "the places")?;
    }
    Ok(())
}

fn sharers_of_an_arena_trim_together<B: Backend>(world: &World<B>) -> Outcome {
    let (left, right) = (world.split::<Left>(0, 0)?, world.split::<Right>(0, 0)?);
    let x = symm!(group = left, { left.empty::<f32>(FIRST_SEGMENT)? })?;
    let y = symm!(group = right, { right.empty::<f32>(100)? })?;
    let z = share(symm!(group = left, { left.empty::<f32>(100)? })?)?;
    ensure_eq!((left.windows(), right.windows()), (2, 1));
    drop((y, z));
    ensure_eq!(right.trim()?, NEXT, "with the other group's buffer");
    ensure_eq!(left.trim()?, 0);
    ensure_eq!((left.windows(), right.windows()), (1, 0));
    drop(x);
    let mut again = symm!(group = right, {
        right.from_slice(&part(1, right.rank(), LEN))?
    })?;
    right.all_reduce_in_place(&mut again, ReduceOp::Sum)?;
    ensure_same!(again.to_vec()?, total(1, right.size(), LEN), "the sum");
    Ok(())
}

fn groups_of_different_ranks_do_not_trim<B: Backend>(world: &World<B>) -> Outcome {
    let half = world.size() / 2;
    let left = world.split::<Left>(world.rank() / half, 0)?;
    let right = world.split::<Right>(world.rank() % half, 0)?;
    let shared = share(symm!(group = left, { left.empty::<f32>(LEN)? })?)?;
    // Two ranks could agree, but the others' arenas would not hear of it.
    let held = (world.rank() == 1).then_some(shared);
    left.reserve(1)?;
    ensure_eq!(live(world), BYTES, "it stays on all ranks");
    ensure_matches!(left.trim(), Err(Error::Unsupported { .. }));
    ensure_matches!(right.trim(), Err(Error::Unsupported { .. }));
    let x = symm!(group = right, { right.empty::<f32>(LEN)? })?;
    alike(world, &right, &super::steps::place(&x)?, "the places")?;
    drop(held);
    Ok(())
}

fn a_group_of_one_rank_asks_nobody<B: Backend>(world: &World<B>) -> Outcome {
    let own = world.split::<Tp>(world.rank(), 0)?;
    let x = weights(&own, 14, LEN)?;
    let address = x.address();
    elsewhere(move || drop(x))?;
    symm!(group = own, {})?;
    ensure_eq!(live(world), 0);
    let again = symm!(group = own, { own.empty::<f32>(LEN)? })?;
    ensure_eq!(again.address(), address);
    drop(again);
    ensure_eq!(own.trim()?, 8 * MIB);
    Ok(())
}

fn it_outlives_its_group<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let x = weights(&tp, 15, LEN)?;
    drop(tp);
    let read = elsewhere(|| x.to_vec())??;
    ensure_same!(read, part(15, world.rank(), LEN), "elsewhere");
    let side = world.new_stream()?;
    let mut copy: Buf<f32, B> = Buf::empty(LEN)?;
    let on = world.on_stream(&side)?;
    copy.copy_from(plain(&x))?;
    on.end()?;
    elsewhere(move || drop(x))?; // the copy may have yet to read it
    ensure_same!(copy.to_vec()?, part(15, world.rank(), LEN), "its copy");
    Ok(())
}
