//! Small logs by hand, good ones and one for each kind of bad.

use super::*;

/// Lines with the numbers and times that the shim puts before them. `%` in a return stands for the
/// number of the line before.
fn log(lines: &str) -> String {
    let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .enumerate()
        .map(|(n, line)| {
            let line = line.replace('%', &n.wrapping_sub(1).to_string());
            format!("{n} {} 77 {line}\n", 1_000 + n)
        })
        .collect()
}

/// A rank that makes communicator 0xc0, a child 0xc1, memory 0xa000 with window 0xb000, reduces, and
/// takes all down.
fn good(rank: usize) -> String {
    log(&format!(
        "call ncclCommInitRankConfig nranks=2 id=77 newrank={rank}
         ret ncclCommInitRankConfig of=% code=0 new=0xc0 newrank={rank} newsize=2
         call ncclCommSplit comm=0xc0 rank={rank} color=0 key=0
         ret ncclCommSplit of=% code=0 new=0xc1 newrank={rank} newsize=2
         call ncclMemAlloc size=4096
         ret ncclMemAlloc of=% code=0 ptr=0xa000
         call ncclCommWindowRegister comm=0xc1 rank={rank} buff=0xa000 size=4096 winflags=1
         ret ncclCommWindowRegister of=% code=0 window=0xb000
         call ncclAllReduce send=0xa100 recv=0xa200 count=16 dtype=7 op=0 comm=0xc1 stream=0x1
         ret ncclAllReduce of=% code=0
         call ncclCommWindowDeregister comm=0xc1 rank={rank} window=0xb000
         ret ncclCommWindowDeregister of=% code=0
         call ncclCommDestroy comm=0xc1 rank={rank}
         ret ncclCommDestroy of=% code=0
         call ncclMemFree ptr=0xa000
         ret ncclMemFree of=% code=0
         call ncclCommDestroy comm=0xc0 rank={rank}
         ret ncclCommDestroy of=% code=0"
    ))
}

fn found(logs: [String; 2]) -> Report {
    let [first, second] = logs;
    check(&[("a".into(), first), ("b".into(), second)])
}

/// The only violation, with rank 1's log changed so.
#[track_caller]
fn bad(from: &str, to: &str, says: &str) {
    let log = good(1);
    assert!(log.contains(from), "{from} is in no line");
    let report = found([good(0), log.replace(from, to)]);
    assert!(
        matches!(&report.violations[..], [one] if one.contains(says)),
        "{report}"
    );
}

/// The same, where it breaks more than one rule.
#[track_caller]
fn very_bad(from: &str, to: &str, says: &str) {
    let log = good(1);
    assert!(log.contains(from), "{from} is in no line");
    let report = found([good(0), log.replace(from, to)]);
    let told = report.violations.iter().any(|one| one.contains(says));
    assert!(told, "{report}");
}

/// The lines, in another order: their returns follow them.
fn moved(call: &str, before: &str) -> String {
    let log = good(1);
    let lines: Vec<&str> = log.lines().collect();
    let at = |what: &str| {
        let found = lines.iter().position(|line| line.contains(what));
        found.unwrap_or_else(|| panic!("{what} is in no line"))
    };
    let (from, to) = (at(call), at(before));
    let mut order: Vec<&str> = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        if n == to {
            order.extend(&lines[from..from + 2]);
        }
        if n != from && n != from + 1 {
            order.push(line);
        }
    }
    order.join("\n")
}

#[test]
fn good_logs_are_good() {
    let report = found([good(0), good(1)]);
    assert!(report.violations.is_empty(), "{report}");
    let counts = &report.counts;
    assert_eq!((counts.communicators, counts.registrations), (2, 2));
    assert_eq!((counts.windowed, counts.destroyed), (2, 4));
    assert_eq!((counts.left_communicators, counts.left_allocations), (0, 0));
}

#[test]
fn addresses_may_differ() {
    let other = good(1).replace("0xa", "0xfa").replace("0xc", "0xfc");
    let report = found([good(0), other]);
    assert!(report.violations.is_empty(), "{report}");
}

#[test]
fn unequal_offsets_are_found() {
    bad(
        "send=0xa100",
        "send=0xa180",
        "window 0 at 256, window 0 at 512",
    );
    bad("recv=0xa200", "recv=0xa240", "at 576");
    bad("recv=0xa200", "recv=0x9000", "no window");
}

#[test]
fn unequal_calls_are_found() {
    bad("count=16", "count=8", "count 8");
    bad("op=0", "op=2", "op 2");
    bad("ncclAllReduce", "ncclBroadcast", "ncclBroadcast");
}

#[test]
fn scaled_sums_address_nobody() {
    let scaled = |rank, at: &str| {
        good(rank)
            .replace("op=0", &format!("op={}", 7 + rank))
            .replace("send=0xa100", at)
    };
    let report = found([scaled(0, "send=0xa100"), scaled(1, "send=0xa180")]);
    assert!(report.violations.is_empty(), "{report}");
}

#[test]
fn unequal_windows_are_found() {
    bad("size=4096", "size=8192", "4096 and 8192 bytes");
    very_bad(
        "buff=0xa000 size=4096",
        "buff=0xa000 size=2048",
        "not the whole",
    );
}

#[test]
fn an_operand_past_its_window_is_found() {
    let past = |rank| good(rank).replace("count=16", "count=1000");
    let report = found([past(0), past(1)]);
    assert_eq!(report.violations.len(), 4, "{report}");
    assert!(report.violations[0].contains("runs past"), "{report}");
}

