//! The pool: exact bytes, growth, reuse, and the same placement on all ranks.

use std::collections::BTreeSet;

use symm_core::{ArenaStats, Backend, Buf, Element, Error, GroupTag, Result, SymmBuf, World, symm};

use super::data::Rng;
use super::ranks::{alike, told};
use super::{Case, Cp, Failure, Left, Outcome, Right, Tp, settles};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        counts_exact_bytes,
        a_freed_block_is_reused,
        the_lowest_block_of_the_size_comes_first,
        freed_neighbours_merge,
        segments_grow,
        a_large_allocation_gets_a_segment_of_its_own,
        reserves_what_it_is_told,
        sealed_it_does_not_grow,
        a_refused_allocation_changes_nothing,
        arenas_are_named_after_their_groups,
        arenas_end_with_their_groups,
        digests_follow_the_history,
        placement_is_equal_whatever_the_order_of_frees,
        what_one_rank_allocates_elsewhere_changes_nothing,
        groups_with_arenas_of_their_own_do_not_disturb_each_other,
    ]
}

const MIB: u64 = 1 << 20;

/// Where the buffer lies in its arena.
fn place<T: Element, G: GroupTag, B: Backend>(buf: &SymmBuf<T, G, B>) -> (usize, u64) {
    buf.position().map_or((usize::MAX, 0), |position| {
        (position.segment, position.offset)
    })
}

fn counts_exact_bytes<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    // Bytes, blocks and allocations now, and the most bytes so far.
    let counted = || {
        let arena = &world.pool().stats().arenas[0];
        let ArenaStats {
            live_bytes,
            live_blocks,
            allocations,
            peak_live_bytes,
            ..
        } = *arena;
        (live_bytes, live_blocks, allocations, peak_live_bytes)
    };
    let bufs = symm!(group = tp, {
        [1, 512, 513, 0].map(|len| tp.empty::<u8>(len))
    })?;
    let mut bufs = bufs.into_iter().collect::<Result<Vec<_>>>()?;
    ensure_eq!(counted(), (512 + 512 + 1024 + 512, 4, 4, 2560));
    bufs.truncate(1);
    ensure_eq!(counted(), (512, 1, 4, 2560));
    bufs.push(symm!(group = tp, { tp.empty(700)? })?);
    ensure_eq!(counted(), (1536, 2, 5, 2560));

    let stats = world.pool().stats();
    ensure_eq!((stats.live_bytes(), stats.plain_live_bytes), (1536, 0));
    ensure_eq!((stats.reserved_bytes, stats.segments), (8 * MIB, 1));
    ensure_eq!(
        (stats.arenas[0].reserved_bytes, stats.arenas[0].segments),
        (8 * MIB, 1)
    );
    drop(bufs);
    ensure_eq!(world.pool().stats().live_bytes(), 0);
    Ok(())
}

fn a_freed_block_is_reused<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let first = symm!(group = tp, { tp.empty::<f32>(1 << 20)? })?;
    let address = first.address();
    drop(first);
    for round in 0..1000 {
        let again = symm!(group = tp, { tp.empty::<f32>(1 << 20)? })?;
        ensure_eq!(again.address(), address, "round {round}");
    }
    ensure_eq!(world.pool().stats().reserved_bytes, 8 * MIB);
    Ok(())
}

fn the_lowest_block_of_the_size_comes_first<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let take =
        |len: usize| -> Outcome<SymmBuf<u8, Tp, B>> { Ok(symm!(group = tp, { tp.empty(len)? })?) };
    let mut bufs: Vec<_> = (0..8)
        .map(|_| take(1024).map(Some))
        .collect::<Outcome<_>>()?;
    // The last that was freed is the highest: most allocators would hand it out first.
    for freed in [1, 3, 6] {
        bufs[freed] = None;
    }
    let (a, b) = (take(1024)?, take(1024)?);
    ensure_eq!((place(&a), place(&b)), ((0, 1024), (0, 3 * 1024)));
    let smaller = take(512)?;
    ensure_eq!(
        place(&smaller),
        (0, 6 * 1024),
        "best fit: the hole, not the rest of the segment"
    );
    Ok(())
}

fn freed_neighbours_merge<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let take =
        |len: usize| -> Outcome<SymmBuf<u8, Tp, B>> { Ok(symm!(group = tp, { tp.empty(len)? })?) };
    let mut bufs: Vec<_> = (0..5)
        .map(|_| take(1024).map(Some))
        .collect::<Outcome<_>>()?;
    for freed in [3, 1, 2] {
        bufs[freed] = None;
    }
    let merged = take(3 * 1024)?;
    ensure_eq!(place(&merged), (0, 1024));
    drop((bufs, merged));
    let all = take(8 << 20)?;
    ensure_eq!(place(&all), (0, 0), "the whole segment is one range again");
    Ok(())
}

