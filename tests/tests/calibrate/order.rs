//! Two communicators in flight, eager and in graphs.

use std::sync::{Arc, Mutex};

use symm_core::host::Options;
use symm_core::{Graph, GraphPool, Host, Path, ReduceOp, Result, host, plain_mut, symm};

use crate::{FASTER, Folder, KIB, Tp, config, configured, slow_at_16k, sum};

#[test]
fn captures_fix_the_path_and_replays_keep_it() {
    let folder = Folder::new();
    let config = config(&folder, "slow at 16k", slow_at_16k);
    config
        .run(3, |world| {
            let tp = world.split::<Tp>(0, 0)?;
            let mut x = symm!(group = tp, { tp.zeros::<f32>(4 * KIB)? })?;
            let graphs = GraphPool::new(world.pool());
            let captured = || {
                graphs.capture(world.stream(), |_| -> Result<_> {
                    let mut y = symm!(group = tp, { tp.empty::<f32>(4 * KIB)? })?;
                    let path = tp.all_reduce(&x, &mut y, ReduceOp::Sum)?;
                    Ok((y, path))
                })
            };
            let mut windowed = captured()?;
            tp.calibrate()?;
            let mut twin = captured()?;
            assert_eq!(
                (windowed.output().1, twin.output().1),
                (Path::Symmetric, FASTER)
            );
            let nodes = |graph: &Graph<_, Host>| graph.stats().nodes.join(", ");
            let nodes = [nodes(&windowed), nodes(&twin)];
            assert!(nodes[0].contains("symmetric all_reduce"), "{nodes:?}");
            assert!(nodes[1].contains("plain all_reduce"), "{nodes:?}");
            for round in 0..3 {
                x.copy_from_slice(&vec![round as f32; 4 * KIB])?;
                for graph in [&mut windowed, &mut twin] {
                    graph.launch()?;
                    assert_eq!(
                        graph.output().0.to_vec()?,
                        vec![3.0 * round as f32; 4 * KIB]
                    );
                }
                assert_eq!(sum(&tp, 16)?, FASTER);
            }
            // The graph holds the twin, as it holds the group's first communicator.
            drop((windowed, tp));
            twin.launch()?;
            assert_eq!(twin.output().0.to_vec()?, vec![6.0; 4 * KIB]);
            assert_eq!(world.pool().stats().twins, 1);
            Ok(())
        })
        .unwrap();
}

/// Two sums on two streams, of so many KiB each. Says for each turn whether what was enqueued before
/// the first had run when what came behind the second did: in graph replays if `captured`.
fn follows(seed: u64, kib: [usize; 2], captured: bool) -> Vec<bool> {
    let folder = Folder::new();
    let options = Options::default()
        .costs("slow at 16k", slow_at_16k)
        .seed(seed);
    let orders = configured(&folder, options).run(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        tp.calibrate()?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let logs = |number: usize| {
            let log = Arc::clone(&log);
            move |[]: [&[f32]; 0], [_]: [&mut [f32]; 1]| log.lock().unwrap().push(number)
        };
        let mut marks = [world.pool().zeros::<f32>(1)?, world.pool().zeros::<f32>(1)?];
        let [mut first, mut second] = symm!(group = tp, {
            [
                tp.zeros::<f32>(kib[0] * KIB / 4)?,
                tp.zeros::<f32>(kib[1] * KIB / 4)?,
            ]
        })?;
        let streams = [world.new_stream()?, world.new_stream()?];
        let [mark, behind] = &mut marks;
        let mut both = || -> Result<()> {
            let guard = world.on_stream(&streams[0])?;
            host::launch([], [plain_mut(&mut *mark)], logs(1))?;
            tp.all_reduce_in_place(&mut first, ReduceOp::Sum)?;
            guard.end()?;
            let guard = world.on_stream(&streams[1])?;
            tp.all_reduce_in_place(&mut second, ReduceOp::Sum)?;
            host::launch([], [plain_mut(&mut *behind)], logs(2))?;
            guard.end()
        };
        // The second stream first: nothing runs before it has to.
        let drained = || {
            streams.iter().rev().try_for_each(|stream| {
                let guard = world.on_stream(stream)?;
                world.synchronize()?;
                guard.end()
            })
        };
        let (turns, graphs) = (3, GraphPool::new(world.pool()));
        if captured {
            let mut graph = graphs.capture(world.stream(), |_| both())?;
            drained()?; // of the prime
            log.lock().unwrap().clear();
            for _ in 0..turns {
                graph.launch()?;
                world.synchronize()?;
            }
        } else {
            for _ in 0..turns {
                both()?;
                drained()?;
            }
        }
        drop(marks);
        let log = log.lock().unwrap();
        Ok(log.chunks(2).map(|turn| turn == [1, 2]).collect::<Vec<_>>())
    });
    orders.unwrap().concat()
}

#[test]
fn the_two_communicators_follow_each_other() {
    for captured in [false, true] {
        let all = |kib| (0..6).flat_map(move |seed| follows(seed, kib, captured));
        assert!(
            all([8, 16]).all(|follows| follows),
            "the twin, captured: {captured}"
        );
        assert!(
            all([16, 8]).all(|follows| follows),
            "windows, captured: {captured}"
        );
        // On one communicator NCCL does it, and this backend does not.
        assert!(
            !all([8, 8]).all(|follows| follows),
            "no order shows: {captured}"
        );
    }
}
