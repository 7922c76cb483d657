//! How the ranks of a world find out that they belong together: what has to be equal is compared
//! before any communicator exists, and who shares a host is worked out.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::driver::Seat;
use crate::error::{Error, Result};
use crate::rendezvous::Topic;

/// The channel on which ranks introduce themselves.
const JOIN: u64 = 0x6a6f_696e;
/// How long a rank that was not started like its peers stays for them to learn it.
const FAREWELL: Duration = Duration::from_secs(2);

/// Which ranks share a host, and with it shared memory.
#[derive(Clone, Debug)]
pub(crate) struct Hosts {
    /// By world rank, a number of its host.
    of: Arc<[u64]>,
    rank: usize,
}

impl Hosts {
    /// Those of the members that are on this rank's host, in their order.
    pub(crate) fn here(&self, members: &[usize]) -> Arc<[usize]> {
        let mine = self.of[self.rank];
        let here = members.iter().filter(|&&rank| self.of[rank] == mine);
        here.copied().collect()
    }
}

/// Exchanges names and values that have to be equal on all ranks, and the hosts.
pub(crate) fn join(seat: &Seat, facts: Vec<(String, String)>) -> Result<Hosts> {
    let host = match seat.processes {
        true => host(|name| std::env::var_os(name)),
        // Threads share memory wherever they are.
        false => 0,
    };
    let lines = facts.iter().map(|(name, value)| format!("{name}\t{value}"));
    let lines: Vec<String> = [host.to_string()].into_iter().chain(lines).collect();
    let everyone: Arc<[usize]> = (0..seat.ranks).collect();
    let topic = Topic {
        channel: Topic::channel(&[JOIN]),
        step: 0,
    };
    let told = seat.rendezvous.exchange(
        topic,
        &everyone,
        lines.join("\n").into_bytes(),
        "the introduction of the ranks",
        seat.deadline,
    )?;
    let mut of = Vec::with_capacity(seat.ranks);
    for (rank, told) in told.iter().enumerate() {
        let told = String::from_utf8_lossy(told);
        let (host, theirs) = told.split_once('\n').unwrap_or((&told, ""));
        of.push(host.parse().map_err(|_| other_version(seat.rank, rank))?);
        if let Some(detail) = difference(seat.rank, &facts, rank, theirs) {
            // All find a difference. Nobody leaves before all have heard, and takes the way to them
            // along.
            let heard = Topic { step: 1, ..topic };
            let (what, soon) = ("the end of a world", seat.deadline.min(FAREWELL));
            let _ = seat
                .rendezvous
                .exchange(heard, &everyone, Vec::new(), what, soon);
            return Err(Error::RanksDiffer {
                group: "the world".into(),
                what: "its start".into(),
                detail: detail.into(),
            });
        }
    }
    Ok(Hosts {
        of: of.into(),
        rank: seat.rank,
    })
}

fn other_version(rank: usize, other: usize) -> Error {
    Error::Rendezvous {
        rank,
        why: format!(
            "rank {other} runs another version of symm-core: its introduction cannot be read"
        )
        .into(),
    }
}

/// The first of the facts that differs.
fn difference(
    rank: usize,
    mine: &[(String, String)],
    other: usize,
    theirs: &str,
) -> Option<String> {
    let theirs: BTreeMap<&str, &str> = theirs
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .collect();
    let mine: BTreeMap<&str, &str> = mine
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let names: std::collections::BTreeSet<&str> =
        mine.keys().chain(theirs.keys()).copied().collect();
    names.into_iter().find_map(|name| {
        let say = |facts: &BTreeMap<&str, &str>| match facts.get(name) {
            Some(value) => format!("`{value}`"),
            None => "none".into(),
        };
        (mine.get(name) != theirs.get(name)).then(|| {
            format!(
                "{name} is {} on rank {rank} and {} on rank {other}: start all ranks alike",
                say(&mine),
                say(&theirs)
            )
        })
    })
}

/// A number of this host: two processes with the same number see the same shared memory.
/// `NCCL_HOSTID` says where a host ends for NCCL, and so it does here.
fn host(read: impl Fn(&str) -> Option<OsString>) -> u64 {
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let named = read("NCCL_HOSTID").unwrap_or_default();
    let memory = std::os::unix::fs::MetadataExt::dev;
    let memory = std::fs::metadata("/dev/shm").map_or(0, |shm| memory(&shm));
    let bytes = boot
        .into_iter()
        .chain(named.into_encoded_bytes())
        .chain(memory.to_le_bytes());
    // FNV-1a.
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(of: &[(&str, &str)]) -> Vec<(String, String)> {
        of.iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect()
    }

    #[test]
    fn the_first_difference_is_named() {
        let mine = facts(&[("NCCL", "2.30.7"), ("driver", "13.0")]);
        assert_eq!(difference(0, &mine, 1, "NCCL\t2.30.7\ndriver\t13.0"), None);
        let other = difference(0, &mine, 1, "NCCL\t2.28.9\ndriver\t13.0").unwrap();
        assert!(
            other.contains("NCCL is `2.30.7` on rank 0 and `2.28.9` on rank 1"),
            "{other}"
        );
        let less = difference(0, &mine, 1, "NCCL\t2.30.7").unwrap();
        assert!(
            less.contains("driver is `13.0` on rank 0 and none on rank 1"),
            "{less}"
        );
        let more = difference(0, &mine, 1, "NCCL\t2.30.7\ndriver\t13.0\nNCCL_ALGO\tRing").unwrap();
        assert!(
            more.contains("NCCL_ALGO is none on rank 0 and `Ring` on rank 1"),
            "{more}"
        );
    }

    #[test]
    fn hosts_are_told_apart() {
        assert_eq!(host(|_| None), host(|_| None));
        assert_ne!(host(|_| None), host(|_| Some("a".into())));
        let hosts = Hosts {
            of: [7, 7, 9, 9].into(),
            rank: 1,
        };
        assert_eq!(hosts.here(&[3, 1, 0])[..], [1, 0]);
        assert_eq!(hosts.here(&[2, 1])[..], [1]);
    }
}
