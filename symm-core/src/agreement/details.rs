//! What each rank stated at the last points, for messages only: beside the ring's slots, a ring of
//! records for each rank.
//!
//! A record is written under a sequence word (odd while it is written), so that a reader knows a
//! record that was overwritten, or half written by a rank that died.

use super::record::{Record, WORDS, Words};
use super::ring::POINTS;
use super::sync::{AtomicU64, Ordering, fence};

/// Words of an entry: the sequence word and a record, two cache lines.
const ENTRY: usize = 16;
const _: () = assert!(1 + WORDS == ENTRY);

/// The records of a group's ranks on one host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Details<'a> {
    words: &'a [AtomicU64],
}

impl<'a> Details<'a> {
    /// Words for the records of so many ranks.
    pub(crate) const fn words(ranks: usize) -> usize {
        ranks * POINTS * ENTRY
    }

    #[inline]
    pub(crate) fn new(words: &'a [AtomicU64]) -> Self {
        Self { words }
    }

    #[inline]
    fn entry(&self, rank: usize, n: u64) -> &'a [AtomicU64] {
        let first = (rank * POINTS + n as usize % POINTS) * ENTRY;
        &self.words[first..first + ENTRY]
    }

    /// Writes what this rank is about to state at point `n`: before it enters the ring there, and
    /// once nobody is a lap behind, or the record of a peer's point is lost.
    #[inline]
    pub(crate) fn write(&self, rank: usize, n: u64, record: &Words) {
        let Some((sequence, fields)) = self.entry(rank, n).split_first() else {
            return;
        };
        // The fence keeps the fields behind the odd number; with it a reader that sees any of them
        // sees the number changed.
        sequence.store(n << 1 | 1, Ordering::Relaxed);
        fence(Ordering::Release);
        for (field, word) in fields.iter().zip(record) {
            field.store(*word, Ordering::Relaxed);
        }
        sequence.store(n << 1, Ordering::Release);
    }

    /// What a rank stated at point `n`; `None` if it did not, or its entry holds another point.
    pub(crate) fn read(&self, rank: usize, n: u64) -> Option<Record> {
        let (sequence, fields) = self.entry(rank, n).split_first()?;
        if n == 0 || sequence.load(Ordering::Acquire) != n << 1 {
            return None;
        }
        let mut words: Words = [0; WORDS];
        for (word, field) in words.iter_mut().zip(fields) {
            *word = field.load(Ordering::Relaxed);
        }
        fence(Ordering::Acquire);
        if sequence.load(Ordering::Relaxed) != n << 1 {
            return None;
        }
        Record::of(&words)
    }
}
