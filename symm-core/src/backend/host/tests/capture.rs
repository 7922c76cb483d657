//! What a capture holds, what joins it, and what it refuses.

use super::*;

fn seeds() -> impl Iterator<Item = u64> {
    0..20
}

fn one<R: Send>(seed: u64, rank: impl Fn(&Rank) -> Result<R> + Sync) -> Result<R> {
    world(1, Options::default().seed(seed), rank)
        .pop()
        .expect("one rank")
}

#[test]
fn recorded_work_runs_at_launches_alone_and_in_order() {
    let bytes = one(0, |rank| {
        let memory = rank.plain(8);
        rank.write(memory.base(), &[1; 8])?;
        let graph = rank.record(|| {
            change(&rank.stream, memory.base(), |x| x + 2)?;
            change(&rank.stream, memory.base(), |x| x * 2)?;
            copy(&rank.stream, memory.base() + 1, memory.base(), 1)
        })?;
        let before = rank.read(&rank.stream, memory.base(), 2)?;
        let mut after = Vec::new();
        for _ in 0..3 {
            rank.replay(&graph)?;
            after.extend(rank.read(&rank.stream, memory.base(), 2)?);
        }
        assert_eq!(
            Host::graph_nodes(&rank.device, &graph)?,
            ["change", "change", "copy"]
        );
        Host::destroy_graph(&rank.device, graph)?;
        Ok((before, after))
    });
    assert_eq!(bytes.unwrap(), (vec![1, 1], vec![6, 6, 16, 16, 36, 36]));
}

/// Three streams: a fork, a fork of the fork, and joins. Without `edge` the fork does not come
/// behind the first stream's change.
fn diamond(rank: &Rank, at: u64, edge: bool) -> Result<Graph> {
    let (side, far) = (
        Host::new_stream(&rank.device)?,
        Host::new_stream(&rank.device)?,
    );
    rank.record(|| {
        Host::wait_stream(&side, &rank.stream)?;
        Host::wait_stream(&far, &side)?;
        change(&rank.stream, at, |x| x + 1)?;
        if edge {
            Host::wait_stream(&side, &rank.stream)?;
        }
        copy(&side, at + 1, at, 1)?;
        Host::wait_stream(&far, &side)?;
        copy(&far, at + 2, at + 1, 1)?;
        Host::wait_stream(&side, &far)?;
        Host::wait_stream(&rank.stream, &side)?;
        copy(&rank.stream, at + 3, at + 2, 1)
    })
    // The handles of the joined streams are gone before the first launch.
}

#[test]
fn streams_fork_and_join_by_recorded_edges_alone() {
    let run = |seed: u64, edges: bool| {
        one(seed, |rank| {
            let memory = rank.plain(8);
            let graph = diamond(rank, memory.base(), edges)?;
            let mut right = true;
            for turn in 1..=5 {
                rank.replay(&graph)?;
                right &= rank.read(&rank.stream, memory.base(), 4)? == [turn; 4];
            }
            Ok(right)
        })
        .unwrap()
    };
    assert!(seeds().all(|seed| run(seed, true)));
    assert!(!seeds().all(|seed| run(seed, false)));
}

#[test]
fn a_fork_comes_behind_what_the_launch_found_on_its_stream() {
    for seed in seeds() {
        let bytes = one(seed, |rank| {
            let (memory, side) = (rank.plain(8), Host::new_stream(&rank.device)?);
            let graph = rank.record(|| {
                Host::wait_stream(&side, &rank.stream)?;
                copy(&side, memory.base() + 1, memory.base(), 1)?;
                Host::wait_stream(&rank.stream, &side)
            })?;
            for value in 1..=3 {
                rank.write(memory.base(), &[value])?;
                rank.replay(&graph)?;
                change(&rank.stream, memory.base() + 1, |x| x * 10)?;
            }
            rank.read(&rank.stream, memory.base(), 2)
        });
        assert_eq!(bytes.unwrap(), [3, 30], "seed {seed}");
    }
}

#[test]
fn fences_join_and_order_as_waits_do() {
    for seed in seeds() {
        let bytes = one(seed, |rank| {
            let (memory, side) = (rank.plain(8), Host::new_stream(&rank.device)?);
            let at = memory.base();
            let graph = rank.record(|| {
                change(&rank.stream, at, |x| x + 1)?;
                // SAFETY: the memory lives to the end of the closure.
                let fence = unsafe { Host::fence(&rank.stream, at, 8) }?;
                Host::fence_before(&fence, &side, Access::Read)?;
                copy(&side, at + 1, at, 1)?;
                Host::fence_after(&fence, &side, Access::Read)?;
                Host::fence_before(&fence, &rank.stream, Access::Write)?;
                change(&rank.stream, at, |x| x + 1)
            })?;
            rank.replay(&graph)?;
            rank.replay(&graph)?;
            rank.read(&rank.stream, at, 2)
        });
        assert_eq!(bytes.unwrap(), [4, 3], "seed {seed}");
    }
}

