//! What ends a wait for peers that do not come, and how a device goes on.

use std::sync::Barrier;

use super::super::collective::GARBAGE;
use super::*;
use crate::backend::driver::Releases;

const SHORT: Duration = Duration::from_millis(30);
const SUM: Op = Op::AllReduce(ReduceOp::Sum);

/// Two ranks. Rank 1 fails, and comes to nothing before rank 0 has run its program.
fn stuck<R: Send>(options: Options, program: impl Fn(&Rank) -> Result<R> + Sync) -> R {
    let done = Barrier::new(2);
    let rank = |rank: &Rank| {
        let result = (rank.rank == 0).then(|| program(rank));
        if rank.rank == 1 {
            rank.seat.rendezvous.fail("out of luck");
        }
        done.wait();
        result.transpose()
    };
    let mut results = world(2, options, rank);
    results.remove(0).unwrap().unwrap()
}

impl Rank {
    /// Two collectives, one behind the other, that this rank alone comes to.
    fn launch_alone(&self, at: u64) -> Result<()> {
        self.write(at, &[1; 8])?;
        self.launch(&[self.call(SUM, 4, at, at)])?;
        self.launch(&[self.call(SUM, 2, at + 16, at + 16)])
    }

    fn wait_failure(&self) {
        let failed = self.seat.rendezvous.wait_failure(Duration::from_secs(20));
        assert!(failed.is_some());
    }

    /// Whether the stream is done within a time that is long enough if nothing holds it up.
    fn is_soon_done(&self) -> bool {
        (0..8).any(|_| {
            thread::sleep(Duration::from_millis(5));
            Host::is_done(&self.stream).unwrap()
        })
    }
}

#[test]
fn a_revoked_communicator_lets_its_collectives_go_with_garbage() {
    stuck(Options::default(), |rank| {
        let memory = rank.plain(64);
        let at = memory.base();
        let graph = rank.record(|| rank.launch(&[rank.call(SUM, 4, at, at)]))?;
        rank.launch_alone(at)?;
        rank.wait_failure();
        // Other work goes on meanwhile, and nothing ends the wait.
        let (other, side) = (Host::new_stream(&rank.device)?, rank.plain(8));
        assert_eq!(rank.read(&other, side.base(), 8)?, [0; 8]);
        assert!(!rank.is_soon_done());
        Host::revoke(&rank.device, &rank.comm)?;
        Host::synchronize(&rank.stream)?;
        assert!(Host::is_done(&rank.stream)?);
        let found = rank.read(&rank.stream, at, 24)?;
        assert_eq!(found[..8], [GARBAGE; 8]);
        assert_eq!(found[8..16], [0; 8]);
        assert_eq!(found[16..20], [GARBAGE; 4]);
        // Nothing is launched on it any more, while the device is as good as before.
        let refused = [
            rank.launch(&[rank.call(SUM, 4, at, at)]),
            rank.replay(&graph),
            rank.record(|| rank.launch(&[rank.call(SUM, 4, at, at)]))
                .map(drop),
            rank.register(&rank.segment()).map(drop),
        ];
        assert!(refused.iter().all(|one| rule(one) == Rule::RevokedComm));
        let again = Host::revoke(&rank.device, &rank.comm);
        assert!(matches!(again, Err(Error::Backend { code: 4, .. })));
        rank.write(at, &[7; 4])?;
        assert_eq!(rank.read(&rank.stream, at, 4)?, [7; 4]);
        Host::destroy_graph(&rank.device, graph)
    });
}

