//! Snapshots of a rank's memory: what they say of every byte, with and without a recording.

use std::collections::BTreeMap;

use symm_core::{
    BlockMap, BlockState, Config, GraphPool, Host, ReduceOp, Result, Snapshot, SymmBuf,
    WindowState, World, groups, symm,
};

groups! {
    /// Tensor parallel.
    pub Tp = "tp";
    /// Context parallel, in an arena with [`Dp`].
    pub Cp = "cp";
    /// Data parallel.
    pub Dp = "dp";
    arena(Cp, Dp);
}

const SEGMENT: u64 = 2 << 20;

fn config() -> Config<Host> {
    Config::<Host>::default()
        .first_segment(SEGMENT)
        .segment_cap(SEGMENT)
        .redzones(false)
        .memory_history(1000)
}

/// Every byte of every segment is in one range, and the sums are those of the statistics.
fn check(world: &World<Host>) -> Snapshot {
    let snapshot = world.pool().snapshot();
    let mut ends = vec![0; snapshot.segments.len()];
    for block in &snapshot.blocks {
        assert_eq!(block.offset, ends[block.segment], "{block:?}");
        assert!(block.bytes > 0, "{block:?}");
        ends[block.segment] += block.bytes;
    }
    let bytes: Vec<u64> = snapshot
        .segments
        .iter()
        .map(|segment| segment.bytes)
        .collect();
    assert_eq!(ends, bytes);
    assert!(snapshot.blocks.is_sorted_by_key(|block| block.segment));
    let held = snapshot
        .blocks
        .iter()
        .filter(|block| block.state <= BlockState::Returning);
    assert_eq!(
        held.map(|block| block.bytes).sum::<u64>(),
        snapshot.live_bytes
    );
    let stats = world.pool().stats();
    assert_eq!(snapshot.reserved_bytes, stats.reserved_bytes);
    assert_eq!(snapshot.plain_live_bytes, stats.plain_live_bytes);
    let json = serde_json::to_string(&snapshot).expect("a snapshot is JSON");
    let back: Snapshot = serde_json::from_str(&json).expect("and JSON a snapshot");
    assert_eq!(back, snapshot);
    snapshot
}

fn of(snapshot: &Snapshot, state: BlockState) -> Vec<&BlockMap> {
    let blocks = snapshot.blocks.iter();
    blocks.filter(|block| block.state == state).collect()
}

fn site(line: u32) -> Option<String> {
    Some(format!("{}:{line}", file!()))
}

fn name(group: &Option<String>) -> Option<&str> {
    group.as_deref().and_then(|group| group.split('#').next())
}

#[test]
fn blocks_have_their_group_and_the_line_that_allocated_them() -> Result<()> {
    config().run(2, |world| {
        let (tp, cp, dp) = (
            world.split::<Tp>(0, 0)?,
            world.split::<Cp>(0, 0)?,
            world.split::<Dp>(0, 0)?,
        );
        let (a, line_a) = (symm!(group = tp, { tp.empty::<f32>(100)? })?, line!());
        let line_b = line!() + 1;
        let b = symm!(group = cp, { SymmBuf::<f32, Cp, Host>::zeros(300)? })?;
        let scope = dp.scope()?;
        let (c, line_c) = (scope.from_slice(&[1u8; 2000])?, line!());
        let (d, line_d) = (symm_core::Buf::<u8, Host>::empty(1)?, line!());
        scope.close()?;
        let snapshot = check(&world);
        let live = of(&snapshot, BlockState::Live);
        let told: Vec<_> = live
            .iter()
            .map(|block| {
                (
                    block.bytes,
                    name(&block.group),
                    block.site.clone(),
                    block.sequence,
                )
            })
            .collect();
        let expected = [
            (512, Some("tp"), site(line_a), Some(1)),
            (1536, Some("cp"), site(line_b), Some(2)),
            (2048, Some("dp"), site(line_c), Some(3)),
            (512, Some("dp"), site(line_d), Some(4)),
        ];
        assert_eq!(told, expected);
        assert_eq!(snapshot.sequence, 4);
        // One segment of each arena; both groups have their windows on the second.
        let windows = |segment: usize| {
            let windows = snapshot.segments[segment].windows.iter();
            let windows = windows.map(|window| {
                (
                    name(&Some(window.group.clone())).map(str::to_owned),
                    window.state,
                )
            });
            windows.collect::<Vec<_>>()
        };
        let registered = |group: &str| (Some(group.to_owned()), WindowState::Registered);
        assert_eq!(
            (windows(0), windows(1)),
            (
                vec![registered("tp")],
                vec![registered("cp"), registered("dp")]
            )
        );
        drop((a, b, c, d));
        assert_eq!(
            of(&check(&world), BlockState::Live),
            Vec::<&BlockMap>::new()
        );
        Ok(())
    })?;
    Ok(())
}