#[test]
fn a_mark_of_an_ended_capture_stands_for_its_stream() {
    for seed in seeds() {
        let byte = one(seed, |rank| {
            let (memory, other) = (rank.plain(8), Host::new_stream(&rank.device)?);
            // SAFETY: the memory lives to the end of the closure.
            let fence = unsafe { Host::fence(&rank.stream, memory.base(), 8) }?;
            let graph = rank.record(|| {
                change(&rank.stream, memory.base(), |x| x + 1)?;
                Host::fence_after(&fence, &rank.stream, Access::Write)
            })?;
            rank.replay(&graph)?;
            Host::fence_before(&fence, &other, Access::Read)?;
            rank.read(&other, memory.base(), 1)
        });
        assert_eq!(byte.unwrap(), [1], "seed {seed}");
    }
}

#[test]
fn a_capture_waits_for_no_work_from_outside() {
    let isolated = |inside: fn(&Rank, &HostStream) -> Result<()>| {
        let result = one(0, |rank| {
            let other = Host::new_stream(&rank.device)?;
            let mode = CaptureMode::Relaxed;
            let recording = Host::begin_capture(&rank.device, &rank.stream, mode)?;
            let waited = inside(rank, &other);
            assert_eq!(rule(&waited), Rule::CaptureIsolation);
            // What follows is lost as well, and so is the capture.
            let lost = Host::wait_stream(&rank.stream, &other);
            assert_eq!(rule(&lost), Rule::CaptureIsolation);
            let ended = Host::end_capture(&rank.device, recording).map(drop);
            Host::synchronize(&rank.stream)?;
            ended
        });
        assert_eq!(rule(&result), Rule::CaptureIsolation);
    };
    // Work of another stream, done or not.
    isolated(|rank, other| Host::wait_stream(&rank.stream, other));
    isolated(|rank, other| {
        let memory = Host::alloc_plain(other, 8)?;
        change(other, memory.base(), |x| x)?;
        Host::synchronize(other)?;
        Host::wait_stream(&rank.stream, other)
    });
    // Of a stream that has joined since.
    isolated(|rank, other| {
        // SAFETY: there is no memory to be used.
        let fence = unsafe { Host::fence(other, 0, 1) }?;
        Host::wait_stream(other, &rank.stream)?;
        Host::fence_before(&fence, &rank.stream, Access::Read)
    });
    // Of another capture.
    isolated(|rank, other| {
        let _second = Host::begin_capture(&rank.device, other, CaptureMode::ThreadLocal)?;
        Host::wait_stream(&rank.stream, other)
    });
}

#[test]
fn all_that_joined_must_be_waited_for_to_its_end() {
    let unjoined = |inside: fn(&Rank, &HostStream, u64) -> Result<()>| {
        let result = one(0, |rank| {
            let (memory, side) = (rank.plain(8), Host::new_stream(&rank.device)?);
            let graph = rank.record(|| inside(rank, &side, memory.base())).map(drop);
            // In any case the streams go on as before.
            change(&side, memory.base(), |x| x + 7)?;
            assert_eq!(rank.read(&side, memory.base(), 1)?, [7]);
            graph
        });
        assert_eq!(rule(&result), Rule::CaptureUnjoined);
    };
    unjoined(|rank, side, _| Host::wait_stream(side, &rank.stream));
    unjoined(|rank, side, at| {
        Host::wait_stream(side, &rank.stream)?;
        Host::wait_stream(&rank.stream, side)?;
        change(side, at, |x| x)
    });
    // Joined by a stream that is not joined itself.
    unjoined(|rank, side, at| {
        let far = Host::new_stream(&rank.device)?;
        Host::wait_stream(side, &rank.stream)?;
        Host::wait_stream(&far, side)?;
        change(&far, at, |x| x)?;
        Host::wait_stream(&rank.stream, side)?;
        Host::wait_stream(side, &far)
    });
}

