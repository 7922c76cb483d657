//! Compares what the ranks of one group on one host are about to do, without waiting for anyone.
//!
//! At point n (from 1) each rank has a word of (tag, digest): the tag is the lap of the ring, the
//! digest rolls over everything up to n. The first rank to come swaps its word into slot n mod N,
//! all others compare theirs with it, and no rank enters a slot before all have left its last lap.
//! So two ranks that pass n are equal up to n.
//!
//! The loom test compiles this very file with loom's atomics; it uses nothing but [`super::sync`].
//!
//! # Orderings
//!
//! - *Slots* are relaxed. In one lap a slot changes once, by a compare-and-swap from the lap before;
//!   a word that carries this lap's tag, loaded or brought back by a failed swap, is therefore the
//!   only one of this lap. That is coherence of one location.
//! - *Lines* are stored with release and loaded with acquire: a rank's last look at a slot then
//!   happens before the swap of whoever saw that it had passed, so it cannot see the next lap.

use super::sync::{AtomicU64, Ordering};

/// Points of a lap.
pub(crate) const POINTS: usize = 256;
/// Words of a cache line: what one rank writes and others read has a line of its own.
pub(crate) const LINE: usize = 8;
/// The tag lies above the digest.
const TAG: u32 = 48;

/// The ring of a group, as one rank sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring<'a, const N: usize = POINTS> {
    slots: &'a [AtomicU64],
    /// A line for each rank: the last point that it passed.
    lines: &'a [AtomicU64],
    rank: usize,
}

/// What a rank keeps of its own way through a ring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Points passed.
    pub(crate) seq: u64,
    /// Rolls over the fingerprints of all of them.
    pub(crate) digest: u64,
    /// A point that all ranks are known to have passed.
    bound: u64,
}

/// A cursor with one user at a time, which costs no locked instruction.
#[derive(Debug, Default)]
pub(crate) struct OwnCursor([AtomicU64; 3]);

impl OwnCursor {
    /// Lends the cursor.
    #[inline]
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut Cursor) -> R) -> R {
        let [seq, digest, bound] = self.0.each_ref();
        let mut cursor = Cursor {
            seq: seq.load(Ordering::Relaxed),
            digest: digest.load(Ordering::Relaxed),
            bound: bound.load(Ordering::Relaxed),
        };
        let done = work(&mut cursor);
        seq.store(cursor.seq, Ordering::Relaxed);
        digest.store(cursor.digest, Ordering::Relaxed);
        bound.store(cursor.bound, Ordering::Relaxed);
        done
    }
}

/// What became of an attempt to pass a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Step {
    /// All that came before this rank are equal up to here.
    Passed,
    /// A rank that came before differs, here or before. The cursor stays.
    Differs,
    /// This rank is a lap behind: nothing was done. Wait, look at poison, and try again.
    Full { behind: usize },
}

impl<'a, const N: usize> Ring<'a, N> {
    /// `slots` are N words, `lines` one [`LINE`] for each rank.
    #[inline]
    pub(crate) fn new(slots: &'a [AtomicU64], lines: &'a [AtomicU64], rank: usize) -> Self {
        const { assert!(N.is_power_of_two()) };
        debug_assert!(slots.len() == N && rank < lines.len() / LINE);
        Self { slots, lines, rank }
    }

    /// Tries to pass the next point. Never waits.
    #[inline]
    pub(crate) fn enter(&self, cursor: &mut Cursor, fingerprint: u64) -> Step {
        if let Some(behind) = self.behind(cursor) {
            return Step::Full { behind };
        }
        let digest = mix(cursor.digest, fingerprint);
        let lap = cursor.seq / N as u64;
        let mine = tag(lap) << TAG | digest >> (64 - TAG);
        let older = lap.checked_sub(1).map_or(0, tag);
        let slot = &self.slots[cursor.seq as usize % N];
        let mut found = slot.load(Ordering::Relaxed);
        if found >> TAG == older {
            found = match slot.compare_exchange(found, mine, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => mine,
                Err(theirs) => theirs,
            };
        }
        // A tag of any other lap cannot be, and is a difference too.
        if found != mine {
            return Step::Differs;
        }
        cursor.digest = digest;
        cursor.seq += 1;
        self.lines[self.rank * LINE].store(cursor.seq, Ordering::Release);
        Step::Passed
    }

    /// A rank that is a lap behind, so that [`enter`](Self::enter) would say `Full`. Reads the
    /// peers' lines only when the last bound does not suffice: once a lap, while all keep up.
    #[inline]
    pub(crate) fn behind(&self, cursor: &mut Cursor) -> Option<usize> {
        if cursor.seq < cursor.bound + N as u64 {
            return None;
        }
        self.refresh(cursor)
    }

    #[cold]
    fn refresh(&self, cursor: &mut Cursor) -> Option<usize> {
        let mut least = cursor.seq;
        for rank in (0..self.ranks()).filter(|&rank| rank != self.rank) {
            let seq = self.seq_of(rank);
            if seq + N as u64 <= cursor.seq {
                return Some(rank);
            }
            least = least.min(seq);
        }
        cursor.bound = least;
        None
    }

    /// Ranks of the ring.
    pub(crate) fn ranks(&self) -> usize {
        self.lines.len() / LINE
    }

    /// The last point that a rank passed.
    pub(crate) fn seq_of(&self, rank: usize) -> u64 {
        self.lines[rank * LINE].load(Ordering::Acquire)
    }

    /// Whether all ranks have passed point `n`, and so are equal up to there.
    pub(crate) fn all_at(&self, n: u64) -> bool {
        (0..self.ranks()).all(|rank| self.seq_of(rank) >= n)
    }
}

/// The tag of a lap: never 0, which is an empty slot, and never that of the lap before.
pub(super) fn tag(lap: u64) -> u64 {
    lap % 0xFFFF + 1
}

/// Rolls a fingerprint into a digest. One to one in both: a difference in 64 bits never heals, and
/// each point has a new chance of 2^-48 to look equal in the bits that are compared.
#[inline]
pub(crate) fn mix(digest: u64, fingerprint: u64) -> u64 {
    let rolled = (digest ^ 0x5EED_0F0C_4A27_11E5)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .rotate_left(32);
    let once = scatter(rolled ^ fingerprint);
    scatter(once)
}

fn scatter(word: u64) -> u64 {
    let product = (word ^ (word >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    product ^ (product >> 32)
}
