//! Graphs with collectives, and what must stay as long as they live.

use super::*;
use crate::backend::host::graph::Recording;

/// The sum over the ranks of the byte at `at`, in its place.
fn sum(rank: &Rank, at: u64) -> Call {
    Call {
        dtype: Dtype::U8,
        ..rank.call(Op::AllReduce(ReduceOp::Sum), 1, at, at)
    }
}

/// The same where NCCL has a symmetric kernel for it.
fn symmetric_sum(rank: &Rank, at: u64) -> Call {
    rank.call(Op::AllReduce(ReduceOp::Sum), 1, at, at)
}

fn begin(rank: &Rank) -> Result<Recording> {
    Host::begin_capture(&rank.device, &rank.stream, CaptureMode::ThreadLocal)
}

#[test]
fn collectives_replay_among_eager_ones() {
    for (ranks, seed) in (2..=4).flat_map(|ranks| [(ranks, 1), (ranks, 2), (ranks, 3)]) {
        let results = world(ranks, Options::default().seed(seed), |rank| {
            let (memory, side) = (rank.plain(8), Host::new_stream(&rank.device)?);
            let (at, around) = (memory.base(), memory.base() + 4);
            let (next, before) = ((rank.rank + 1) % ranks, (rank.rank + ranks - 1) % ranks);
            let ring = |to: u64| {
                let recv = rank.call(Op::Recv { peer: before }, 1, 0, to + 2);
                [rank.call(Op::Send { peer: next }, 1, to, 0), recv]
            };
            let graph = rank.record(|| {
                change(&rank.stream, at, |x| x + 1)?;
                Host::wait_stream(&side, &rank.stream)?;
                rank.launch(&[sum(rank, at)])?;
                // SAFETY: the memory lives to the end of the closure.
                unsafe { Host::launch(&rank.device, &rank.comm, &side, &ring(around)) }?;
                Host::wait_stream(&rank.stream, &side)
            })?;
            let labels = Host::graph_nodes(&rank.device, &graph)?;
            assert_eq!(
                labels,
                ["change", "plain all_reduce", "plain send", "plain recv"]
            );
            let mut expected = 0_u8;
            for turn in 0..6 {
                rank.write(around, &[rank.rank as u8, turn])?;
                rank.replay(&graph)?;
                assert_eq!(
                    rank.read(&rank.stream, around + 2, 2)?,
                    [before as u8, turn]
                );
                rank.launch(&[sum(rank, at)])?;
                rank.launch(&ring(around))?;
                rank.replay(&graph)?;
                for step in [1, 0, 1] {
                    expected = (expected.wrapping_add(step)).wrapping_mul(ranks as u8);
                }
                assert_eq!(rank.read(&rank.stream, at, 1)?, [expected], "turn {turn}");
            }
            Host::destroy_graph(&rank.device, graph)
        });
        results.into_iter().for_each(|result| result.unwrap());
    }
}

#[test]
fn two_graphs_follow_the_order_of_their_launches() {
    let results = world(3, Options::default(), |rank| {
        let memory = rank.plain(8);
        let at = memory.base();
        let add = rank.record(|| change(&rank.stream, at, |x| x + 1))?;
        let reduce = rank.record(|| rank.launch(&[sum(rank, at)]))?;
        let other = Host::new_stream(&rank.device)?;
        for graph in [&add, &reduce, &add, &add, &reduce] {
            rank.replay(graph)?;
        }
        Host::wait_stream(&other, &rank.stream)?;
        // SAFETY: the memory lives to the end of the closure.
        unsafe { Host::launch_graph(&rank.device, &add, &other) }?;
        rank.read(&other, at, 1)
    });
    results
        .into_iter()
        .for_each(|result| assert_eq!(result.unwrap(), [16]));
}

#[test]
fn ranks_that_replay_differently_hear_of_it() {
    let results = world(2, Options::default(), |rank| {
        let memory = rank.plain(8);
        let graphs = [
            rank.record(|| rank.launch(&[sum(rank, memory.base())]))?,
            rank.record(|| rank.launch(&[symmetric_sum(rank, memory.base())]))?,
        ];
        rank.replay(&graphs[rank.rank])?;
        Host::synchronize(&rank.stream)
    });
    for result in results {
        assert!(
            matches!(&result, Err(Error::RanksDiffer { .. })),
            "{result:?}"
        );
    }
}

#[test]
fn nodes_say_whether_windows_are_used() {
    let results = world(2, Options::default(), |rank| {
        let (segment, plain) = (rank.segment(), rank.plain(8));
        let window = rank.register(&segment)?.unwrap();
        let avoiding = Call {
            avoid_windows: true,
            ..symmetric_sum(rank, segment.base())
        };
        let graph = rank.record(|| {
            rank.launch(&[symmetric_sum(rank, segment.base())])?;
            rank.launch(&[avoiding])?;
            rank.launch(&[symmetric_sum(rank, plain.base())])
        })?;
        assert_eq!(
            Host::graph_nodes(&rank.device, &graph)?,
            [
                "symmetric all_reduce",
                "plain all_reduce",
                "plain all_reduce"
            ]
        );
        rank.replay(&graph)?;
        Host::synchronize(&rank.stream)?;
        drop(graph);
        Host::deregister(&rank.device, &rank.comm, window)
    });
    results.into_iter().for_each(|result| result.unwrap());
}

