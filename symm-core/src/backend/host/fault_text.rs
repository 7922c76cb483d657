//! Faults as text, for ranks that are processes and get theirs from the environment.

use std::time::Duration;

use super::fault::{At, CallKind, Fault, What};

/// The faults of a list, or what is wrong with it.
pub(super) fn parse(text: &str) -> Result<Vec<Fault>, String> {
    let entries = text.split(',').map(str::trim);
    entries
        .filter(|entry| !entry.is_empty())
        .map(|entry| fault(entry).map_err(|why| format!("{entry:?}: {why}")))
        .collect()
}

fn fault(entry: &str) -> Result<Fault, String> {
    let words: Vec<&str> = entry.split(':').collect();
    let &[rank, call, count, what] = &words[..] else {
        return Err("expected RANK:CALL:K:WHAT".into());
    };
    let number = |text: &str, what: &str| {
        text.parse::<u64>()
            .map_err(|_| format!("{text:?} is no {what}"))
    };
    let count = number(count, "count of calls (from 1)")?;
    if count == 0 {
        return Err("calls count from 1".into());
    }
    let at = match call {
        "nth" => At::Nth(count),
        name => {
            let kind = CallKind::ALL.into_iter().find(|kind| kind.name() == name);
            let kind = kind.ok_or_else(|| {
                let names: Vec<_> = CallKind::ALL.iter().map(|kind| kind.name()).collect();
                format!("{name:?} is no call; expected nth, {}", names.join(", "))
            })?;
            At::Call(kind, count)
        }
    };
    let (name, time) = match what.split_once('=') {
        Some((name, time)) => (name, Some(number(time, "number of milliseconds")?)),
        None => (what, None),
    };
    let what = match (name, time.map(Duration::from_millis)) {
        ("fail", None) => What::Fail,
        ("hang", None) => What::Hang,
        ("null", None) => What::Null,
        ("out_of_memory", None) => What::OutOfMemory,
        ("kill", None) => What::Kill,
        ("delay", Some(time)) => What::Delay(time),
        ("stop", Some(time)) => What::Stop(time),
        _ => {
            return Err(format!(
                "{what:?} is none of fail, hang, null, out_of_memory, kill, delay=MS, stop=MS"
            ));
        }
    };
    let rank = number(rank, "rank")? as usize;
    Ok(Fault::new(rank, at, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_can_be_written() {
        let ms = Duration::from_millis;
        for (text, at, what) in [
            ("1:nth:40:fail", At::Nth(40), What::Fail),
            (
                "1:register:2:hang",
                At::Call(CallKind::Register, 2),
                What::Hang,
            ),
            (
                "1:register:1:null",
                At::Call(CallKind::Register, 1),
                What::Null,
            ),
            ("1:nth:1:out_of_memory", At::Nth(1), What::OutOfMemory),
            (
                "1:launch_graph:9:kill",
                At::Call(CallKind::LaunchGraph, 9),
                What::Kill,
            ),
            (
                "1:revoke:1:delay=20",
                At::Call(CallKind::Revoke, 1),
                What::Delay(ms(20)),
            ),
            ("1:nth:3:stop=0", At::Nth(3), What::Stop(ms(0))),
        ] {
            assert_eq!(parse(text), Ok(vec![Fault::new(1, at, what)]));
            assert_eq!(parse(&format!(" {text},0:nth:1:fail, ")).unwrap().len(), 2);
        }
        assert_eq!(parse(""), Ok(vec![]));
    }

    #[test]
    fn what_is_no_fault_is_said() {
        for (text, says) in [
            ("1:nth:fail", "RANK:CALL:K:WHAT"),
            ("x:nth:1:fail", "\"x\" is no rank"),
            ("1:ntn:1:fail", "expected nth, open"),
            ("1:nth:0:fail", "from 1"),
            ("1:nth:-1:fail", "no count"),
            ("1:nth:1:stop", "stop=MS"),
            ("1:nth:1:fail=3", "none of"),
            ("1:nth:1:delay=soon", "milliseconds"),
        ] {
            let problem = parse(text).unwrap_err();
            assert!(
                problem.contains(text) && problem.contains(says),
                "{problem}"
            );
        }
    }
}
