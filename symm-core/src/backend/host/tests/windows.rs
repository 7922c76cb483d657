//! Windows by NCCL's rules, and communicators of some ranks.

use super::*;

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
