//! Communicators that are suspended: what NCCL would do with memory that is not mapped is refused.

use super::*;

const SUM: Op = Op::AllReduce(ReduceOp::Sum);

#[test]
fn a_suspended_communicator_takes_no_calls() {
    let outcomes = world(2, Options::default(), |rank| {
        let (memory, segment, other) = (rank.plain(8), rank.segment(), rank.segment());
        let at = memory.base();
        let window = rank.register(&segment)?.expect("a window");
        let graph = rank.record(|| rank.launch(&[rank.call(SUM, 4, at, at)]))?;
        assert_eq!(Host::suspend(&rank.device, &rank.comm)?, 0);
        let refused = [
            rank.launch(&[rank.call(SUM, 4, at, at)]),
            rank.replay(&graph),
            rank.record(|| rank.launch(&[rank.call(SUM, 4, at, at)]))
                .map(drop),
            rank.register(&other).map(drop),
            Host::deregister(&rank.device, &rank.comm, window.clone()),
            Host::split(&rank.device, &rank.comm, &everyone(&rank.seat)).map(drop),
            Host::suspend(&rank.device, &rank.comm).map(drop),
        ];
        assert!(refused.iter().all(|one| rule(one) == Rule::SuspendedComm));
        // Other memory and streams are as good as before.
        rank.write(at, &[0, 0, 128, 63])?;
        Host::resume(&rank.device, &rank.comm)?;
        let again = Host::resume(&rank.device, &rank.comm);
        assert_eq!(rule(&again), Rule::SuspendedComm);
        // 1 + 1 in bf16, by what was recorded before and by what was not.
        rank.replay(&graph)?;
        assert_eq!(rank.read(&rank.stream, at + 2, 2)?, [0, 64]);
        rank.launch(&[rank.call(SUM, 4, at, at)])?;
        assert_eq!(rank.read(&rank.stream, at + 2, 2)?, [128, 64]);
        Host::deregister(&rank.device, &rank.comm, window)?;
        Host::destroy_graph(&rank.device, graph)
    });
    outcomes.into_iter().collect::<Result<Vec<_>>>().unwrap();
}

#[test]
fn what_is_under_way_or_ends_meanwhile_is_refused() {
    let done = std::sync::Barrier::new(2);
    let outcomes = world(2, Options::default(), |rank| {
        let memory = rank.plain(8);
        let at = memory.base();
        if rank.rank == 0 {
            // Its peer does not come to it yet.
            rank.launch(&[rank.call(SUM, 4, at, at)])?;
            let early = Host::suspend(&rank.device, &rank.comm);
            assert_eq!(rule(&early), Rule::StaleWindow);
        }
        done.wait();
        if rank.rank == 1 {
            rank.launch(&[rank.call(SUM, 4, at, at)])?;
        }
        Host::synchronize(&rank.stream)?;
        let comm = Host::split(
            &rank.device,
            &rank.comm,
            &Split {
                id: 2,
                ..everyone(&rank.seat)
            },
        )?;
        Host::suspend(&rank.device, &comm)?;
        assert_eq!(
            rule(&Host::destroy(&rank.device, comm)),
            Rule::SuspendedComm
        );
        // A world that failed in its sleep.
        let comm = Host::split(
            &rank.device,
            &rank.comm,
            &Split {
                id: 3,
                ..everyone(&rank.seat)
            },
        )?;
        Host::suspend(&rank.device, &comm)?;
        Host::abort(&rank.device, comm)
    });
    outcomes.into_iter().collect::<Result<Vec<_>>>().unwrap();
}

#[test]
fn ranks_that_differ_are_told() {
    let outcomes = world(2, Options::default(), |rank| {
        Host::suspend(&rank.device, &rank.comm)?;
        let other = match rank.rank {
            0 => Host::resume(&rank.device, &rank.comm),
            // Does not come.
            _ => Ok(()),
        };
        other.map(drop)
    });
    assert!(
        matches!(outcomes[0], Err(Error::PeerFailed { rank: 1, .. })),
        "{outcomes:?}"
    );
}

#[test]
fn an_older_nccl_has_no_suspend() {
    for (version, has) in [(22_809, false), (22_906, false), (22_907, true)] {
        let outcomes = world(2, Options::default().nccl_version(version), |rank| {
            assert_eq!(Host::can_suspend(&rank.comm).is_ok(), has);
            Host::suspend(&rank.device, &rank.comm).map(drop)
        });
        for outcome in outcomes {
            let unsupported = matches!(outcome, Err(Error::Unsupported { .. }));
            assert_eq!(unsupported, !has, "{outcome:?}");
        }
    }
}