#[test]
fn what_a_revoke_can_end_depends_on_the_version() {
    for (version, releases) in [
        (22_806, Releases::Nothing),
        (22_807, Releases::AllButSymmetric),
        (22_906, Releases::AllButSymmetric),
        (22_907, Releases::All),
    ] {
        for symmetric in [false, true] {
            let options = Options::default()
                .nccl_version(version)
                .patience(10 * SHORT);
            // Rank 1 comes to the registration, then leaves rank 0 alone.
            let done = Barrier::new(2);
            let results = world_within(40 * SHORT, 2, options, |rank| {
                let segment = rank.segment();
                rank.register(&segment)?;
                let outcome = (rank.rank == 0).then(|| {
                    let at = segment.base();
                    let mut call = rank.call(SUM, 4, at, at);
                    call.avoid_windows = !symmetric;
                    rank.launch(&[call])?;
                    assert_eq!(Host::releases(&rank.comm), releases);
                    assert!(!rank.is_soon_done());
                    let revoked = Host::revoke(&rank.device, &rank.comm);
                    let unsupported = matches!(revoked, Err(Error::Unsupported { .. }));
                    assert_eq!(unsupported, releases == Releases::Nothing);
                    let soon = rank.is_soon_done();
                    Ok((soon, Host::synchronize(&rank.stream)))
                });
                done.wait();
                outcome.transpose()
            });
            let Ok(Some((soon, synchronized))) = &results[0] else {
                panic!("{:?}", results[0])
            };
            let released = match releases {
                Releases::All => true,
                Releases::AllButSymmetric => !symmetric,
                Releases::Nothing => false,
            };
            assert_eq!(*soon, released, "{version} {symmetric}: {synchronized:?}");
            assert_eq!(
                matches!(synchronized, Err(Error::Timeout { missing, .. }) if missing[..] == [1]),
                !released,
                "{synchronized:?}"
            );
        }
    }
}