#[test]
fn without_a_recording_the_map_is_there_and_the_sites_are_not() -> Result<()> {
    World::<Host>::run(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let scope = tp.scope()?;
        let early = (scope.empty::<u8>(512)?, scope.empty::<u8>(1024)?);
        let pending = check(&world);
        assert_eq!(pending.segments[0].windows[0].state, WindowState::Pending);
        scope.close()?;
        let snapshot = check(&world);
        assert!(!snapshot.recording && snapshot.timeline.is_empty() && snapshot.plain.is_empty());
        let live = of(&snapshot, BlockState::Live);
        let one = live[0];
        // Two neighbours, of which nothing tells where one ends; the group is the only one there.
        assert_eq!(
            (live.len(), one.bytes, &one.site, one.sequence),
            (1, 1536, &None, None)
        );
        assert_eq!(name(&one.group), Some("tp"));

        world.pool().record(true);
        let late = symm!(group = tp, { tp.empty::<u8>(512)? })?;
        let snapshot = check(&world);
        let told = of(&snapshot, BlockState::Live);
        let told: Vec<_> = told
            .iter()
            .map(|block| (block.bytes, block.site.is_some()))
            .collect();
        assert_eq!(told, [(1536, false), (512, true)]);
        // What was there before is freed: the timeline knows.
        drop(early);
        let snapshot = check(&world);
        assert_eq!(
            snapshot.timeline.first().map(|first| first.live_bytes),
            Some(1536)
        );
        assert_eq!(
            snapshot.timeline.last().map(|last| last.live_bytes),
            Some(512)
        );

        world.pool().record(false);
        let snapshot = check(&world);
        assert!(!snapshot.recording && snapshot.blocks.iter().all(|block| block.site.is_none()));
        drop(late);
        Ok(())
    })?;
    Ok(())
}

#[test]
fn what_ranks_have_dropped_and_peers_still_hold_is_returning() -> Result<()> {
    config().run(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let shared = symm!(group = tp, { tp.zeros::<u8>(700)? })?.share()?;
        let kept = (world.rank() == 1).then(|| shared.clone());
        drop(shared);
        let snapshot = check(&world);
        let expected = match world.rank() {
            0 => BlockState::Returning,
            _ => BlockState::Live,
        };
        assert_eq!(
            (snapshot.blocks[0].state, snapshot.blocks[0].bytes),
            (expected, 1024)
        );
        assert!(snapshot.blocks[0].site.is_some());
        // A round, in which nothing comes back as long as one rank holds it.
        drop(symm!(group = tp, { tp.empty::<u8>(SEGMENT as usize)? })?);
        assert_eq!(check(&world).blocks[0].state, expected);
        drop(kept);
        tp.trim()?;
        assert_eq!(check(&world).live_bytes, 0);
        Ok(())
    })?;
    Ok(())
}

