//! What lies where on a board: of a group, and of the world. All offsets follow from the number of
//! ranks, and everything begins at a cache line.

use std::ops::Range;

use super::details::Details;
use super::pairs::Pairs;
use super::ring::{LINE, POINTS, Ring};
use super::sync::AtomicU64;

/// The board of a group: slots, a line for each rank's point, pairs, details, and a line for each
/// rank that left. Ranks are those of the group on this host, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    ranks: usize,
    slots: Range<usize>,
    lines: Range<usize>,
    pairs: Range<usize>,
    details: Range<usize>,
    left: Range<usize>,
}

impl Layout {
    pub(crate) const fn of(ranks: usize) -> Self {
        let slots = 0..POINTS;
        let lines = after(&slots, ranks * LINE);
        let pairs = after(&lines, Pairs::words(ranks));
        let details = after(&pairs, Details::words(ranks));
        let left = after(&details, ranks * LINE);
        Self {
            ranks,
            slots,
            lines,
            pairs,
            details,
            left,
        }
    }

    /// Bytes of the board.
    pub(crate) const fn bytes(&self) -> usize {
        self.left.end * size_of::<u64>()
    }

    /// The ring, as `rank` sees it. `words` are the board's, here and below.
    #[inline]
    pub(crate) fn ring<'a>(&self, words: &'a [AtomicU64], rank: usize) -> Ring<'a> {
        Ring::new(&words[self.slots.clone()], &words[self.lines.clone()], rank)
    }

    /// The pairs.
    pub(crate) fn pairs<'a>(&self, words: &'a [AtomicU64]) -> Pairs<'a> {
        Pairs::new(&words[self.pairs.clone()], self.ranks)
    }

    /// The records.
    #[inline]
    pub(crate) fn details<'a>(&self, words: &'a [AtomicU64]) -> Details<'a> {
        Details::new(&words[self.details.clone()])
    }

    /// Where a rank marks that it left a scope by an error: the point that it did not come to, or 0.
    pub(crate) fn left<'a>(&self, words: &'a [AtomicU64], rank: usize) -> &'a AtomicU64 {
        &words[self.left.clone()][rank * LINE]
    }
}

/// The board of the world: the poison word, a heartbeat for each rank, and room for each rank's
/// cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorldLayout {
    ranks: usize,
}

/// Bytes of the longest cause that is kept.
pub(crate) const CAUSE: usize = 2048;
/// Words of a cause: a line for its state, and the text.
const CAUSE_WORDS: usize = LINE + CAUSE / size_of::<u64>();

impl WorldLayout {
    pub(crate) const fn of(ranks: usize) -> Self {
        Self { ranks }
    }

    const fn beats(self) -> Range<usize> {
        after(&(0..LINE), self.ranks * LINE)
    }

    const fn causes(self) -> Range<usize> {
        after(&self.beats(), self.ranks * CAUSE_WORDS)
    }

    /// Bytes of the board.
    pub(crate) const fn bytes(self) -> usize {
        self.causes().end * size_of::<u64>()
    }

    pub(super) fn poison(self, words: &[AtomicU64]) -> &AtomicU64 {
        &words[0]
    }

    pub(super) fn beat(self, words: &[AtomicU64], rank: usize) -> &AtomicU64 {
        &words[self.beats()][rank * LINE]
    }

    /// The state of a rank's cause, and its text.
    pub(super) fn cause(self, words: &[AtomicU64], rank: usize) -> (&AtomicU64, &[AtomicU64]) {
        let area = &words[self.causes()][rank * CAUSE_WORDS..][..CAUSE_WORDS];
        (&area[0], &area[LINE..])
    }
}

/// So many words behind a range; all ranges are whole lines.
const fn after(range: &Range<usize>, words: usize) -> Range<usize> {
    assert!(range.end.is_multiple_of(LINE) && words.is_multiple_of(LINE));
    range.end..range.end + words
}
