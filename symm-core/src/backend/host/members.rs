//! The ranks of a communicator, and how they agree.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::rendezvous::{Rendezvous, Topic};

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

    /// Exchanges values that must be equal in their first `equal` words; returns those of all.
    pub(super) fn agree(
        &self,
        topic: Topic,
        words: &[u64],
        equal: usize,
        what: &str,
    ) -> Result<Vec<Vec<u64>>> {
        let value = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let on = format!("{what} on {}", self.name);
        let values = self
            .rendezvous
            .exchange(topic, &self.world, value, &on, self.deadline)?;
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
