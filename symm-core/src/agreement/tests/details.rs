use std::sync::atomic::{AtomicBool, Ordering};

use super::with_board;
use crate::agreement::layout::Layout;
use crate::agreement::record::{ArenaMark, Place, Record, Stated, WORDS, What};
use crate::agreement::ring::POINTS;
use crate::backend::call::{Op, ReduceOp};
use crate::element::Dtype;
use crate::group::path::{Path, Reason};
use crate::pool::placement::Position;

const CALL: Stated = Stated {
    op: Op::AllReduce(ReduceOp::Sum),
    dtype: Dtype::F32,
    bytes: 4096,
    path: Path::Symmetric,
    twin: false,
    window: Some(Position {
        segment: 0,
        offset: 512,
    }),
    more: 0,
};

pub(super) const RECORD: Record = Record {
    what: What::Call(CALL),
    arena: ArenaMark {
        digest: 77,
        allocations: 5,
    },
    place: Place::NOWHERE,
};

fn at(what: What) -> Record {
    Record {
        what,
        arena: RECORD.arena,
        place: Place::new(88, "src/moe.rs"),
    }
}

fn call(op: Op, path: Path, change: impl Fn(&mut Stated)) -> Record {
    let mut stated = Stated {
        op,
        path,
        window: None,
        ..CALL
    };
    change(&mut stated);
    at(What::Call(stated))
}

/// All reasons; a new one does not compile here before it is in the table of `record.rs`.
fn reasons() -> Vec<Reason> {
    let next = |reason| match reason {
        Reason::SingleRank => Some(Reason::Empty),
        Reason::Empty => Some(Reason::Disabled),
        Reason::Disabled => Some(Reason::Foreign),
        Reason::Foreign => Some(Reason::NoKernel),
        Reason::NoKernel => Some(Reason::Unsupported),
        Reason::Unsupported => Some(Reason::NotDirect),
        Reason::NotDirect => Some(Reason::Defect),
        Reason::Defect => Some(Reason::TooLarge),
        Reason::TooLarge => Some(Reason::Faster),
        Reason::Faster => None,
    };
    std::iter::successors(Some(Reason::SingleRank), |reason| next(*reason)).collect()
}

fn records() -> Vec<Record> {
    use Dtype::*;
    use ReduceOp::*;
    let plain = Path::Plain(Reason::NoKernel);
    let mut records = vec![
        RECORD,
        at(What::Round {
            segments: 3,
            bytes: 1 << 40,
        }),
        at(What::Capture),
        at(What::GraphLaunch { graph: u64::MAX }),
        at(What::Trim),
        at(What::Suspend),
        at(What::Calibration),
        at(What::Left),
    ];
    for op in [Sum, Prod, Max, Min, Avg] {
        records.push(call(Op::AllReduce(op), plain, |_| ()));
        records.push(call(Op::ReduceScatter(op), plain, |_| ()));
        records.push(call(Op::Reduce { op, root: 70_000 }, plain, |_| ()));
    }
    for op in [
        Op::AllGather,
        Op::AllToAll,
        Op::Broadcast { root: 1 },
        Op::Gather { root: 2 },
        Op::Scatter { root: 3 },
        Op::Send { peer: 4 },
        Op::Recv { peer: 5 },
    ] {
        records.push(call(op, plain, |call| call.more = u32::MAX));
    }
    for dtype in [I8, U8, I32, U32, I64, U64, F16, F32, F64, Bf16] {
        records.push(call(Op::AllGather, plain, |call| call.dtype = dtype));
    }
    let on_twin = |call: &mut Stated| call.twin = true;
    for reason in reasons() {
        records.push(call(Op::AllGather, Path::Plain(reason), on_twin));
    }
    let far = Position {
        segment: usize::MAX,
        offset: u64::MAX,
    };
    let there = |call: &mut Stated| call.window = Some(far);
    records.push(call(Op::AllGather, Path::Symmetric, there));
    records
}

#[test]
fn records_come_back_as_they_were() {
    for record in records() {
        assert_eq!(Record::of(&record.words()), Some(record), "{record}");
    }
    assert_eq!(Record::of(&[0; WORDS]), None);
    assert_eq!(Record::of(&[u64::MAX; WORDS]), None);
}