#[test]
fn where_nobody_revokes_the_failure_ends_the_wait_and_the_device_can_recover() {
    let options = Options::default().patience(SHORT).memory(4 * MIB);
    stuck(options, |rank| {
        let kept = rank.plain(64);
        rank.write(kept.base(), &[5; 4])?;
        Host::synchronize(&rank.stream)?;
        let (queued, freed) = (rank.plain(MIB), rank.plain(MIB));
        rank.launch_alone(kept.base() + 16)?;
        drop(queued);
        let waited = Host::synchronize(&rank.stream);
        assert!(matches!(waited, Err(Error::PeerFailed { rank: 1, .. })));
        let dead = rank.write(kept.base(), &[6]);
        assert!(matches!(dead, Err(Error::PeerFailed { rank: 1, .. })));
        assert!(Host::is_done(&rank.stream)?);
        drop(freed);
        Host::recover(&rank.device)?;
        assert_eq!(rank.read(&rank.stream, kept.base(), 4)?, [5; 4]);
        // What was freed before the death and after it is free.
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Err(error) = Host::alloc_plain(&rank.stream, 4 * MIB - 64) {
            assert!(Instant::now() < deadline, "{error}");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    });
}

#[test]
fn a_wait_that_a_death_ended_is_an_error_though_the_device_recovers_at_once() {
    let options = Options::default().patience(SHORT);
    stuck(options, |rank| {
        let memory = rank.plain(64);
        rank.launch_alone(memory.base())?;
        thread::scope(|scope| {
            let reading = scope.spawn(|| rank.read(&rank.stream, memory.base(), 8));
            while !reading.is_finished() {
                Host::recover(&rank.device)?;
            }
            let read = reading.join().unwrap();
            assert!(matches!(read, Err(Error::PeerFailed { rank: 1, .. })));
            Ok(())
        })
    });
}

#[test]
fn calls_that_wait_inside_a_communicator_end_with_it() {
    let done = Barrier::new(2);
    let results = world(2, Options::default(), |rank| {
        if rank.rank == 0 {
            let segment = rank.segment();
            let split = Split {
                id: 7,
                ..everyone(&rank.seat)
            };
            thread::scope(|scope| {
                let waiting = [
                    scope.spawn(|| rank.register(&segment).map(drop)),
                    scope.spawn(|| Host::split(&rank.device, &rank.comm, &split).map(drop)),
                ];
                thread::sleep(SHORT);
                Host::revoke(&rank.device, &rank.comm)?;
                for call in waiting {
                    let result = call.join().unwrap();
                    let ended = matches!(result, Err(Error::Backend { code: 6, .. }));
                    assert!(ended || rule(&result) == Rule::RevokedComm, "{result:?}");
                }
                Ok::<(), Error>(())
            })?;
            Host::free_segment(&rank.device, segment)?;
        }
        done.wait();
        Ok(())
    });
    results.into_iter().for_each(|result| result.unwrap());
}

#[test]
fn an_aborted_communicator_leaves_nothing_behind_but_needs_its_graphs_gone() {
    let done = Barrier::new(2);
    let results = world(2, Options::default(), |rank| {
        let segment = rank.segment();
        let at = segment.base();
        for graphs in [false, true] {
            let split = Split {
                id: 20 + u64::from(graphs),
                ..everyone(&rank.seat)
            };
            let comm = Host::connect(&rank.device, &rank.seat, &split)?;
            Host::register(&rank.device, &comm, &segment)?.unwrap();
            let calls = [rank.call(SUM, 4, at, at)];
            // SAFETY: checked by the backend.
            let launch = || unsafe { Host::launch(&rank.device, &comm, &rank.stream, &calls) };
            let graph = graphs.then(|| rank.record(launch)).transpose()?;
            if rank.rank == 0 {
                launch()?;
            }
            let aborted = Host::abort(&rank.device, comm);
            match graph {
                None => aborted?,
                Some(_) => assert_eq!(rule(&aborted), Rule::GraphAlive),
            }
            Host::synchronize(&rank.stream)?;
            done.wait();
            if !graphs {
                let found = rank.read(&rank.stream, at, 8)?;
                assert_eq!(found, [if rank.rank == 0 { GARBAGE } else { 0 }; 8]);
                // The window is gone with its communicator.
                let again = rank.register(&segment)?.unwrap();
                Host::deregister(&rank.device, &rank.comm, again)?;
            }
        }
        done.wait();
        Ok(())
    });
    results.into_iter().for_each(|result| result.unwrap());
}

#[test]
fn a_world_is_rebuilt_with_the_same_names() {
    let results = world(3, Options::default(), |rank| {
        let (memory, soon) = (rank.plain(8), Duration::from_secs(20));
        let rendezvous = &rank.seat.rendezvous;
        let mut comm = Host::connect(
            &rank.device,
            &rank.seat,
            &Split {
                id: 5,
                ..everyone(&rank.seat)
            },
        )?;
        for epoch in 0..3 {
            let at = memory.base();
            rank.write(at, &[1, 0])?;
            let call = Call {
                dtype: Dtype::U8,
                ..rank.call(SUM, 1, at, at)
            };
            // SAFETY: the memory lives to the end of the closure.
            let launch =
                |comm: &Comm| unsafe { Host::launch(&rank.device, comm, &rank.stream, &[call]) };
            launch(&comm)?;
            assert_eq!(rank.read(&rank.stream, at, 1)?, [3]);
            // One fails, the others are in a collective with it.
            if rank.rank == epoch {
                rendezvous.fail("out of luck");
            } else {
                launch(&comm)?;
                rank.wait_failure();
            }
            Host::revoke(&rank.device, &comm)?;
            Host::synchronize(&rank.stream)?;
            rendezvous.convene(0, vec![], soon)?;
            rendezvous.renew();
            Host::recover(&rank.device)?;
            let next = Host::connect(
                &rank.device,
                &rank.seat,
                &Split {
                    id: 5,
                    ..everyone(&rank.seat)
                },
            )?;
            // Also the communicator that nobody revoked is of the past.
            let mine = rank.call(SUM, 1, at, at);
            assert_eq!(rule(&rank.launch(&[mine])), Rule::RevokedComm);
            let old = std::mem::replace(&mut comm, next);
            Host::abort(&rank.device, old)?;
        }
        Host::destroy(&rank.device, comm)
    });
    results.into_iter().for_each(|result| result.unwrap());
}

#[test]
fn what_ranks_have_in_common_is_told_and_captures_are_not_asked_whether_they_are_done() {
    let results = world(1, Options::default().windows(false), |rank| {
        let facts = Host::facts(&rank.device);
        let facts: Vec<_> = facts.iter().map(|(a, b)| (&a[..], &b[..])).collect();
        assert_eq!(facts, [("NCCL version", "2.30.7"), ("windows", "no")]);
        let calls = rank.device.shared().calls.count();
        assert!(Host::is_done(&rank.stream)?);
        assert_eq!(rank.device.shared().calls.count(), calls);
        let graph = rank.record(|| Host::is_done(&rank.stream).map(drop));
        assert_eq!(rule(&graph), Rule::CaptureUnsupported);
        Ok(())
    });
    results.into_iter().for_each(|result| result.unwrap());
}