#[test]
fn graphs_are_named_on_what_they_write_and_on_what_they_keep() -> Result<()> {
    config().run(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let x = symm!(group = tp, { tp.zeros::<f32>(128)? })?;
        let pool = GraphPool::new(world.pool());
        let step = || {
            pool.capture(world.stream(), |_pass| -> Result<_> {
                let (sum, _temporary) = symm!(group = tp, {
                    (tp.empty::<f32>(128)?, tp.empty::<f32>(1024)?)
                })?;
                let mut sum = sum;
                tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?;
                Ok(sum)
            })
        };
        let (first, second) = (step()?, step()?);
        let snapshot = check(&world);
        let graphs: Vec<_> = snapshot.graphs.iter().map(|graph| graph.name).collect();
        assert_eq!(graphs.len(), 2);
        for graph in &snapshot.graphs {
            assert_eq!(
                (graph.collectives, graph.owned_bytes, graph.leased_bytes),
                (1, 512, 512)
            );
            assert!(graph.site.contains("snapshot.rs:"), "{graph:?}");
        }
        let leased = &snapshot.blocks[0];
        assert_eq!((leased.state, &leased.graphs), (BlockState::Live, &graphs));
        // The temporary is one for both; each has an output of its own.
        let scratch = of(&snapshot, BlockState::Scratch);
        assert_eq!(
            (scratch.len(), scratch[0].bytes, &scratch[0].graphs),
            (1, 4096, &graphs)
        );
        let segment = &snapshot.segments[scratch[0].segment];
        assert_eq!(
            (segment.graph_pool, segment.windows.len()),
            (Some(graphs[0].pool), 1)
        );
        let outputs = of(&snapshot, BlockState::Live);
        let outputs: Vec<_> = outputs
            .iter()
            .filter(|block| block.segment == scratch[0].segment)
            .collect();
        assert_eq!(outputs.len(), 2);
        assert!(
            outputs
                .iter()
                .all(|block| block.graphs.len() == 1 && block.site.is_some())
        );
        assert_ne!(outputs[0].graphs, outputs[1].graphs);
        drop(first);
        let snapshot = check(&world);
        assert_eq!(
            (snapshot.graphs.len(), &snapshot.blocks[0].graphs[..]),
            (1, &graphs[1..])
        );
        drop(second);
        let snapshot = check(&world);
        assert!(snapshot.graphs.is_empty() && of(&snapshot, BlockState::Scratch).is_empty());
        Ok(())
    })?;
    Ok(())
}

#[test]
fn another_thread_sees_the_graph_pools_too() -> Result<()> {
    config().run(1, |world| {
        let pool = GraphPool::new(world.pool());
        let graph = pool.capture(world.stream(), |_pass| {
            symm_core::Buf::<f32, Host>::zeros(100)
        })?;
        let snapshots = std::thread::scope(|scope| scope.spawn(|| world.pool().snapshot()).join());
        let snapshot = snapshots.expect("no panic");
        assert_eq!((snapshot.graphs.len(), snapshot.live_bytes), (1, 512));
        drop(graph);
        Ok(())
    })?;
    Ok(())
}

#[test]
fn ordinary_memory_is_listed_with_its_site() -> Result<()> {
    config().run(1, |world| {
        let (x, line) = (world.pool().zeros::<f32>(10)?, line!());
        let snapshot = check(&world);
        let plain = &snapshot.plain[0];
        assert_eq!(
            (plain.bytes, plain.site.clone(), plain.address),
            (40, site(line), x.address())
        );
        drop(x);
        let snapshot = check(&world);
        assert!(snapshot.plain.is_empty());
        let plain: Vec<u64> = snapshot
            .timeline
            .iter()
            .map(|sample| sample.plain_bytes)
            .collect();
        assert_eq!(plain, [40, 0]);
        Ok(())
    })?;
    Ok(())
}

#[test]
fn the_timeline_is_bounded_and_ends_with_what_is() -> Result<()> {
    config().memory_history(50).run(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        for round in 0..100usize {
            let x = symm!(group = tp, { tp.empty::<u8>(512 * (1 + round))? })?;
            let last = *check(&world).timeline.last().expect("a change");
            assert_eq!(
                (last.live_bytes, last.reserved_bytes),
                (512 * (1 + round as u64), SEGMENT)
            );
            drop(x);
        }
        let snapshot = check(&world);
        assert_eq!(snapshot.timeline.len(), 50);
        assert!(snapshot.timeline.is_sorted_by_key(|sample| sample.at_us));
        Ok(())
    })?;
    Ok(())
}

