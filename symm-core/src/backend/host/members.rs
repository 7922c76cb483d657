//! The ranks of a communicator, and how they agree.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::clock::Clock;
use crate::backend::driver::Releases;
use crate::error::{Error, Result};
use crate::rendezvous::{Rendezvous, Topic};

/// `ncclRemoteError`.
const REMOTE_ERROR: i32 = 6;

/// Who is in a communicator, and how they meet.
pub(super) struct Members {
    pub(super) id: u64,
    pub(super) name: Box<str>,
    /// This rank's rank in the communicator.
    pub(super) rank: usize,
    /// World ranks.
    pub(super) world: Arc<[usize]>,
    pub(super) rendezvous: Arc<Rendezvous>,
    pub(super) deadline: Duration,
    /// How long collectives wait for a revoke once a peer has failed.
    pub(super) patience: Duration,
    /// The epoch of the rendezvous in which it was made, and lives.
    pub(super) epoch: u64,
    pub(super) releases: Releases,
    /// Set under the device's lock, so that each collective is enqueued before it or refused.
    pub(super) revoked: AtomicBool,
    /// Of this rank's device.
    pub(super) clock: Arc<Clock>,
}

impl Members {
    pub(super) fn differ(&self, what: &str, detail: String) -> Error {
        Error::RanksDiffer {
            group: self.name.clone(),
            what: what.into(),
            detail: detail.into(),
        }
    }

    pub(super) fn topic(&self, words: &[u64], step: u64) -> Topic {
        let words: Vec<u64> = [self.id].iter().chain(words).copied().collect();
        Topic {
            channel: Topic::channel(&words),
            step,
        }
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    /// Whether a kernel of the communicator waits no more.
    pub(super) fn is_released(&self, symmetric: bool) -> bool {
        self.is_revoked() && (self.releases == Releases::All || !symmetric)
    }

    /// Whether the world was rebuilt since.
    pub(super) fn is_stale(&self) -> bool {
        self.rendezvous.epoch() != self.epoch
    }

    /// What a call gets that waits inside a communicator when it is revoked.
    pub(super) fn released(&self) -> Option<Error> {
        self.is_revoked().then(|| Error::Backend {
            rank: self.rendezvous.rank(),
            call: "a call that waits for peers",
            code: REMOTE_ERROR,
            text: format!("{} was revoked meanwhile", self.name).into(),
        })
    }

    /// Exchanges values that must be equal in their first `equal` words; returns those of all. Ends
    /// when `through`, whose peers it waits for, is revoked.
    pub(super) fn agree(
        &self,
        through: &Members,
        topic: Topic,
        words: &[u64],
        equal: usize,
        what: &str,
    ) -> Result<Vec<Vec<u64>>> {
        let value = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let on = format!("{what} on {}", self.name);
        self.rendezvous.post(topic, &self.world, value)?;
        let values = self
            .rendezvous
            .collect_unless(topic, &on, self.deadline, &|| through.released())?;
        let read = |value: &Vec<u8>| {
            value
                .as_chunks::<8>()
                .0
                .iter()
                .map(|word| u64::from_le_bytes(*word))
                .collect::<Vec<_>>()
        };
        let all: Vec<Vec<u64>> = values.iter().map(read).collect();
        match all
            .iter()
            .position(|other| other.len() != words.len() || other[..equal] != all[0][..equal])
        {
            None => Ok(all),
            Some(other) => {
                let show = |at: usize| {
                    format!(
                        "rank {} says {:?}",
                        self.world[at],
                        &all[at][..equal.min(all[at].len())]
                    )
                };
                Err(self.differ(what, format!("{}, {}", show(0), show(other))))
            }
        }
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
