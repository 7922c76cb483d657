//! The backend through its own calls: what it must get right, and what it must refuse.

use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::backend::call::{Op, ReduceOp};
use crate::element::Dtype;
use crate::error::Rule;
use crate::rendezvous::Rendezvous;

const MIB: u64 = 1 << 20;

/// One rank with a stream and the world's communicator.
struct Rank {
    rank: usize,
    device: Device,
    stream: HostStream,
    comm: Comm,
}

/// Runs `rank` on every rank, and returns the results by rank.
fn world<R: Send>(
    ranks: usize,
    options: Options,
    rank: impl Fn(&Rank) -> Result<R> + Sync,
) -> Vec<Result<R>> {
    thread::scope(|scope| {
        let ends = Rendezvous::threads(ranks).into_iter();
        let running: Vec<_> = ends
            .map(|end| scope.spawn(|| live(end, Duration::from_secs(20), &options, &rank)))
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// The life of one rank.
fn live<R>(
    end: Rendezvous,
    deadline: Duration,
    options: &Options,
    rank: impl Fn(&Rank) -> Result<R>,
) -> Result<R> {
    let (me, ranks) = (end.rank(), end.ranks());
    let seat = Seat {
        rank: me,
        ranks,
        local_rank: me,
        local_ranks: ranks,
        processes: false,
        rendezvous: Arc::new(end),
        deadline,
    };
    let device = Host::open(&seat, options)?;
    let comm = Host::connect(&device, &seat)?;
    let stream = Host::new_stream(&device)?;
    let result = rank(&Rank {
        rank: me,
        device,
        stream,
        comm,
    });
    if let Err(error) = &result {
        seat.rendezvous.fail(&error.to_string());
    }
    result
}

fn rule<R: std::fmt::Debug>(result: &Result<R>) -> Rule {
    match result {
        Err(Error::Violation { rule, .. }) => *rule,
        other => panic!("{other:?}"),
    }
}

/// The calls' contracts are what these tests break, and the backend checks what it is given:
/// nothing here is unsafe in fact.
impl Rank {
    fn plain(&self, bytes: u64) -> Plain {
        Host::alloc_plain(&self.stream, bytes).unwrap()
    }

    fn write(&self, at: u64, values: &[u8]) -> Result<()> {
        // SAFETY: checked by the backend.
        unsafe { Host::upload(&self.stream, at, values) }
    }

    fn read(&self, stream: &HostStream, at: u64, bytes: usize) -> Result<Vec<u8>> {
        let mut read = vec![0; bytes];
        // SAFETY: checked by the backend.
        unsafe { Host::download(stream, at, &mut read) }?;
        Ok(read)
    }

    fn call(&self, op: Op, count: usize, send: u64, recv: u64) -> Call {
        Call {
            op,
            dtype: Dtype::Bf16,
            count,
            send,
            recv,
            avoid_windows: false,
        }
    }

    fn launch(&self, calls: &[Call]) -> Result<()> {
        // SAFETY: checked by the backend.
        unsafe { Host::launch(&self.device, &self.comm, &self.stream, calls) }
    }

    fn segment(&self) -> Segment {
        Host::alloc_segment(&self.device, 2 * MIB).unwrap()
    }

    fn register(&self, segment: &Segment) -> Result<Option<Window>> {
        Host::register(&self.device, &self.comm, segment)
    }
}

#[test]
fn a_missing_event_shows_and_an_event_helps() {
    let run = |seed: u64, event: bool| {
        let results = world(1, Options::default().seed(seed), |rank| {
            let (memory, other) = (rank.plain(64), Host::new_stream(&rank.device)?);
            rank.write(memory.base(), &[7; 64])?;
            if event {
                Host::wait_stream(&other, &rank.stream)?;
            }
            rank.read(&other, memory.base(), 64)
        });
        results[0].clone().unwrap() == [7; 64]
    };
    assert!((0..20).all(|seed| run(seed, true)));
    assert!(!(0..20).all(|seed| run(seed, false)));
}

#[test]
fn fences_order_readers_and_writers() {
    for seed in 0..20 {
        let results = world(1, Options::default().seed(seed), |rank| {
            let (a, b) = (&rank.stream, Host::new_stream(&rank.device)?);
            let (from, to) = (rank.plain(8), rank.plain(8));
            rank.write(from.base(), &[1; 8])?;
            // SAFETY: both buffers live to the end of the closure.
            let fence = unsafe { Host::fence(a, from.base(), 8) }?;
            Host::fence_before(&fence, &b, Access::Read)?;
            Host::wait_stream(&b, a)?;
            // SAFETY: as above.
            unsafe { Host::copy(&b, to.base(), from.base(), 8) }?;
            Host::fence_after(&fence, &b, Access::Read)?;
            Host::fence_before(&fence, a, Access::Write)?;
            // SAFETY: as above.
            unsafe { Host::zero(a, from.base(), 8) }?;
            Host::fence_after(&fence, a, Access::Write)?;
            Host::synchronize(a)?;
            rank.read(&b, to.base(), 8)
        });
        assert_eq!(results[0].as_ref().unwrap(), &[1; 8], "seed {seed}");
    }
}

#[test]
fn work_gets_on_without_anybody_who_waits_and_is_late_until_then() {
    world(1, Options::default(), |rank| {
        let ran = Arc::new(Mutex::new(0));
        for _ in 0..10 {
            let ran = Arc::clone(&ran);
            rank.stream.submit(
                "count",
                Box::new(move |_| {
                    *ran.lock().unwrap() += 1;
                    Ok(())
                }),
            )?;
        }
        let start = Instant::now();
        while *ran.lock().unwrap() < 10 {
            assert!(start.elapsed() < Duration::from_secs(10));
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    })[0]
        .clone()
        .unwrap();
}

#[test]
fn errors_and_panics_of_queued_work_end_the_device_and_reach_the_peers() {
    let results = world(2, Options::default(), |rank| {
        let memory = rank.plain(64);
        if rank.rank == 0 {
            rank.stream
                .submit("a bad kernel", Box::new(|_| panic!("out of range")))?;
        }
        rank.launch(&[rank.call(Op::AllGather, 1, memory.base(), memory.base())])?;
        Host::synchronize(&rank.stream)
    });
    let Err(Error::Backend { rank: 0, text, .. }) = &results[0] else {
        panic!("{results:?}")
    };
    assert!(text.contains("out of range"));
    assert!(
        matches!(&results[1], Err(Error::PeerFailed { rank: 0, .. })),
        "{results:?}"
    );
}

#[test]
fn queued_work_that_waits_for_its_device_is_an_error() {
    let results = world(1, Options::default(), |rank| {
        let own = rank.stream.clone();
        rank.stream
            .submit("impatient", Box::new(move |_| Host::synchronize(&own)))?;
        Host::synchronize(&rank.stream)
    });
    assert!(
        matches!(&results[0], Err(Error::Config { .. })),
        "{results:?}"
    );
}

#[test]
fn memory_is_checked_and_freed_behind_its_stream() {
    let results = world(1, Options::default().memory(4 * MIB), |rank| {
        for _ in 0..20 {
            let memory = rank.plain(MIB);
            rank.write(memory.base(), &[1; 16])?;
        }
        let segment = rank.segment();
        assert!(matches!(
            Host::alloc_segment(&rank.device, 4 * MIB),
            Err(Error::OutOfMemory { need: 4194304, .. })
        ));
        let base = segment.base();
        Host::free_segment(&rank.device, segment)?;
        rank.read(&rank.stream, base, 1)
    });
    assert_eq!(rule(&results[0]), Rule::UseAfterFree);
}

#[test]
fn collectives_move_data() {
    let sum = ReduceOp::Sum;
    // Of 3 ranks, each with the elements [r*10, r*10 + 1, ..] to send; elements of 1 byte.
    let cases: [(Op, usize, [Vec<u8>; 3]); 8] = [
        (
            Op::AllReduce(sum),
            2,
            [vec![30, 33], vec![30, 33], vec![30, 33]],
        ),
        (
            Op::AllGather,
            1,
            [vec![0, 10, 20], vec![0, 10, 20], vec![0, 10, 20]],
        ),
        (Op::ReduceScatter(sum), 1, [vec![30], vec![33], vec![36]]),
        (
            Op::Broadcast { root: 1 },
            2,
            [vec![10, 11], vec![10, 11], vec![10, 11]],
        ),
        (
            Op::Reduce {
                op: ReduceOp::Max,
                root: 2,
            },
            2,
            [vec![], vec![], vec![20, 21]],
        ),
        (
            Op::AllToAll,
            1,
            [vec![0, 10, 20], vec![1, 11, 21], vec![2, 12, 22]],
        ),
        (Op::Gather { root: 0 }, 1, [vec![0, 10, 20], vec![], vec![]]),
        (Op::Scatter { root: 1 }, 1, [vec![10], vec![11], vec![12]]),
    ];
    for (op, count, expected) in cases {
        let results = world(3, Options::default(), |rank| {
            let (send, recv) = (rank.plain(8), rank.plain(8));
            let mine: Vec<u8> = (0..8).map(|i| rank.rank as u8 * 10 + i).collect();
            rank.write(send.base(), &mine)?;
            rank.launch(&[Call {
                dtype: Dtype::U8,
                ..rank.call(op, count, send.base(), recv.base())
            }])?;
            rank.read(&rank.stream, recv.base(), expected[rank.rank].len())
        });
        for (result, expected) in results.iter().zip(&expected) {
            assert_eq!(result.as_ref().unwrap(), expected, "{op:?}");
        }
    }
}

#[test]
fn messages_of_one_group_go_round_a_ring() {
    for ranks in 1..4 {
        let results = world(ranks, Options::default(), |rank| {
            let memory = rank.plain(8);
            let (next, before) = ((rank.rank + 1) % ranks, (rank.rank + ranks - 1) % ranks);
            for round in 0..5_u8 {
                rank.write(memory.base(), &[rank.rank as u8, round])?;
                let recv = rank.call(Op::Recv { peer: before }, 1, 0, memory.base() + 4);
                let send = rank.call(Op::Send { peer: next }, 1, memory.base(), 0);
                rank.launch(&[recv, send])?;
                assert_eq!(
                    rank.read(&rank.stream, memory.base() + 4, 2)?,
                    [before as u8, round]
                );
            }
            Ok(())
        });
        results.into_iter().for_each(|result| result.unwrap());
    }
}

#[test]
fn ranks_that_call_different_things_all_hear_of_it() {
    let results = world(3, Options::default(), |rank| {
        let memory = rank.plain(64);
        let count = if rank.rank == 2 { 5 } else { 4 };
        rank.launch(&[rank.call(
            Op::AllReduce(ReduceOp::Sum),
            count,
            memory.base(),
            memory.base(),
        )])?;
        Host::synchronize(&rank.stream)
    });
    for result in results {
        let Err(Error::RanksDiffer { detail, .. }) = &result else {
            panic!("{result:?}")
        };
        assert!(
            detail.contains("rank 2 calls all_reduce(Sum) of 5 Bf16"),
            "{detail}"
        );
    }
}

/// All ranks register a segment; then each calls an in-place all_reduce at its own offset.
fn reduce_in_window(
    options: Options,
    at: impl Fn(&Rank, u64) -> (usize, u64) + Sync,
    op: Op,
) -> Vec<Result<()>> {
    world(2, options, |rank| {
        let segment = rank.segment();
        let window = rank.register(&segment)?;
        let (count, offset) = at(rank, segment.base());
        rank.launch(&[rank.call(op, count, offset, offset)])?;
        Host::synchronize(&rank.stream)?;
        if let Some(window) = window {
            Host::deregister(&rank.device, &rank.comm, window)?;
        }
        Host::free_segment(&rank.device, segment)
    })
}

#[test]
fn windows_hold_to_the_rules_of_nccl() {
    let sum = Op::AllReduce(ReduceOp::Sum);
    let equal = |_: &Rank, base| (64, base + 512);
    let unequal = |rank: &Rank, base| (64, base + 512 * rank.rank as u64);
    let past = |_: &Rank, base| (64, base + 2 * MIB - 64);
    let options = Options::default;
    assert!(
        reduce_in_window(options(), equal, sum)
            .iter()
            .all(Result::is_ok)
    );
    let results = reduce_in_window(options(), unequal, sum);
    assert!(
        results
            .iter()
            .all(|result| rule(result) == Rule::UnequalOffsets)
    );
    // No symmetric kernel, or no window: offsets are free.
    assert!(
        reduce_in_window(options(), unequal, Op::AllReduce(ReduceOp::Max))
            .iter()
            .all(Result::is_ok)
    );
    assert!(
        reduce_in_window(options().windows(false), unequal, sum)
            .iter()
            .all(Result::is_ok)
    );
    let results = reduce_in_window(options(), past, sum);
    assert!(
        results
            .iter()
            .any(|result| rule_or_peer(result) == Some(Rule::Overrun))
    );
    let null = Fault::new(1, At::Call(CallKind::Register, 1), What::Null);
    let results = reduce_in_window(options().fault(null), equal, sum);
    assert!(
        results
            .iter()
            .all(|result| rule(result) == Rule::MissingWindow)
    );
}

fn rule_or_peer(result: &Result<()>) -> Option<Rule> {
    match result {
        Err(Error::PeerFailed { .. }) => None,
        other => Some(rule(other)),
    }
}

#[test]
fn windows_have_one_life() {
    let results = world(2, Options::default(), |rank| {
        let (first, second) = (rank.segment(), rank.segment());
        let window = rank.register(&first)?.unwrap();
        assert_eq!(rule(&rank.register(&first)), Rule::DoubleRegistration);
        let other = rank.register(&second)?.unwrap();
        assert_ne!(window.handle(), other.handle());
        let peer = Host::peer_address(&rank.comm, &window, 8, 1 - rank.rank)?.unwrap();
        assert_ne!(peer, first.base() + 8);
        assert_eq!(
            rule(&Host::free_segment(&rank.device, second)),
            Rule::FreedWhileRegistered
        );
        Host::deregister(&rank.device, &rank.comm, window.clone())?;
        assert_eq!(
            rule(&Host::deregister(&rank.device, &rank.comm, window)),
            Rule::StaleWindow
        );
        Host::free_segment(&rank.device, first)
    });
    results.into_iter().for_each(|result| result.unwrap());
    let results = world(1, Options::default(), |rank| {
        let segment = rank.segment();
        let seat_comm = rank.comm.split(&Split {
            id: 9,
            color: 0,
            members: [0].into(),
            rank: 0,
        })?;
        Host::register(&rank.device, &seat_comm, &segment)?.unwrap();
        Host::destroy(&rank.device, seat_comm)
    });
    assert_eq!(rule(&results[0]), Rule::StaleWindow);
}

#[test]
fn groups_are_split_and_run_side_by_side() {
    let results = world(4, Options::default(), |rank| {
        let color = rank.rank % 2;
        let split = Split {
            id: 10 + color as u64,
            color: color as i32,
            members: [color, color + 2].into(),
            rank: rank.rank / 2,
        };
        let comm = Host::split(&rank.device, &rank.comm, &split)?;
        let memory = rank.plain(8);
        rank.write(memory.base(), &[rank.rank as u8])?;
        let call = Call {
            dtype: Dtype::U8,
            ..rank.call(
                Op::AllReduce(ReduceOp::Sum),
                1,
                memory.base(),
                memory.base(),
            )
        };
        // SAFETY: the memory lives to the end of the closure.
        unsafe { Host::launch(&rank.device, &comm, &rank.stream, &[call]) }?;
        let sum = rank.read(&rank.stream, memory.base(), 1)?;
        Host::destroy(&rank.device, comm)?;
        Ok(sum[0])
    });
    assert_eq!(
        results
            .into_iter()
            .map(|result| result.unwrap())
            .collect::<Vec<_>>(),
        [2, 4, 2, 4]
    );
}

#[test]
fn every_call_can_fail_and_nobody_hangs() {
    for what in [
        What::Fail,
        What::OutOfMemory,
        What::Hang,
        What::Delay(Duration::from_millis(2)),
    ] {
        for k in 1.. {
            let options = Options::default().fault(Fault::new(1, At::Nth(k), what));
            let work = |rank: &Rank| {
                let memory = Host::alloc_plain(&rank.stream, 64)?;
                rank.write(memory.base(), &[1; 8])?;
                rank.launch(&[rank.call(
                    Op::AllReduce(ReduceOp::Sum),
                    4,
                    memory.base(),
                    memory.base(),
                )])?;
                rank.read(&rank.stream, memory.base(), 8)?;
                Ok(rank.device.shared().calls.count())
            };
            // A rank that hangs before it has a communicator holds up its peer for all of the
            // deadline.
            let deadline = if what == What::Hang {
                Duration::from_millis(100)
            } else {
                Duration::from_secs(20)
            };
            let results: Vec<Result<u64>> = thread::scope(|scope| {
                let ends = Rendezvous::threads(2).into_iter();
                let running: Vec<_> = ends
                    .map(|end| scope.spawn(|| live(end, deadline, &options, work)))
                    .collect();
                running
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .collect()
            });
            match &results[1] {
                Ok(calls) if *calls < k => {
                    assert_eq!(k, 8, "calls of this program, and one");
                    break;
                }
                result => assert_eq!(
                    result.is_ok(),
                    matches!(what, What::Delay(_)),
                    "{what:?} at {k}: {result:?}"
                ),
            }
        }
    }
}

#[test]
fn ranks_may_be_processes() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let soon = Duration::from_secs(20);
    let sum = |rank: &Rank| {
        let segment = rank.segment();
        let window = rank.register(&segment)?.unwrap();
        rank.write(segment.base(), &1.5_f32.to_ne_bytes())?;
        for _ in 0..20 {
            let call = rank.call(
                Op::AllReduce(ReduceOp::Avg),
                1,
                segment.base(),
                segment.base(),
            );
            rank.launch(&[Call {
                dtype: Dtype::F32,
                avoid_windows: true,
                ..call
            }])?;
        }
        let result = rank.read(&rank.stream, segment.base(), 4)?;
        Host::deregister(&rank.device, &rank.comm, window)?;
        Ok(result)
    };
    let rank = |me| {
        live(
            Rendezvous::connect(me, 3, "127.0.0.1", port, soon)?,
            soon,
            &Options::default(),
            sum,
        )
    };
    let results: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = (0..3).map(|me| scope.spawn(move || rank(me))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    results
        .into_iter()
        .for_each(|result| assert_eq!(result.unwrap(), 1.5_f32.to_ne_bytes()));
}
