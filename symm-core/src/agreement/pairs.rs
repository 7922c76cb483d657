//! Compares point-to-point messages: for each ordered pair of ranks a ring of K words.
//!
//! A message concerns two ranks, so it has no place in the group's [`ring`](super::ring): its points
//! count for its own pair. Each end counts messages and rolls a digest; at message n the first of
//! the two to come leaves its word, the other compares with it. One word for both ends: one location
//! and one compare-and-swap, so that coherence alone makes one of them see the other (with a word
//! for each end that would take a sequentially consistent store and load).
//!
//! Nobody waits here. An end that runs more than K messages ahead overwrites words that the other
//! has not compared; what that hides the next comparison shows, since digests roll.

use super::ring::{mix, tag};
use super::sync::{AtomicU64, Ordering};

/// Messages by which one end may be ahead and all are still compared.
pub(crate) const MESSAGES: usize = 16;
const TAG: u32 = 48;
/// Laps between tags that look alike.
const LAPS: u64 = 0xFFFF;

/// The pairs of a group's ranks on one host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pairs<'a> {
    words: &'a [AtomicU64],
    ranks: usize,
}

/// What one end of one ordered pair keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PairCursor {
    /// Messages so far.
    pub(crate) count: u64,
    digest: u64,
}

impl<'a> Pairs<'a> {
    /// Words for the pairs of so many ranks.
    pub(crate) const fn words(ranks: usize) -> usize {
        ranks * ranks * MESSAGES
    }

    pub(crate) fn new(words: &'a [AtomicU64], ranks: usize) -> Self {
        debug_assert!(words.len() == Self::words(ranks));
        Self { words, ranks }
    }

    /// States the next message from `source` to `target`; false if the other end has stated another.
    /// Both ends call it, each with a cursor of its own for this pair and direction. The cursor
    /// advances only if it is true.
    pub(crate) fn enter(
        &self,
        cursor: &mut PairCursor,
        source: usize,
        target: usize,
        fingerprint: u64,
    ) -> bool {
        let digest = mix(cursor.digest, fingerprint);
        let tag = tag(cursor.count / MESSAGES as u64);
        let mine = tag << TAG | digest >> (64 - TAG);
        let first = (source * self.ranks + target) * MESSAGES;
        let word = &self.words[first + cursor.count as usize % MESSAGES];
        let mut found = word.load(Ordering::Relaxed);
        loop {
            if found >> TAG == tag && found != mine {
                return false;
            }
            if found == mine || !is_older(found >> TAG, tag) {
                break;
            }
            // Fails at most as often as the other end moves on meanwhile.
            match word.compare_exchange(found, mine, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break,
                Err(theirs) => found = theirs,
            }
        }
        cursor.count += 1;
        cursor.digest = digest;
        true
    }
}

/// Whether a tag is of a lap before `tag`'s: tags count in a circle.
fn is_older(found: u64, tag: u64) -> bool {
    found == 0 || (tag + LAPS - found) % LAPS <= LAPS / 2
}
