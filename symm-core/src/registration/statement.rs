//! What a rank is about to register, as ranks compare it, and what it has dropped.

use super::ledger::Pending;
use super::returns::{self, Name};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::group::core::GroupCore;
use crate::site::Site;

/// One rank's side of a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    /// Of the allocations of the group's arena.
    arena: u64,
    /// Of each segment: the book it is in, its index, its bytes.
    segments: Vec<[u64; 3]>,
    /// Blocks of shared buffers that this rank has dropped: no two ranks need have the same.
    dropped: Vec<Name>,
    site: String,
}

/// How much a rank is about to register.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Totals {
    pub(crate) segments: u64,
    pub(crate) bytes: u64,
}

impl Statement {
    pub(crate) fn new<B: Backend>(
        pending: &[Pending<B>],
        arena: u64,
        dropped: Vec<Name>,
        site: Site,
    ) -> Self {
        let segment = |one: &Pending<B>| [one.book as u64, one.index as u64, one.segment.bytes()];
        Self {
            arena,
            segments: pending.iter().map(segment).collect(),
            dropped,
            site: site.to_string(),
        }
    }

    pub(crate) fn totals(&self) -> Totals {
        Totals {
            segments: self.segments.len() as u64,
            bytes: self.segments.iter().map(|[.., bytes]| bytes).sum(),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let counts = [self.segments.len() as u64, self.dropped.len() as u64];
        let lists = self.segments.iter().chain(&self.dropped).copied().flatten();
        let words = [self.arena].into_iter().chain(counts).chain(lists);
        let words = words.flat_map(u64::to_le_bytes);
        words.chain(self.site.bytes()).collect()
    }

    fn decode(told: &[u8]) -> Option<Self> {
        let word = |told: &mut &[u8]| {
            let (word, rest) = told.split_first_chunk::<8>()?;
            *told = rest;
            Some(u64::from_le_bytes(*word))
        };
        let mut told = told;
        let (arena, segments) = (word(&mut told)?, word(&mut told)?);
        let dropped = word(&mut told)?;
        let mut list = |count: u64| -> Option<Vec<[u64; 3]>> {
            let mut three = || Some([word(&mut told)?, word(&mut told)?, word(&mut told)?]);
            (0..count).map(|_| three()).collect()
        };
        let (segments, dropped) = (list(segments)?, list(dropped)?);
        let site = String::from_utf8_lossy(told).into_owned();
        Some(Self {
            arena,
            segments,
            dropped,
            site,
        })
    }

    /// Fails unless all ranks are about to register the same. Returns the blocks that all of them
    /// have dropped.
    pub(crate) fn compare<B: Backend>(
        &self,
        what: &str,
        told: &[Vec<u8>],
        group: &GroupCore<B>,
    ) -> Result<Vec<Name>> {
        let mut dropped = Vec::with_capacity(told.len());
        for (&rank, told) in group.members.iter().zip(told) {
            let theirs = Self::decode(told).ok_or_else(|| Error::Rendezvous {
                rank,
                why: "it runs another version of symm-core: what it registers cannot be read"
                    .into(),
            })?;
            if let Some(detail) = self.difference(&theirs, group.members[group.rank], rank) {
                return Err(Error::RanksDiffer {
                    group: group.label().into(),
                    what: what.into(),
                    detail: detail.into(),
                });
            }
            dropped.push(theirs.dropped);
        }
        Ok(returns::common(&dropped))
    }

    fn difference(&self, theirs: &Self, me: usize, rank: usize) -> Option<String> {
        let same = self.segments == theirs.segments;
        if same && self.arena == theirs.arena {
            return None;
        }
        let what = match same {
            false => format!(
                "rank {rank} came to {} with {}, rank {me} to {} with {}",
                theirs.site,
                theirs.pending(),
                self.site,
                self.pending()
            ),
            true => format!(
                "rank {rank} at {} and rank {me} at {} allocated differently in the arena before",
                theirs.site, self.site
            ),
        };
        Some(format!("{what}: {ALIKE}"))
    }

    fn pending(&self) -> String {
        let Totals { segments, bytes } = self.totals();
        let last = match self.segments.last() {
            Some([_, index, bytes]) => format!(", the last number {index} of {bytes} bytes"),
            None => String::new(),
        };
        let plural = if segments == 1 { "" } else { "s" };
        format!("{segments} segment{plural} pending ({bytes} bytes{last})")
    }
}

/// What to do about ranks that allocate differently.
pub(crate) const ALIKE: &str = "pad uneven sizes with empty_padded, give the group an arena of its own, or allocate what differs under suspend()";

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(arena: u64, segments: &[[u64; 3]]) -> Statement {
        Statement {
            arena,
            segments: segments.to_vec(),
            dropped: vec![[0, arena, 512]],
            site: "src/moe.rs:88".into(),
        }
    }

    #[test]
    fn a_statement_comes_back_as_it_was() {
        let one = statement(7, &[[0, 0, 8 << 20], [1, 3, 2 << 20]]);
        assert_eq!(Statement::decode(&one.encode()), Some(one));
        assert_eq!(Statement::decode(&[0; 23]), None);
    }

    #[test]
    fn differences_say_who_where_and_how_much() {
        let (one, more) = (
            statement(7, &[[0, 0, 8 << 20]]),
            statement(7, &[[0, 0, 8 << 20], [0, 1, 32 << 20]]),
        );
        assert_eq!(one.difference(&one, 0, 1), None);
        let other_drops = Statement {
            dropped: Vec::new(),
            ..one.clone()
        };
        assert_eq!(one.difference(&other_drops, 0, 1), None);
        let text = one.difference(&more, 0, 1).unwrap();
        for part in [
            "rank 1 came to src/moe.rs:88 with 2 segments pending (41943040 bytes, the last number 1 of 33554432 bytes)",
            "rank 0 to src/moe.rs:88 with 1 segment pending",
            "empty_padded",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(
            one.difference(&statement(8, &[[0, 0, 8 << 20]]), 0, 1)
                .is_some()
        );
        assert!(
            one.difference(&statement(7, &[[0, 0, 4 << 20]]), 0, 1)
                .is_some()
        );
    }
}