#[test]
fn a_second_window_is_found() {
    let twice = |rank| {
        log(&format!(
            "call ncclCommInitRankConfig nranks=2 id=77 newrank={rank}
             ret ncclCommInitRankConfig of=% code=0 new=0xc1 newrank={rank} newsize=2
             call ncclMemAlloc size=4096
             ret ncclMemAlloc of=% code=0 ptr=0xa000
             call ncclCommWindowRegister comm=0xc1 buff=0xa000 size=4096 winflags=1
             ret ncclCommWindowRegister of=% code=0 window=0xb000
             call ncclCommWindowRegister comm=0xc1 buff=0xa000 size=4096 winflags=1
             ret ncclCommWindowRegister of=% code=0 window=0xb001"
        ))
    };
    let report = found([twice(0), twice(1)]);
    assert_eq!(report.violations.len(), 2, "{report}");
    assert!(report.violations[0].contains("a second window"), "{report}");
    assert_eq!(report.counts.left_windows, 4);
}

#[test]
fn a_wrong_order_of_teardown_is_found() {
    let report = found([good(0), moved("ncclMemFree", "ncclCommWindowDeregister")]);
    assert!(
        matches!(&report.violations[..], [one] if one.contains("is freed with window")),
        "{report}"
    );
    let report = found([
        good(0),
        moved("ncclCommDestroy comm=0xc1", "ncclCommWindowDeregister"),
    ]);
    let says: Vec<_> = report.violations.iter().map(String::as_str).collect();
    assert!(
        says.iter().any(|text| text.contains("with window 0xb000"))
            && says.iter().any(|text| text.contains("which has ended")),
        "{report}"
    );
}

#[test]
fn a_window_deregistered_twice_is_found() {
    very_bad(
        "ncclCommWindowDeregister comm=0xc1 rank=1 window=0xb000",
        "ncclCommWindowDeregister comm=0xc1 rank=1 window=0xb001",
        "is not alive",
    );
}

#[test]
fn a_call_after_the_end_is_found() {
    very_bad(
        "call ncclMemFree ptr=0xa000",
        "call ncclCommCount comm=0xc1 ptr=0xa000",
        "which has ended",
    );
}

#[test]
fn a_launch_after_a_revoke_is_found() {
    let revoked = "call ncclCommRevoke comm=0xc1 flags=0";
    let log = good(1).replace("call ncclCommWindowRegister", revoked);
    let report = found([good(0), log]);
    assert!(
        report
            .violations
            .iter()
            .any(|text| text.contains("ncclAllReduce on") && text.contains("after its revoke")),
        "{report}"
    );
}

#[test]
fn a_communicator_that_ends_under_a_call_is_found() {
    let left = |fault: &str| {
        log(&format!(
            "call ncclCommInitRankConfig nranks=1 id=77 newrank=0
             ret ncclCommInitRankConfig of=% code=0 new=0xc1 newrank=0 newsize=1
             call ncclAllReduce send=0x1 recv=0x2 count=1 dtype=7 op=0 comm=0xc1 stream=0x1
             {fault}
             call ncclCommAbort comm=0xc1
             ret ncclCommAbort of=% code=0"
        ))
    };
    let report = check(&[("a".into(), left(""))]);
    assert!(
        matches!(&report.violations[..], [one] if one.contains("is inside")),
        "{report}"
    );
    // What a fault keeps is not inside NCCL.
    let report = check(&[("a".into(), left("fault ncclAllReduce of=2 what=hang(none)"))]);
    assert!(report.violations.is_empty(), "{report}");
}

#[test]
fn a_rank_without_a_log_is_missed() {
    let report = check(&[("a".into(), good(0))]);
    assert!(
        report.violations[0].contains("of ranks [0], of 2"),
        "{report}"
    );
    let report = found([good(1), good(1)]);
    assert!(report.violations[0].contains("of ranks [1, 1]"), "{report}");
}

#[test]
fn ranks_as_threads_share_a_log() {
    let renamed = |rank: usize| {
        let text = good(rank);
        let of_rank = |text: &str, what: &str| text.replace(what, &format!("{what}{rank}"));
        let text = of_rank(&text, "0xc0");
        let text = of_rank(&text, "0xc1");
        text.replace("0xa", &format!("0x{rank}a"))
    };
    let (first, second) = (renamed(0), renamed(1));
    // The second rank's lines behind the first's, with numbers of their own.
    let shift = |line: &str| {
        let (number, rest) = line.split_once(' ').unwrap_or_default();
        let number: u64 = number.parse::<u64>().unwrap_or_default() + 100;
        let rest = match rest.split_once(" of=") {
            Some((before, after)) => {
                let (of, after) = after.split_once(' ').unwrap_or((after, ""));
                let of = of.parse::<u64>().unwrap_or_default() + 100;
                format!("{before} of={of} {after}")
            }
            None => rest.to_owned(),
        };
        format!("{number} {rest}\n")
    };
    let both = first + &second.lines().map(shift).collect::<String>();
    let report = check(&[("both".into(), both)]);
    assert!(report.violations.is_empty(), "{report}");
    assert_eq!(report.counts.windowed, 2);
}

#[test]
fn other_files_are_refused() {
    let report = check(&[("a".into(), "hello world\n".into())]);
    assert!(report.violations[0].contains("no shim wrote"), "{report}");
}
