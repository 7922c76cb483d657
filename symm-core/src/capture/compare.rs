//! Whether the ranks of a group captured alike: the last moment at which a difference is an error and
//! not a hang, or garbage in every replay.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::stats::CapturedCall;
use crate::agreement::fingerprint;
use crate::agreement::record::{ArenaMark, What};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::group::agree;
use crate::group::core::GroupCore;
use crate::group::path::{Path, Reason};
use crate::pool::placement::Position;
use crate::rendezvous::Topic;
use crate::site::Site;

/// What a channel of a group is for, beside the communicator's own.
const CAPTURES: u64 = 0x6361_7074;

/// One thing that the ranks of a group have to do alike: four words, of which the first says what.
pub(crate) type Words = [u64; 4];

const SEGMENT: u64 = 1;
const BLOCK: u64 = 2;
const CALL: u64 = 3;

pub(crate) fn of_segment(index: usize, bytes: u64) -> Words {
    [SEGMENT, index as u64, bytes, 0]
}

pub(crate) fn of_block(bytes: u64, position: Position) -> Words {
    [BLOCK, bytes, position.segment as u64, position.offset]
}

pub(crate) fn of_call(call: &CapturedCall) -> Words {
    let name = call.operation.bytes().take(8);
    let name = name.fold(0, |word, byte| word << 8 | u64::from(byte));
    // As far as ranks have to take the same.
    let path = match call.path {
        Path::Plain(Reason::Faster) => 2,
        Path::Plain(_) => 0,
        Path::Symmetric => 1,
    };
    [CALL, name, call.bytes, path]
}

/// Of all that a group did in a capture.
pub(crate) fn digest(did: &[Words]) -> u64 {
    did.iter()
        .flatten()
        .fold(0, |digest, word| fingerprint::join(digest, *word))
}

fn describe(words: Option<&Words>) -> String {
    match words {
        None => "nothing more".into(),
        Some([SEGMENT, index, bytes, _]) => format!("a segment {index} of {bytes} bytes"),
        Some([BLOCK, bytes, segment, offset]) => {
            format!("{bytes} bytes at offset {offset} of segment {segment}")
        }
        Some([_, name, bytes, path]) => {
            let name = name.to_be_bytes();
            let name = String::from_utf8_lossy(&name);
            let path = match path {
                0 => "plain",
                1 => "symmetric",
                _ => "plain (on the twin)",
            };
            format!("{path} {}.. of {bytes} bytes", name.trim_matches('\0'))
        }
    }
}

/// What this rank has to tell the group.
pub(crate) struct Statement<'a, B: Backend> {
    pub(crate) group: &'a Arc<GroupCore<B>>,
    /// What it did, or why it could not go on.
    pub(crate) did: Result<Vec<Words>, String>,
}

/// Tells the peers, without waiting for theirs.
fn tell<B: Backend>(statements: &[Statement<'_, B>], site: Site) -> Result<Vec<Topic>> {
    let post = |statement: &Statement<'_, B>| {
        let group = statement.group;
        let link = group.link();
        agree::step(group, &link, What::Capture, ArenaMark::default(), site)?;
        let topic = Topic {
            channel: Topic::channel(&[CAPTURES, link.split.unwrap_or_default()]),
            step: link.agreements.fetch_add(1, Ordering::Relaxed),
        };
        let rendezvous = &group.world.seat.rendezvous;
        rendezvous.post(topic, &group.members, encode(&statement.did))?;
        Ok(topic)
    };
    let known = statements
        .iter()
        .filter(|statement| statement.group.link().split.is_some());
    known.map(post).collect()
}

/// Why a rank has no graph whose pass was dropped.
pub(crate) const ENDED_EARLY: &str =
    "its step ended early: with an error, a panic, or a guard that was dropped";

/// Tells the peers of the groups that this rank has no graph.
pub(crate) fn tell_failure<B: Backend>(groups: &[Arc<GroupCore<B>>], cause: &str, site: Site) {
    let statements: Vec<Statement<'_, B>> = groups
        .iter()
        .map(|group| Statement {
            group,
            did: Err(cause.into()),
        })
        .collect();
    // In a world that has failed they know.
    let _ = tell(&statements, site);
}

/// Tells the peers, and fails unless all say the same. All ranks of the groups come here.
pub(crate) fn agree<B: Backend>(
    what: &str,
    statements: &[Statement<'_, B>],
    site: Site,
) -> Result<()> {
    let topics = tell(statements, site)?;
    let known = statements
        .iter()
        .filter(|statement| statement.group.link().split.is_some());
    for (statement, topic) in known.zip(topics) {
        let group = statement.group;
        let name = format!("{what} on {}", group.label());
        let told = agree::collect(group, &group.link(), topic, &name, None)?;
        statement.compare(what, &told)?;
    }
    Ok(())
}

impl<B: Backend> Statement<'_, B> {
    fn compare(&self, what: &str, told: &[Vec<u8>]) -> Result<()> {
        let Ok(mine) = &self.did else {
            return Ok(());
        };
        for (member, told) in self.group.members.iter().zip(told) {
            let theirs = match decode(told) {
                Ok(words) => words,
                Err(cause) => {
                    return Err(Error::PeerFailed {
                        rank: *member,
                        cause: format!("{what}: {cause}").into(),
                    });
                }
            };
            let first =
                (0..mine.len().max(theirs.len())).find(|&at| mine.get(at) != theirs.get(at));
            if let Some(at) = first {
                let detail = format!(
                    "step {at}: this rank has {}, rank {member} has {}: allocate and call the same on all ranks, outside of scopes what differs",
                    describe(mine.get(at)),
                    describe(theirs.get(at))
                );
                return Err(Error::RanksDiffer {
                    group: self.group.label().into(),
                    what: what.into(),
                    detail: detail.into(),
                });
            }
        }
        Ok(())
    }
}

fn encode(did: &Result<Vec<Words>, String>) -> Vec<u8> {
    match did {
        Ok(words) => {
            let words = words.iter().flatten().flat_map(|word| word.to_le_bytes());
            [0].into_iter().chain(words).collect()
        }
        Err(cause) => [1].into_iter().chain(cause.bytes()).collect(),
    }
}

fn decode(told: &[u8]) -> Result<Vec<Words>, String> {
    match told.split_first() {
        Some((0, words)) => {
            let words: Vec<u64> = words
                .as_chunks::<8>()
                .0
                .iter()
                .map(|word| u64::from_le_bytes(*word))
                .collect();
            Ok(words.as_chunks::<4>().0.to_vec())
        }
        Some((_, cause)) => Err(String::from_utf8_lossy(cause).into_owned()),
        None => Err("it runs another version of this crate".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_comes_back_as_it_was() {
        let at = Position {
            segment: 1,
            offset: 512,
        };
        let words = vec![of_segment(0, 8 << 20), of_block(4096, at)];
        assert_eq!(decode(&encode(&Ok(words.clone()))), Ok(words.clone()));
        assert_eq!(decode(&encode(&Ok(Vec::new()))), Ok(Vec::new()));
        assert_eq!(decode(&encode(&Err("no".into()))), Err("no".into()));
        assert_eq!(
            describe(words.get(1)),
            "4096 bytes at offset 512 of segment 1"
        );
    }
}
