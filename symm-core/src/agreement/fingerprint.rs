//! What ranks compare at an agreed point, in 64 bits: every field of a record but those that are for
//! messages.

use super::record::{COMPARED, Words};
use super::ring::mix;
use crate::element::Dtype;

/// The fingerprint of a record's words. Each step is one to one in the word, so records that differ
/// in one field never have the same.
#[inline]
pub(crate) fn of(words: &Words) -> u64 {
    let compared = &words[..COMPARED];
    compared.iter().fold(SEED, |hash, &word| fold(hash, word))
}

/// The fingerprint of one message, the same at both of its ends. It runs on no window.
pub(crate) fn of_message(source: usize, target: usize, bytes: u64, dtype: Dtype) -> u64 {
    let words = [source as u64, target as u64, bytes, dtype as u64];
    words.iter().fold(SEED, |hash, &word| fold(hash, word))
}

/// The fingerprint of several in this order: of the calls of a batch.
pub(crate) fn join(first: u64, next: u64) -> u64 {
    mix(first, next)
}

const SEED: u64 = 0x243F_6A88_85A3_08D3;

/// The ring scatters the bits; here it is enough that none is lost.
fn fold(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(26) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}