#[test]
fn a_difference_names_the_line_that_leaks() -> Result<()> {
    config().run(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let early = symm!(group = tp, { tp.empty::<u8>(4096)? })?;
        let before = check(&world);
        let (mut leak, mut line) = (Vec::new(), 0);
        for _ in 0..5 {
            let _scratch = symm!(group = tp, { tp.empty::<u8>(9000)? })?;
            leak.push((symm!(group = tp, { tp.empty::<u8>(600)? })?, line = line!()));
        }
        let (ordinary, other) = (world.pool().zeros::<u8>(100)?, line!());
        let after = check(&world);
        let diff = after.diff(&before);
        assert_eq!((diff.bytes, diff.blocks), (5 * 1024 + 100, 6));
        let rows: Vec<_> = diff
            .rows
            .iter()
            .map(|row| (row.plain, row.site.clone(), row.bytes, row.blocks))
            .collect();
        assert_eq!(
            rows,
            [(false, site(line), 5120, 5), (true, site(other), 100, 1)]
        );
        let table = diff.to_string();
        assert!(
            table.contains(&format!("{:>14}  {:>7}  tp#", 5120, 5)),
            "{table}"
        );
        assert!(
            table.contains(&format!("plain  {}:{other}", file!())),
            "{table}"
        );
        // Neither what was freed nor what stayed is in it.
        assert_eq!(before.diff(&after).rows, []);
        assert_eq!(
            after.diff(&after).to_string(),
            "0 B in 0 blocks are live that were not before"
        );
        drop((early, leak, ordinary));
        assert_eq!(check(&world).diff(&before).bytes, 0);
        Ok(())
    })?;
    Ok(())
}

#[test]
fn a_difference_of_what_nobody_recorded_counts_bytes() -> Result<()> {
    World::<Host>::run(1, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let scope = tp.scope()?;
        let a = scope.empty::<u8>(1024)?;
        let b = scope.empty::<u8>(1024)?;
        let before = check(&world);
        drop(a);
        let c = scope.empty::<u8>(512)?;
        let d = scope.empty::<u8>(2048)?;
        let plain = world.pool().zeros::<u8>(77)?;
        let diff = check(&world).diff(&before);
        // `c` lies where `a` lay: it was live then, too.
        let rows: BTreeMap<_, _> = diff.rows.iter().map(|row| (row.plain, row.bytes)).collect();
        assert_eq!(rows, BTreeMap::from([(false, 2048), (true, 77)]));
        drop((b, c, d, plain));
        scope.close()
    })?;
    Ok(())
}

#[test]
fn a_snapshot_with_wild_figures_is_compared_and_drawn() -> Result<()> {
    let mut snapshot = config().run(1, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let _x = symm!(group = tp, { tp.empty::<u8>(1)? })?;
        Ok(world.pool().snapshot())
    })?;
    let honest = snapshot.remove(0);
    for sequence in [Some(u64::MAX), None] {
        let mut wild = honest.clone();
        for block in &mut wild.blocks {
            (block.segment, block.offset, block.bytes) = (usize::MAX, u64::MAX - 1, u64::MAX);
            (block.state, block.sequence) = (BlockState::Live, sequence);
        }
        wild.plain_live_bytes = u64::MAX;
        assert_eq!(wild.diff(&honest).bytes, u64::MAX);
        assert_eq!(honest.diff(&wild).bytes, 0);
        assert!(wild.to_html().contains("</html>"));
    }
    Ok(())
}

/// Random programs: the map is whole at every step, and the same blocks are live as in a list.
#[test]
fn random_programs_are_mapped_exactly() -> Result<()> {
    config().run(2, |world| {
        let (tp, cp) = (world.split::<Tp>(0, 0)?, world.split::<Cp>(0, 0)?);
        let mut random = fastrand::Rng::with_seed(7);
        let mut live = BTreeMap::new();
        let mut count = 0u64;
        for _ in 0..400 {
            if random.bool() || live.is_empty() {
                let bytes = random.usize(1..40_000);
                let buf = match random.bool() {
                    true => symm!(group = tp, { tp.empty::<u8>(bytes)? })?.into_buf(),
                    false => symm!(group = cp, { cp.empty::<u8>(bytes)? })?.into_buf(),
                };
                count += 1;
                live.insert(count, (bytes.next_multiple_of(512) as u64, buf));
            } else {
                let victim = random.usize(..live.len());
                let victim = *live.keys().nth(victim).expect("one of them");
                live.remove(&victim);
            }
            let snapshot = check(&world);
            let mapped = of(&snapshot, BlockState::Live);
            let mapped: BTreeMap<_, _> = mapped
                .iter()
                .map(|block| (block.sequence, (block.bytes, block.offset)))
                .collect();
            let expected = live.iter().map(|(number, (bytes, buf))| {
                (
                    Some(*number),
                    (*bytes, buf.position().expect("in an arena").offset),
                )
            });
            assert_eq!(mapped, expected.collect::<BTreeMap<_, _>>());
        }
        Ok(())
    })?;
    Ok(())
}