#[test]
fn a_window_that_went_in_the_capture_is_stale_at_the_launch() {
    for again in [false, true] {
        let results = world(2, Options::default(), |rank| {
            let segment = rank.segment();
            let window = rank.register(&segment)?.unwrap();
            let graph = rank.record(|| {
                rank.launch(&[symmetric_sum(rank, segment.base())])?;
                Host::deregister(&rank.device, &rank.comm, window)
            })?;
            if again {
                rank.register(&segment)?;
            }
            let stale = rank.replay(&graph);
            // Nothing of it was enqueued: the ranks are where they were.
            rank.launch(&[sum(rank, segment.base())])?;
            Host::synchronize(&rank.stream)?;
            stale
        });
        for result in results {
            assert_eq!(rule(&result), Rule::StaleWindow);
        }
    }
}

#[test]
fn a_live_graph_keeps_its_windows_and_its_communicator() {
    let results = world(2, Options::default(), |rank| {
        let split = Split {
            id: 7,
            color: 0,
            members: [0, 1].into(),
            rank: rank.rank,
        };
        let comm = Host::split(&rank.device, &rank.comm, &split)?;
        let (used, unused) = (rank.segment(), rank.segment());
        let window = Host::register(&rank.device, &comm, &used)?.unwrap();
        let other = Host::register(&rank.device, &comm, &unused)?.unwrap();
        let call = symmetric_sum(rank, used.base());
        // SAFETY: the segment lives to the end of the closure.
        let launch = || unsafe { Host::launch(&rank.device, &comm, &rank.stream, &[call]) };
        let graph = rank.record(launch)?;
        Host::deregister(&rank.device, &comm, other)?;
        let refused = Host::deregister(&rank.device, &comm, window.clone());
        assert_eq!(rule(&refused), Rule::GraphAlive);
        rank.replay(&graph)?;
        Host::synchronize(&rank.stream)?;
        Host::destroy_graph(&rank.device, graph)?;
        Host::deregister(&rank.device, &comm, window)?;
        let _graph = rank.record(launch)?;
        let refused = Host::destroy(&rank.device, comm);
        assert_eq!(rule(&refused), Rule::GraphAlive);
        Ok(())
    });
    results.into_iter().for_each(|result| result.unwrap());
}

/// A graph whose launches do not end before the guard is dropped, and a value that it holds.
fn held<'a>(
    rank: &Rank,
    gate: &'a Arc<Mutex<()>>,
) -> Result<(Graph, std::sync::MutexGuard<'a, ()>, std::sync::Weak<()>)> {
    let (closed, value) = (Arc::clone(gate), Arc::new(()));
    let weak = Arc::downgrade(&value);
    let graph = rank.record(|| {
        rank.stream.push(Step::Run {
            label: "gate",
            kernel: Arc::new(move |_| {
                let _held = &value;
                drop(closed.lock().unwrap());
                Ok(())
            }),
        })
    })?;
    Ok((graph, gate.lock().unwrap(), weak))
}

#[test]
fn a_graph_is_given_back_when_its_launches_are_done() {
    let results = world(1, Options::default(), |rank| {
        let gate = Arc::default();
        let (graph, guard, value) = held(rank, &gate)?;
        rank.replay(&graph)?;
        rank.replay(&graph)?;
        let early = Host::destroy_graph(&rank.device, graph);
        assert_eq!(rule(&early), Rule::GraphAlive);
        drop(guard);
        Host::synchronize(&rank.stream)?;
        assert_eq!(value.strong_count(), 0, "what it held went with the work");

        let (graph, guard, value) = held(rank, &gate)?;
        rank.replay(&graph)?;
        drop(guard);
        Host::synchronize(&rank.stream)?;
        assert_eq!(value.strong_count(), 1);
        Host::destroy_graph(&rank.device, graph)?;
        assert_eq!(value.strong_count(), 0);

        let (graph, guard, value) = held(rank, &gate)?;
        rank.replay(&graph)?;
        drop(graph);
        drop(guard);
        Host::synchronize(&rank.stream)?;
        assert_eq!(value.strong_count(), 0, "a graph that was only dropped");
        Ok(())
    });
    results.into_iter().for_each(|result| result.unwrap());
}

#[test]
fn a_dead_device_launches_and_captures_nothing() {
    let results = world(1, Options::default(), |rank| {
        let memory = rank.plain(8);
        let graph = rank.record(|| change(&rank.stream, memory.base(), |x| x + 1))?;
        let recording = begin(rank)?;
        let other = Host::new_stream(&rank.device)?;
        other.submit("a bad kernel", Box::new(|_| panic!("out of range")))?;
        let died = Host::synchronize(&other);
        let dead = |result: Result<()>| {
            assert!(
                matches!(&result, Err(Error::Backend { text, .. }) if text.contains("out of range"))
            );
        };
        dead(died);
        dead(rank.replay(&graph));
        dead(Host::end_capture(&rank.device, recording).map(drop));
        dead(begin(rank).map(drop));
        Host::destroy_graph(&rank.device, graph)
    });
    results.into_iter().for_each(|result| result.unwrap());
}

#[test]
fn graphs_and_streams_of_another_device_are_refused() {
    let others = Mutex::new(Vec::new());
    let results = world(2, Options::default(), |rank| {
        let memory = rank.plain(8);
        let graph = rank.record(|| rank.launch(&[sum(rank, memory.base())]))?;
        others
            .lock()
            .unwrap()
            .push((rank.rank, graph, rank.stream.clone()));
        rank.launch(&[sum(rank, memory.base())])?;
        Host::synchronize(&rank.stream)?;
        // Both have come here, so both have left theirs.
        let taken = others.lock().unwrap();
        let (_, graph, stream) = taken.iter().find(|(of, ..)| *of != rank.rank).unwrap();
        let wrong = |result: Result<()>| assert!(matches!(result, Err(Error::WrongDevice { .. })));
        wrong(rank.replay(graph));
        wrong(Host::begin_capture(&rank.device, stream, CaptureMode::Relaxed).map(drop));
        Ok(())
    });
    results.into_iter().for_each(|result| result.unwrap());
}