#[test]
fn a_record_reads_well() {
    let plain = Path::Plain(Reason::NoKernel);
    let symmetric = at(What::Call(CALL));
    let round = |segments| {
        at(What::Round {
            segments,
            bytes: 8192,
        })
    };
    let twin = |call: &mut Stated| (call.twin, call.more) = (true, 2);
    for (record, text) in [
        (
            symmetric,
            "all_reduce of 4096 bytes (f32, sum, symmetric at offset 512 of segment 0) at src/moe.rs:88",
        ),
        (
            call(Op::Broadcast { root: 2 }, plain, twin),
            "broadcast from rank 2 of 4096 bytes (f32, plain: NCCL has no symmetric kernel for it, on the twin) \
             and 2 calls more in its batch at src/moe.rs:88",
        ),
        (
            round(1),
            "a round with 1 segment pending (8192 bytes) at src/moe.rs:88",
        ),
        (round(0), "a round with nothing pending at src/moe.rs:88"),
        (
            at(What::GraphLaunch { graph: 3 }),
            "a launch of graph 3 at src/moe.rs:88",
        ),
        (
            at(What::Left),
            "a scope left by an error or a panic at src/moe.rs:88",
        ),
    ] {
        assert_eq!(record.to_string(), text);
    }
}

#[test]
fn of_a_long_name_the_end_is_kept() {
    let long = format!("{}/src/layers/moe.rs", "a".repeat(60));
    assert_eq!(Place::new(1, &long).to_string(), "../src/layers/moe.rs:1");
    let no_folder = "é".repeat(40);
    let shown = Place::new(1, &no_folder).to_string();
    assert_eq!(shown, format!("{}:1", "é".repeat(24)));
    assert_eq!(Place::new(7, "").to_string(), ":7");
    let exact = "b".repeat(48);
    assert_eq!(Place::new(7, &exact).to_string(), format!("{exact}:7"));
}

#[test]
fn a_record_is_there_until_it_is_overwritten() {
    let layout = Layout::of(2);
    with_board(2, layout.bytes(), |rank, board| {
        let details = layout.details(board.words());
        assert_eq!(details.read(rank, 1), None);
        assert_eq!(details.read(rank, 0), None);
        details.write(rank, 1, &RECORD.words());
        assert_eq!(details.read(rank, 1), Some(RECORD));
        details.write(rank, 1 + POINTS as u64, &RECORD.words());
        assert_eq!(details.read(rank, 1), None);
        assert_eq!(details.read(rank, 1 + POINTS as u64), Some(RECORD));
        let left = layout.left(board.words(), rank);
        assert_eq!(left.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_torn_record_is_never_read() {
    let layout = Layout::of(2);
    let done = AtomicBool::new(false);
    let seen = with_board(2, layout.bytes(), |rank, board| {
        let details = layout.details(board.words());
        let record = |n: u64| {
            at(What::Round {
                segments: n,
                bytes: n,
            })
        };
        let last = 100_000;
        if rank == 0 {
            // One entry, over and over.
            (1..=last).for_each(|lap| {
                let n = lap * POINTS as u64;
                details.write(0, n, &record(n).words());
            });
            done.store(true, Ordering::Relaxed);
            return 0;
        }
        let mut seen = 0;
        let mut lap = 1;
        while !done.load(Ordering::Relaxed) {
            let n = lap * POINTS as u64;
            if let Some(read) = details.read(0, n) {
                assert_eq!(read, record(n));
                seen += 1;
            }
            lap = board_lap(&layout, board.words()).max(1);
        }
        assert_eq!(
            details.read(0, last * POINTS as u64),
            Some(record(last * POINTS as u64))
        );
        seen + 1
    });
    assert!(seen[1] > 0);
}

/// The lap of the first entry of rank 0, from its sequence word.
fn board_lap(layout: &Layout, words: &[crate::agreement::sync::AtomicU64]) -> u64 {
    let first = layout.bytes() / 8 - 2 * 8 - 2 * POINTS * 16;
    (words[first].load(Ordering::Relaxed) >> 1) / POINTS as u64
}
