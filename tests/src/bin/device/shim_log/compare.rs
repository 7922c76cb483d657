//! The logs of several ranks beside each other.

use std::collections::BTreeMap;

use super::Report;
use super::history::Life;

/// Checks what the ranks of each communicator must have alike.
pub(super) fn all(lives: &[Life], report: &mut Report) {
    let mut by_name: BTreeMap<&str, Vec<&Life>> = BTreeMap::new();
    for life in lives {
        by_name.entry(&life.name).or_default().push(life);
    }
    report.counts.communicators += by_name.len();
    // A fault may have kept a rank from making it.
    let whole = report.counts.faults == 0;
    for (name, mut ranks) in by_name {
        ranks.sort_by_key(|life| life.rank);
        let here: Vec<u64> = ranks.iter().map(|life| life.rank).collect();
        let size = ranks[0].size;
        let twice = here.windows(2).any(|pair| pair[0] == pair[1]);
        if twice || (whole && here != (0..size).collect::<Vec<_>>()) {
            report.violations.push(format!(
                "{name}: the logs are of ranks {here:?}, of {size} that there are"
            ));
        }
        for other in &ranks[1..] {
            pair(ranks[0], other, &mut report.violations);
        }
    }
}

fn pair(first: &Life, other: &Life, violations: &mut Vec<String>) {
    let mut differ = |what: String| {
        violations.push(format!(
            "{}: ranks {} ({}) and {} ({}) differ: {what}",
            first.name, first.rank, first.log, other.rank, other.log
        ));
    };
    for (n, (a, b)) in first.registered.iter().zip(&other.registered).enumerate() {
        if a != b {
            differ(format!("window {n} has {a} and {b} bytes"));
        }
    }
    for (n, (a, b)) in first.collectives.iter().zip(&other.collectives).enumerate() {
        let lines = format!("collective {n} (lines {} and {})", a.number, b.number);
        if a.call != b.call {
            differ(format!("{lines} is {} and {}", a.call, b.call));
        } else if a.places != b.places {
            let place = |places: &[Option<(usize, u64)>]| {
                let places = places.iter().map(|place| match place {
                    Some((window, offset)) => format!("window {window} at {offset}"),
                    None => "no window".into(),
                });
                places.collect::<Vec<_>>().join(", ")
            };
            let (at, there) = (place(&a.places), place(&b.places));
            differ(format!("{lines}, {}, lies in {at} and in {there}", a.call));
        }
    }
    // Where one did not come to an orderly end, the rest of it is missing.
    let counts = |life: &Life| (life.registered.len(), life.collectives.len());
    if first.destroyed && other.destroyed && counts(first) != counts(other) {
        let ((a, b), (c, d)) = (counts(first), counts(other));
        differ(format!(
            "{a} and {c} registrations, {b} and {d} collectives"
        ));
    }
}
