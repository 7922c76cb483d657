//! Windows: exactly one for each segment and group that need one, when they are needed.

use std::collections::BTreeSet;

use symm_core::{Backend, Error, Path, ReduceOp, Result, World, plain_mut, symm};

use super::ranks::{alike, told};
use super::{Case, Cp, Failure, Left, Outcome, Right, Tp};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        one_window_for_a_segment,
        one_window_for_each_segment,
        what_a_scope_did_not_touch_costs_nothing,
        groups_have_windows_of_their_own,
        a_shared_arena_is_registered_by_those_who_use_it,
        of_a_shared_arena_only_what_the_group_touched,
        a_dropped_scope_leaves_it_to_the_next_scope,
        a_dropped_scope_leaves_it_to_the_next_collective,
        a_collective_inside_the_scope_registers,
        a_collective_on_ordinary_memory_registers_too,
        reserved_segments_are_registered_at_once,
        offsets_are_equal_on_all_ranks,
        windows_come_with_handles,
        peers_have_addresses,
        ordinary_memory_has_no_window,
        a_new_group_registers_anew,
        a_shared_arena_outlives_one_of_its_groups,
    ]
}

/// Elements of `f32` that fill an arena's first segment.
const FIRST_SEGMENT: usize = 2 << 20;

fn one_window_for_a_segment<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    ensure_eq!(tp.windows(), 0);
    let mut kept = Vec::new();
    for len in 1..50 {
        kept.push(symm!(group = tp, { tp.empty::<f32>(len * 100)? })?);
        if len % 3 == 0 {
            kept.remove(0);
        }
        ensure_eq!(tp.windows(), 1, "after {len} scopes");
    }
    Ok(())
}

fn one_window_for_each_segment<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut kept = Vec::new();
    // The second and the third hold 16 times as much.
    for (scope, (part, segments)) in [(1, 1), (16, 2), (1, 3), (1, 3)].into_iter().enumerate() {
        kept.push(symm!(group = tp, {
            tp.empty::<f32>(part * FIRST_SEGMENT)?
        })?);
        ensure_eq!(
            (tp.windows(), world.pool().stats().segments),
            (segments, segments),
            "after scope {scope}"
        );
    }
    drop(kept);
    let _reused = symm!(group = tp, { tp.empty::<f32>(FIRST_SEGMENT)? })?;
    ensure_eq!(
        tp.windows(),
        3,
        "segments keep their windows when they are empty"
    );
    // Two new segments in one scope.
    let _both = symm!(group = tp, {
        [
            tp.empty::<f32>(32 * FIRST_SEGMENT)?,
            tp.empty::<f32>(32 * FIRST_SEGMENT)?,
        ]
    })?;
    ensure_eq!(tp.windows(), 5);
    Ok(())
}

fn what_a_scope_did_not_touch_costs_nothing<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    symm!(group = tp, {})?;
    ensure_eq!((tp.windows(), world.pool().stats().segments), (0, 0));
    let cp = world.split::<Cp>(0, 0)?;
    let of_cp = symm!(group = tp, { symm!(group = cp, { cp.empty::<f32>(1)? })? })?;
    ensure!(of_cp.window()?.is_some());
    ensure_eq!(
        (tp.windows(), cp.windows()),
        (0, 1),
        "the outer scope touched nothing"
    );
    Ok(())
}

fn groups_have_windows_of_their_own<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let cp = world.split::<Cp>(0, 0)?;
    let x = symm!(group = tp, { tp.empty::<u8>(1)? })?;
    let y = symm!(group = cp, { cp.empty::<u8>(1)? })?;
    ensure_eq!(
        (tp.windows(), cp.windows(), world.pool().stats().segments),
        (1, 1, 2)
    );
    ensure_eq!(
        [x.window()?.map(|w| w.offset), y.window()?.map(|w| w.offset)],
        [Some(0), Some(0)],
        "each at the start of its own arena"
    );
    Ok(())
}

