//! The world's sticky failure: one word that all ranks of a host look at, and why.
//!
//! The word holds the epoch and the rank that was first. A rebuild goes on in the next epoch, in
//! which the world is whole again without anything being cleared.

use super::layout::{CAUSE, WorldLayout};
use super::sync::{AtomicU64, Ordering, fence};

/// A cause that is being written.
const WRITING: u64 = 0xFFFF_FFFF;

/// The poison and the heartbeats of the world's ranks on one host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Poison<'a> {
    layout: WorldLayout,
    words: &'a [AtomicU64],
}

impl<'a> Poison<'a> {
    /// `words` are those of a board of [`WorldLayout::bytes`].
    pub(crate) fn new(layout: WorldLayout, words: &'a [AtomicU64]) -> Self {
        Self { layout, words }
    }

    /// Fails the world in this epoch; true for the one that was first, whose cause is everybody's.
    pub(crate) fn set(&self, epoch: u32, rank: usize, cause: &str) -> bool {
        self.write_cause(epoch, rank, cause);
        let word = self.layout.poison(self.words);
        let mine = u64::from(epoch) << 32 | (rank as u64 + 1);
        let mut found = word.load(Ordering::Acquire);
        while !is_of(found, epoch) {
            // Before whatever this rank does next, which may be to release a kernel.
            match word.compare_exchange(found, mine, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return true,
                Err(theirs) => found = theirs,
            }
        }
        false
    }

    /// Who failed the world in this epoch, and why.
    pub(crate) fn get(&self, epoch: u32) -> Option<(usize, String)> {
        let word = self.layout.poison(self.words).load(Ordering::Acquire);
        if !is_of(word, epoch) {
            return None;
        }
        let rank = (word as u32 as usize).checked_sub(1)?;
        // Of the word's own epoch: a rank that is behind sees a later one.
        let cause = self.read_cause((word >> 32) as u32, rank);
        Some((rank, cause.unwrap_or_else(|| UNKNOWN.into())))
    }

    /// Whether the world failed in this epoch: one load.
    #[inline]
    pub(crate) fn is_set(&self, epoch: u32) -> bool {
        is_of(
            self.layout.poison(self.words).load(Ordering::Acquire),
            epoch,
        )
    }

    /// States that a rank's watchdog runs.
    pub(crate) fn beat(&self, rank: usize, millis: u64) {
        self.layout
            .beat(self.words, rank)
            .store(millis, Ordering::Relaxed);
    }

    /// What the rank's watchdog stated last; 0 before it ran.
    pub(crate) fn last_beat(&self, rank: usize) -> u64 {
        self.layout.beat(self.words, rank).load(Ordering::Relaxed)
    }

    /// Writes the rank's own cause, unless another of its threads has written one in this epoch:
    /// then that one stands.
    fn write_cause(&self, epoch: u32, rank: usize, cause: &str) {
        let (state, text) = self.layout.cause(self.words, rank);
        let this = (u64::from(epoch) + 1) << 32;
        let found = state.load(Ordering::Relaxed);
        if found >= this
            || state
                .compare_exchange(found, this | WRITING, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            return;
        }
        fence(Ordering::Release);
        let length = (0..=cause.len().min(CAUSE))
            .rev()
            .find(|&end| cause.is_char_boundary(end))
            .unwrap_or_default();
        for (word, bytes) in text.iter().zip(cause.as_bytes()[..length].chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
        }
        state.store(this | length as u64, Ordering::Release);
    }

    /// The rank's cause in this epoch, once it is written.
    pub(crate) fn read_cause(&self, epoch: u32, rank: usize) -> Option<String> {
        let (state, text) = self.layout.cause(self.words, rank);
        let this = (u64::from(epoch) + 1) << 32;
        let found = state.load(Ordering::Acquire);
        let length = found.checked_sub(this)? as usize;
        if length > CAUSE {
            return None;
        }
        let mut bytes: Vec<u8> = text
            .iter()
            .take(length.div_ceil(8))
            .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
            .collect();
        bytes.truncate(length);
        fence(Ordering::Acquire);
        (state.load(Ordering::Relaxed) == found)
            .then(|| String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// For the moment in which one thread of a rank writes the cause and another was faster to the word.
const UNKNOWN: &str = "it has not said why yet";

/// Whether a poison word is of this epoch, or of a later one that this rank has not come to.
fn is_of(word: u64, epoch: u32) -> bool {
    word > u64::from(epoch) << 32
}
