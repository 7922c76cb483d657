use super::details::RECORD;
use crate::agreement::fingerprint::{join, of, of_message};
use crate::agreement::record::{ArenaMark, PATH_BITS, Place, Record, Stated, What};
use crate::backend::call::{Op, ReduceOp};
use crate::element::Dtype;
use crate::group::path::{Path, Reason};
use crate::pool::placement::Position;

fn fingerprint(record: &Record) -> u64 {
    of(&record.words())
}

/// Each change of one field alone, with its name.
fn changes() -> Vec<(&'static str, Record)> {
    let mut changes = Vec::new();
    let mut call = |name: &'static str, change: &dyn Fn(&mut Stated)| {
        let mut record = RECORD;
        let What::Call(stated) = &mut record.what else {
            panic!("a call")
        };
        change(stated);
        assert_ne!(record, RECORD, "{name}");
        changes.push((name, record));
    };
    call("operation", &|c| c.op = Op::ReduceScatter(ReduceOp::Sum));
    call("gather", &|c| c.op = Op::AllGather);
    call("reduction", &|c| c.op = Op::AllReduce(ReduceOp::Max));
    call("root 0", &|c| c.op = Op::Broadcast { root: 0 });
    call("root 1", &|c| c.op = Op::Broadcast { root: 1 });
    call("type", &|c| c.dtype = Dtype::I32);
    call("bytes", &|c| c.bytes += 4);
    call("path", &|c| c.path = Path::Plain(Reason::NoKernel));
    call("kept from the window", &|c| {
        c.path = Path::Plain(Reason::Defect);
    });
    call("communicator", &|c| c.twin = true);
    call("window", &|c| c.window = None);
    call("window at 0", &|c| {
        c.window = Some(Position {
            segment: 0,
            offset: 0,
        });
    });
    call("segment", &|c| {
        c.window.as_mut().expect("a window").segment += 1;
    });
    call("offset", &|c| {
        c.window.as_mut().expect("a window").offset += 512;
    });
    call("batch", &|c| c.more = 1);
    let mut arena = |name, digest, allocations| {
        let mark = ArenaMark {
            digest: RECORD.arena.digest + digest,
            allocations: RECORD.arena.allocations + allocations,
        };
        let arena = mark;
        changes.push((name, Record { arena, ..RECORD }));
    };
    arena("digest", 1, 0);
    arena("allocations", 0, 1);
    let mut what = |name, what| changes.push((name, Record { what, ..RECORD }));
    let round = |segments, bytes| What::Round { segments, bytes };
    what("round", round(1, 4096));
    what("round's segments", round(2, 4096));
    what("round's bytes", round(1, 8192));
    what("capture", What::Capture);
    what("graph 0", What::GraphLaunch { graph: 0 });
    what("graph 1", What::GraphLaunch { graph: 1 });
    what("trim", What::Trim);
    what("suspend", What::Suspend);
    what("calibration", What::Calibration);
    what("left", What::Left);
    changes
}

#[test]
fn every_field_is_in_it() {
    let mut all = vec![("unchanged", RECORD)];
    all.extend(changes());
    for (at, (name, record)) in all.iter().enumerate() {
        for (other, before) in &all[..at] {
            assert_ne!(
                fingerprint(record),
                fingerprint(before),
                "{name} and {other}"
            );
        }
    }
}

#[test]
fn what_is_for_messages_is_not() {
    let place = Place::new(89, "elsewhere.rs");
    assert_eq!(
        fingerprint(&Record { place, ..RECORD }),
        fingerprint(&RECORD)
    );
    let because = |reason| {
        let mut record = RECORD;
        if let What::Call(call) = &mut record.what {
            (call.path, call.window) = (Path::Plain(reason), None);
        }
        record
    };
    // Of a gather, only the root may have memory at all.
    let (no_kernel, disabled) = (because(Reason::NoKernel), because(Reason::Disabled));
    assert_ne!(no_kernel, disabled);
    assert_eq!(fingerprint(&no_kernel), fingerprint(&disabled));
    assert_ne!(no_kernel.words()[0] & PATH_BITS, 0);
}

#[test]
fn messages_are_the_same_at_both_ends_and_all_of_them_counts() {
    let message = of_message(0, 1, 64, Dtype::F32);
    assert_eq!(message, of_message(0, 1, 64, Dtype::F32));
    for other in [
        of_message(1, 0, 64, Dtype::F32),
        of_message(0, 2, 64, Dtype::F32),
        of_message(0, 1, 68, Dtype::F32),
        of_message(0, 1, 64, Dtype::I32),
    ] {
        assert_ne!(message, other);
    }
    assert_ne!(join(message, 1), join(1, message));
}