fn segments_grow<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut kept = Vec::new();
    // 8, 128, 128 MiB: as many buffers of 8 MiB fit as there are bytes.
    for reserved in [[8].as_slice(), &[136; 16], &[264]].concat() {
        kept.push(symm!(group = tp, { tp.empty::<u8>(8 << 20)? })?);
        ensure_eq!(
            world.pool().stats().reserved_bytes,
            reserved * MIB,
            "after {} buffers",
            kept.len()
        );
    }
    Ok(())
}

fn a_large_allocation_gets_a_segment_of_its_own<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let _large = symm!(group = tp, { tp.empty::<u8>((20 << 20) + 1)? })?;
    ensure_eq!(
        world.pool().stats().reserved_bytes,
        22 * MIB,
        "rounded to the granularity of 2 MiB"
    );
    let _small = symm!(group = tp, { tp.empty::<u8>(1 << 20)? })?;
    ensure_eq!(world.pool().stats().segments, 1, "the rest of it is used");
    Ok(())
}

fn reserves_what_it_is_told<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    tp.reserve(1)?;
    ensure_eq!(
        world.pool().stats().reserved_bytes,
        8 * MIB,
        "not less than the next segment would have"
    );
    tp.reserve(30 << 20)?;
    ensure_eq!(
        (
            world.pool().stats().reserved_bytes,
            world.pool().stats().segments
        ),
        (136 * MIB, 2)
    );
    let _bufs = symm!(group = tp, {
        [tp.empty::<u8>(30 << 20)?, tp.empty::<u8>(8 << 20)?]
    })?;
    ensure_eq!((world.pool().stats().segments, tp.windows()), (2, 2));
    Ok(())
}

fn sealed_it_does_not_grow<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    tp.reserve(8 << 20)?;
    world.pool().seal();
    let outcome = (|| -> Outcome {
        let fits = symm!(group = tp, { tp.empty::<u8>(6 << 20)? })?;
        symm!(group = tp, {
            ensure_matches!(
                tp.empty::<u8>(3 << 20),
                Err(Error::Sealed { need, .. }) if need == 3 * MIB
            );
        })?;
        ensure_matches!(tp.reserve(1), Err(Error::Sealed { .. }));
        ensure!(
            !world.pool().zeros::<u8>(100)?.is_symmetric(),
            "ordinary memory is not sealed"
        );
        drop(fits);
        symm!(group = tp, { tp.empty::<u8>(8 << 20)? })?;
        Ok(())
    })();
    world.pool().unseal();
    outcome?;
    let _grown = symm!(group = tp, { tp.empty::<u8>(9 << 20)? })?;
    ensure_eq!((world.pool().stats().segments, tp.windows()), (2, 2));
    Ok(())
}

fn a_refused_allocation_changes_nothing<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let _kept = symm!(group = tp, { tp.empty::<u8>(1 << 20)? })?;
    let before = world.pool().stats();
    world.pool().seal();
    let refused = symm!(group = tp, {
        [
            tp.empty::<u8>(64 << 20).is_err(),
            tp.empty::<u8>(usize::MAX).is_err(),
        ]
    });
    world.pool().unseal();
    ensure_eq!(refused?, [true; 2]);
    ensure_eq!(world.pool().stats(), before);
    Ok(())
}

fn arenas_are_named_after_their_groups<B: Backend>(world: &World<B>) -> Outcome {
    let (tp, left, right) = (
        world.split::<Tp>(0, 0)?,
        world.split::<Left>(0, 0)?,
        world.split::<Right>(0, 0)?,
    );
    let arena = |name: &str| {
        world
            .pool()
            .stats()
            .arenas
            .into_iter()
            .find(|arena| arena.name == name)
    };
    let _x = symm!(group = tp, { tp.empty::<u8>(1)? })?;
    let _y = symm!(group = left, { left.empty::<u8>(1)? })?;
    let _z = symm!(group = right, { right.empty::<u8>(1)? })?;
    ensure_eq!(world.pool().stats().arenas.len(), 2);
    ensure_eq!(arena(tp.arena()).map(|arena| arena.live_blocks), Some(1));
    ensure_eq!(
        arena(left.arena()).map(|arena| arena.live_blocks),
        Some(2),
        "of both groups that share it"
    );
    ensure_eq!(arena("nobody's"), None);
    Ok(())
}

