//! What a rank tells the parent: a line with the time, a word and a text.

use std::time::{SystemTime, UNIX_EPOCH};

const MARK: &str = "@fault";

#[derive(Clone, Debug)]
pub(super) struct Said {
    /// Microseconds since 1970, as in the shim's log.
    pub(super) micros: u128,
    pub(super) word: String,
    pub(super) text: String,
}

pub(super) fn now() -> u128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros())
}

pub(super) fn say(word: &str, text: &str) {
    println!("{MARK} {} {word} {}", now(), text.replace('\n', " | "));
}

/// What the line says, if it says something.
pub(super) fn heard(line: &str) -> Option<Said> {
    let mut parts = line.splitn(4, ' ');
    let (mark, micros, word) = (parts.next()?, parts.next()?, parts.next()?);
    (mark == MARK).then_some(())?;
    Some(Said {
        micros: micros.parse().ok()?,
        word: word.into(),
        text: parts.next().unwrap_or_default().into(),
    })
}

/// Seconds from the one to the other.
pub(super) fn seconds(from: u128, to: u128) -> f64 {
    to.saturating_sub(from) as f64 / 1e6
}