#[test]
fn what_a_capture_cannot_hold_breaks_it() {
    type Call = fn(&Rank, &Graph, u64) -> Result<()>;
    let calls: [(&str, Call); 5] = [
        ("synchronize", |rank, _, _| Host::synchronize(&rank.stream)),
        ("download", |rank, _, at| {
            rank.read(&rank.stream, at, 1).map(drop)
        }),
        ("upload", |rank, _, at| rank.write(at, &[1])),
        ("alloc_plain", |rank, _, _| {
            Host::alloc_plain(&rank.stream, 8).map(drop)
        }),
        ("launch_graph", |rank, graph, _| rank.replay(graph)),
    ];
    for (name, call) in calls {
        let result = one(0, |rank| {
            let memory = rank.plain(8);
            let graph = rank.record(|| Ok(()))?;
            let broken = rank.record(|| {
                let refused = call(rank, &graph, memory.base());
                let Err(Error::Violation { detail, .. }) = &refused else {
                    panic!("{name}: {refused:?}")
                };
                assert!(detail.starts_with(name), "{detail}");
                assert_eq!(rule(&refused), Rule::CaptureUnsupported);
                // The first error is the one that counts.
                let other = Host::new_stream(&rank.device)?;
                let later = Host::wait_stream(&rank.stream, &other);
                assert_eq!(rule(&later), Rule::CaptureUnsupported);
                let joins = Host::wait_stream(&other, &rank.stream);
                assert_eq!(rule(&joins), Rule::CaptureUnsupported);
                Ok(())
            });
            call(rank, &graph, memory.base())?;
            broken.map(drop)
        });
        assert_eq!(rule(&result), Rule::CaptureUnsupported, "{name}");
    }
}

#[test]
fn a_stream_is_in_one_capture_and_another_call_to_begin_changes_nothing() {
    one(0, |rank| {
        let (memory, side) = (rank.plain(8), Host::new_stream(&rank.device)?);
        let (device, at) = (&rank.device, memory.base());
        let graph = rank.record(|| {
            Host::wait_stream(&side, &rank.stream)?;
            for stream in [&rank.stream, &side] {
                let second = Host::begin_capture(device, stream, CaptureMode::Global);
                assert_eq!(rule(&second), Rule::CaptureUnsupported);
            }
            change(&side, at, |x| x + 1)?;
            Host::wait_stream(&rank.stream, &side)
        })?;
        rank.replay(&graph)?;
        assert_eq!(rank.read(&rank.stream, at, 1)?, [1]);
        Host::destroy_graph(device, graph)
    })
    .unwrap();
}

#[test]
fn captures_side_by_side_do_not_mix() {
    let bytes = one(0, |rank| {
        let (memory, other) = (rank.plain(8), Host::new_stream(&rank.device)?);
        let (device, at, mode) = (&rank.device, memory.base(), CaptureMode::Global);
        let first = Host::begin_capture(device, &rank.stream, mode)?;
        let second = Host::begin_capture(device, &other, mode)?;
        change(&rank.stream, at, |x| x + 1)?;
        change(&other, at, |x| x + 10)?;
        let first = Host::end_capture(device, first)?;
        change(&rank.stream, at, |x| x + 100)?;
        let second = Host::end_capture(device, second)?;
        for graph in [&first, &second, &second, &first, &second] {
            rank.replay(graph)?;
        }
        rank.read(&rank.stream, at, 1)
    });
    assert_eq!(bytes.unwrap(), [132]);
}

#[test]
fn a_capture_that_is_dropped_leaves_no_trace() {
    one(0, |rank| {
        let memory = rank.plain(8);
        let own = rank.stream.clone();
        let recording = Host::begin_capture(&rank.device, &rank.stream, CaptureMode::Relaxed)?;
        {
            // A stream whose last handle the record holds, and one whose last handle goes before.
            let (kept, gone) = (
                Host::new_stream(&rank.device)?,
                Host::new_stream(&rank.device)?,
            );
            Host::wait_stream(&gone, &rank.stream)?;
            change(&gone, memory.base(), |x| x + 1)?;
            rank.stream.push(Step::Run {
                label: "holder",
                kernel: Arc::new(move |_| {
                    let _holds = (&kept, &own);
                    Ok(())
                }),
            })?;
        }
        drop(recording);
        change(&rank.stream, memory.base(), |x| x + 2)?;
        assert_eq!(rank.read(&rank.stream, memory.base(), 1)?, [2]);
        Ok(())
    })
    .unwrap();
}

#[test]
fn memory_that_goes_in_a_capture_goes_at_once_behind_what_was_queued() {
    for seed in seeds() {
        let result = one(seed, |rank| {
            let (memory, kept) = (rank.plain(8), rank.plain(8));
            let (from, to) = (memory.base(), kept.base());
            change(&rank.stream, from, |_| 5)?;
            copy(&rank.stream, to, from, 1)?;
            let graph = rank.record(|| {
                copy(&rank.stream, to, from, 1)?;
                drop(memory);
                Ok(())
            })?;
            assert_eq!(rank.read(&rank.stream, to, 1)?, [5]);
            Host::synchronize(&rank.stream)?;
            rank.replay(&graph)?;
            Host::synchronize(&rank.stream)
        });
        assert_eq!(rule(&result), Rule::UseAfterFree, "seed {seed}");
    }
}