fn arenas_end_with_their_groups<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let cp = world.split::<Cp>(0, 0)?;
    let x = symm!(group = tp, { tp.empty::<u8>(1)? })?;
    let y = symm!(group = cp, { cp.empty::<u8>(1)? })?;
    ensure_eq!(world.pool().stats().arenas.len(), 2);
    drop((cp, y));
    settles(world, |stats| {
        stats.arenas.len() == 1 && stats.segments == 1
    })?;
    ensure_eq!(world.pool().stats().arenas[0].name, tp.arena());
    drop(x);
    ensure_eq!(
        world.pool().stats().segments,
        1,
        "the group's arena keeps its segment"
    );
    Ok(())
}

fn digests_follow_the_history<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let digest = || world.pool().stats().arenas[0].digest;
    let mut digests = vec![digest()];
    for len in [100, 100, 5000] {
        symm!(group = tp, { tp.empty::<u8>(len)? })?;
        digests.push(digest());
    }
    let distinct: BTreeSet<_> = digests.iter().collect();
    ensure_eq!(
        distinct.len(),
        digests.len(),
        "every allocation shows: {digests:x?}"
    );
    alike(world, &tp, &digests, "digests")?;

    // Equal sizes in equal order, but a free in one of the arenas moves what comes after it.
    let groups = [world.split::<Cp>(0, 0)?, world.split::<Cp>(0, 0)?];
    let ends = groups.each_ref().map(|cp| -> Outcome<u64> {
        let mut bufs = symm!(group = cp, {
            vec![cp.empty::<u8>(10)?, cp.empty::<u8>(10)?]
        })?;
        if cp.id() == groups[0].id() {
            bufs.remove(0);
        }
        bufs.push(symm!(group = cp, { cp.empty::<u8>(10)? })?);
        let stats = world.pool().stats();
        let digest = stats
            .arenas
            .iter()
            .find(|arena| arena.name == cp.arena())
            .map(|arena| arena.digest);
        digest.ok_or_else(|| Failure::new("no arena of that name"))
    });
    let [moved, stayed] = ends;
    ensure!(moved? != stayed?, "places show");
    Ok(())
}

fn placement_is_equal_whatever_the_order_of_frees<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut program = Rng::new(11); // the same on all ranks
    let mut own = Rng::new(100 + world.rank() as u64); // this rank's order of frees
    let mut live: Vec<(usize, SymmBuf<u8, Tp, B>)> = Vec::new();
    let mut named = 0;
    for _ in 0..100 {
        symm!(group = tp, {
            for _ in 0..program.below(8) {
                live.push((named, tp.empty(1 + program.below(200_000))?));
                named += 1;
            }
        })?;
        // Which are freed is the program's choice, in which order is each rank's own: as a map
        // iterates differently in every process.
        let mut freed: Vec<usize> = live
            .iter()
            .map(|(name, _)| *name)
            .filter(|_| program.below(3) == 0)
            .collect();
        while !freed.is_empty() {
            let name = freed.swap_remove(own.below(freed.len()));
            live.retain(|(other, _)| *other != name);
        }
    }
    let mut words = vec![world.pool().stats().arenas[0].digest];
    live.sort_by_key(|(name, _)| *name);
    for (_, buf) in &live {
        let (segment, offset) = place(buf);
        words.extend([segment as u64, offset]);
    }
    alike(world, &tp, &words, "placements")
}

fn what_one_rank_allocates_elsewhere_changes_nothing<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut kept = Vec::new();
    let (a, b) = symm!(group = tp, {
        let a = tp.empty::<u8>(100)?;
        if world.rank() == 0 {
            let _ordinary = tp.suspend()?;
            kept.push(Buf::<u8, B>::empty(3000)?);
        }
        kept.push(world.pool().empty(1 + world.rank())?);
        (a, tp.empty::<u8>(100)?)
    })?;
    let digest = world.pool().stats().arenas[0].digest;
    alike(
        world,
        &tp,
        &[place(&a).1, place(&b).1, digest],
        "placements",
    )
}

fn groups_with_arenas_of_their_own_do_not_disturb_each_other<B: Backend>(
    world: &World<B>,
) -> Outcome {
    // Context parallel ranks hold unequal numbers of tokens, so the buffers of `cp` differ from one
    // `tp` group to the other; those of `tp` may not.
    let tp = world.split::<Tp>(0, 0)?;
    let alone = world.split::<Cp>(world.rank(), 0)?;
    let _uneven = symm!(group = alone, {
        alone.empty::<u8>(1000 * (1 + world.rank()))?
    })?;
    let x = symm!(group = tp, { tp.empty::<u8>(10)? })?;
    let _more = symm!(group = alone, {
        alone.empty::<u8>((9 << 20) * world.rank())?
    })?;
    let y = symm!(group = tp, { tp.empty::<u8>(10)? })?;
    let all = told(world, &tp, &[place(&x).1, place(&y).1])?;
    ensure_eq!(all, vec![vec![0, 512]; tp.size()]);
    Ok(())
}