fn a_shared_arena_is_registered_by_those_who_use_it<B: Backend>(world: &World<B>) -> Outcome {
    let (left, right) = (world.split::<Left>(0, 0)?, world.split::<Right>(0, 0)?);
    ensure_eq!(left.arena(), right.arena());
    let x = symm!(group = left, { left.empty::<f32>(100)? })?;
    ensure_eq!((left.windows(), right.windows()), (1, 0));
    let y = symm!(group = right, { right.empty::<f32>(100)? })?;
    ensure_eq!(
        (
            left.windows(),
            right.windows(),
            world.pool().stats().segments
        ),
        (1, 1, 1)
    );
    ensure_eq!(
        [x.window()?.map(|w| w.offset), y.window()?.map(|w| w.offset)],
        [Some(0), Some(512)],
        "neighbours"
    );
    Ok(())
}

fn of_a_shared_arena_only_what_the_group_touched<B: Backend>(world: &World<B>) -> Outcome {
    let (left, right) = (world.split::<Left>(0, 0)?, world.split::<Right>(0, 0)?);
    let _first = symm!(group = left, { left.empty::<f32>(100)? })?;
    let second = symm!(group = right, { right.empty::<f32>(FIRST_SEGMENT)? })?;
    ensure_eq!(second.position().map(|position| position.segment), Some(1));
    ensure_eq!(
        (left.windows(), right.windows()),
        (1, 1),
        "each has the segment that it uses"
    );
    let _into_first = symm!(group = right, { right.empty::<f32>(100)? })?;
    ensure_eq!((left.windows(), right.windows()), (1, 2));
    Ok(())
}

fn a_dropped_scope_leaves_it_to_the_next_scope<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let scope = tp.scope()?;
    let x = scope.zeros::<f32>(10)?;
    drop(scope); // never waits, so it cannot register
    ensure_eq!(tp.windows(), 0);
    ensure!(x.window()?.is_none());
    symm!(group = tp, {})?;
    ensure_eq!(tp.windows(), 1);
    ensure!(x.window()?.is_some());
    Ok(())
}

fn a_dropped_scope_leaves_it_to_the_next_collective<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let scope = tp.scope()?;
    let mut x = scope.from_slice(&[1.0f32; 10])?;
    drop(scope);
    let path = tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    ensure_eq!(tp.windows(), 1);
    ensure_eq!(x.to_vec()?, [tp.size() as f32; 10]);
    let again = tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    ensure_eq!(
        path,
        again,
        "the first collective was on the window already"
    );
    Ok(())
}

fn a_collective_inside_the_scope_registers<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    symm!(group = tp, {
        let mut x = tp.zeros::<f32>(10)?;
        let first = tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
        ensure_eq!(tp.windows(), 1);
        let second = tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
        ensure_eq!(first, second);
    })?;
    ensure_eq!(tp.windows(), 1);
    Ok(())
}

fn a_collective_on_ordinary_memory_registers_too<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let scope = tp.scope()?;
    let x = scope.zeros::<f32>(10)?;
    drop(scope);
    let mut ordinary = world.pool().zeros::<f32>(10)?;
    let path = tp.all_reduce_in_place(plain_mut(&mut ordinary), ReduceOp::Sum)?;
    ensure_matches!(path, Path::Plain(_));
    ensure!(x.window()?.is_some());
    Ok(())
}

fn reserved_segments_are_registered_at_once<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    tp.reserve(20 << 20)?;
    ensure_eq!(
        (tp.windows(), world.pool().stats().reserved_bytes),
        (1, 20 << 20)
    );
    let scope = tp.scope()?;
    let x = scope.empty::<u8>(20 << 20)?;
    ensure!(x.window()?.is_some(), "before the scope is closed");
    scope.close()?;
    ensure_eq!((tp.windows(), world.pool().stats().segments), (1, 1));
    Ok(())
}

fn offsets_are_equal_on_all_ranks<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let bufs = symm!(group = tp, {
        [10, 1000, 100_000, FIRST_SEGMENT].map(|len| tp.empty::<f32>(len))
    })?;
    let bufs = bufs.into_iter().collect::<Result<Vec<_>>>()?;
    let mut offsets = Vec::new();
    for buf in &bufs {
        offsets.push(buf.window()?.map_or(u64::MAX, |window| window.offset));
    }
    ensure_eq!(
        offsets,
        [0, 512, 4608, 0],
        "the last has a segment of its own"
    );
    alike(world, &tp, &offsets, "offsets")
}

