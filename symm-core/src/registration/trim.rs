//! Giving segments back that are empty on all ranks: the one place where a live group loses single
//! windows.

use std::sync::Arc;

use super::returns;
use super::statement::Statement;
use crate::agreement::record::What;
use crate::backend::Backend;
use crate::capture::active;
use crate::error::{Error, Result};
use crate::group::agree;
use crate::group::core::GroupCore;
use crate::group::link::Link;
use crate::pool::arena::Surveyed;
use crate::pool::usage::Claim;
use crate::scope::routing::Inside;
use crate::site::Site;
use crate::trace;

/// Gives the arena's last segments back, as far as they are empty on all ranks, and says how many
/// bytes that was.
pub(crate) fn trim<B: Backend>(group: &Arc<GroupCore<B>>, site: Site) -> Result<u64> {
    group.world.check()?;
    let _inside = Inside::new(group, Claim::Scope, site)?;
    active::refuse(
        &group.world,
        "trimming an arena",
        "it takes windows away and waits for peers: trim before the capture",
    )?;
    let link = group.link();
    link.check()?;
    if group.arena.is_mixed() {
        let why = format!(
            "the arena {} is shared by groups of different ranks, which could not all be asked: give each group an arena of its own",
            group.arena.name()
        );
        return Err(unsupported(&why));
    }
    if group.size() > 1 && link.split.is_none() {
        return Err(unsupported(
            "the group's communicator is of another maker, so nobody knows which ranks to ask",
        ));
    }
    // What ranks gave back would differ after a trim that failed on some of them.
    let trimmed = agreed(group, &link, site);
    trimmed.inspect_err(|error| group.world.poison(error))
}

fn unsupported(why: &str) -> Error {
    Error::Unsupported {
        what: "trim",
        why: why.into(),
    }
}

fn agreed<B: Backend>(group: &Arc<GroupCore<B>>, link: &Arc<Link<B>>, site: Site) -> Result<u64> {
    let keep = match group.size() {
        1 => {
            returns::alone(group)?;
            common(&[encode(&group.arena.survey())]).unwrap_or_default()
        }
        _ => {
            let arena = agree::history(group);
            let mine = Statement::new::<B>(&[], arena.digest, returns::told(group), site);
            agree::step(group, link, What::Trim, arena, site)?;
            let told = agree::meet(group, link, "a trim", mine.encode(), None)?;
            returns::give_back(group, &mine.compare("a trim", &told, group)?)?;
            let mine = encode(&group.arena.survey());
            let told = agree::meet(group, link, "the survey of a trim", mine, None)?;
            common(&told).ok_or_else(|| Error::RanksDiffer {
                group: group.label().into(),
                what: "a trim".into(),
                detail: format!(
                    "the ranks' arenas have other segments at {site}: reserve and allocate the same on all ranks"
                )
                .into(),
            })?
        }
    };
    let (world, arena) = (&group.world, &group.arena);
    let streams = arena.streams();
    for sharer in world.live_groups() {
        if Arc::ptr_eq(&sharer.arena, arena) {
            sharer.link().cut_book(arena.id, keep, streams.clone());
        }
    }
    let bytes = arena.shrink(keep);
    trace::trimmed(group, bytes, site);
    // So that the bytes are there for others when this returns.
    let reaper = &world.pool.reaper;
    if bytes > 0 && !reaper.is_held() {
        reaper.flush(world.seat.deadline)?;
    }
    Ok(bytes)
}

/// A word for each segment: its bytes, and whether it is empty.
fn encode(survey: &[Surveyed]) -> Vec<u8> {
    let word = |segment: &Surveyed| segment.bytes << 1 | u64::from(segment.empty);
    survey
        .iter()
        .flat_map(|segment| word(segment).to_le_bytes())
        .collect()
}

/// How many segments stay: all up to the last that some rank uses. `None` if ranks have others.
fn common(told: &[Vec<u8>]) -> Option<usize> {
    let words = |told: &Vec<u8>| -> Vec<u64> {
        let words = told.as_chunks::<8>().0.iter();
        words.map(|word| u64::from_le_bytes(*word)).collect()
    };
    let told: Vec<Vec<u64>> = told.iter().map(words).collect();
    let (first, others) = told.split_first()?;
    let bytes = |words: &[u64]| -> Vec<u64> { words.iter().map(|word| word >> 1).collect() };
    if others.iter().any(|other| bytes(other) != bytes(first)) {
        return None;
    }
    let used = |at: &usize| told.iter().any(|told| told[*at] & 1 == 0);
    Some((0..first.len()).rev().find(used).map_or(0, |at| at + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey(segments: &[(u64, bool)]) -> Vec<u8> {
        let segment = |&(bytes, empty): &(u64, bool)| Surveyed {
            bytes,
            empty,
            digest: 0,
        };
        encode(&segments.iter().map(segment).collect::<Vec<_>>())
    }

    #[test]
    fn what_stays_ends_with_the_last_segment_that_some_rank_uses() {
        let one = survey(&[(8, true), (16, false), (32, true), (64, true)]);
        let other = survey(&[(8, true), (16, true), (32, false), (64, true)]);
        assert_eq!(common(&[one.clone(), one.clone()]), Some(2));
        assert_eq!(common(&[one.clone(), other]), Some(3));
        assert_eq!(common(&[survey(&[(8, true), (16, true)])]), Some(0));
        assert_eq!(common(&[survey(&[]), survey(&[])]), Some(0));
        assert_eq!(common(&[one, survey(&[(8, true)])]), None);
    }
}
