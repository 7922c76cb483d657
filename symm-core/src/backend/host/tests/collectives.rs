//! What collectives compute, and what ranks hear that differ.

use super::*;

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