fn windows_come_with_handles<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (x, y) = symm!(group = tp, { (tp.empty::<u8>(1)?, tp.empty::<u8>(1)?) })?;
    match (x.window()?, y.window()?) {
        (Some(x), Some(y)) => {
            ensure!(
                !x.handle.is_null() && x.handle == y.handle,
                "one segment, one handle"
            );
            ensure_eq!((x.offset, y.offset), (0, 512));
        }
        other => ensure!(false, "no windows after the scope closed: {other:?}"),
    }
    Ok(())
}

fn peers_have_addresses<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (_first, x) = symm!(group = tp, { (tp.empty::<u8>(5000)?, tp.empty::<u8>(1)?) })?;
    let Some(window) = x.window()? else {
        return Err(Failure::new("no window after the scope closed"));
    };
    ensure_matches!(
        window.peer(tp.size()),
        Err(Error::NoSuchRank { rank, .. }) if rank == tp.size()
    );
    let peers = (0..tp.size())
        .map(|peer| window.peer(peer))
        .collect::<Result<Vec<_>>>()?;
    // NCCL gives them from 2.29.2 on; then for all peers that loads and stores reach.
    if let Some(own) = peers[tp.rank()] {
        let distinct: BTreeSet<_> = peers.iter().flatten().collect();
        ensure_eq!(
            distinct.len(),
            peers.iter().flatten().count(),
            "two peers at one address: {peers:x?}"
        );
        ensure_eq!(own % 512, x.address() % 512);
    }
    let given = peers
        .iter()
        .map(|peer| u64::from(peer.is_some()))
        .collect::<Vec<_>>();
    let all = told(world, &tp, &given)?;
    ensure!(
        (0..tp.size()).all(|a| (0..tp.size()).all(|b| all[a][b] == all[b][a])),
        "reach is mutual: {all:?}"
    );
    Ok(())
}

fn ordinary_memory_has_no_window<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let x = symm!(group = tp, when = false, { tp.empty::<u8>(1)? })?;
    ensure!(x.window()?.is_none());
    let alone = world.split::<Cp>(world.rank(), 0)?;
    let y = symm!(group = alone, { alone.empty::<u8>(1)? })?;
    ensure!(y.window()?.is_none(), "one rank needs none");
    Ok(())
}

fn a_new_group_registers_anew<B: Backend>(world: &World<B>) -> Outcome {
    let mut ids = Vec::new();
    for _ in 0..4 {
        // Possibly at the address of the former communicator, which must not matter.
        let tp = world.split::<Tp>(0, 0)?;
        ensure_eq!(tp.windows(), 0);
        let mut x = symm!(group = tp, { tp.from_slice(&[1.0f32; 100])? })?;
        ensure_eq!(tp.windows(), 1);
        tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
        ensure_eq!(x.to_vec()?, [tp.size() as f32; 100]);
        ids.push(tp.id());
    }
    ensure!(
        ids.is_sorted_by(|a, b| a < b),
        "a generation is never used twice: {ids:?}"
    );
    Ok(())
}

fn a_shared_arena_outlives_one_of_its_groups<B: Backend>(world: &World<B>) -> Outcome {
    let right = world.split::<Right>(0, 0)?;
    let mut kept = symm!(group = right, { right.from_slice(&[1i32; 50])? })?;
    for _ in 0..3 {
        let left = world.split::<Left>(0, 0)?;
        ensure_eq!(left.arena(), right.arena());
        let mut x = symm!(group = left, { left.from_slice(&[2i32; 50])? })?;
        ensure_eq!(
            (
                left.windows(),
                right.windows(),
                world.pool().stats().segments
            ),
            (1, 1, 1)
        );
        left.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
        ensure_eq!(x.to_vec()?, [2 * left.size() as i32; 50]);
    }
    right.all_reduce_in_place(&mut kept, ReduceOp::Sum)?;
    ensure_eq!(kept.to_vec()?, [right.size() as i32; 50]);
    Ok(())
}
