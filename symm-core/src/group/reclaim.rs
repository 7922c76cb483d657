//! What shared buffers held, when a world is rebuilt: a round that failed at its end may have given
//! blocks back on some ranks and not on others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::core::GroupCore;
use super::world::Rank;
use crate::backend::Backend;
use crate::error::Result;
use crate::pool::placement::Position;
use crate::registration::returns::{self, Name};

/// A block that some rank has dropped, and the name of its arena.
type Drop = (String, Name);

/// Gives back what every rank has dropped or given back before. All ranks call it, in one attempt to
/// rebuild their world, in which it takes the meetings `step` and `step + 1`.
pub(super) fn reclaim<B: Backend>(rank: &Arc<Rank<B>>, step: u64) -> Result<()> {
    let seat = &rank.seat;
    let arenas: BTreeMap<String, Arc<GroupCore<B>>> = rank
        .live_groups()
        .into_iter()
        .filter(|group| group.link().split.is_some())
        .map(|group| (group.arena.name().to_owned(), group))
        .collect();
    let mine = arenas.iter().flat_map(|(arena, group)| {
        let names = returns::told(group).into_iter();
        names.map(|name| (arena.clone(), name))
    });
    let told = seat.rendezvous.convene(step, encode(mine), seat.deadline)?;
    let dropped: BTreeSet<Drop> = told.iter().flat_map(|told| decode(told)).collect();

    let is_gone = |(arena, name): &Drop| {
        let Some(group) = arenas.get(arena) else {
            // Not of this rank, or of a group that is not rebuilt.
            return true;
        };
        let [segment, offset, bytes] = *name;
        let segment = segment as usize;
        group.arena.returns.has(name) || group.arena.is_free(Position { segment, offset }, bytes)
    };
    let mine = dropped.iter().map(|drop| u8::from(is_gone(drop))).collect();
    let told = seat.rendezvous.convene(step + 1, mine, seat.deadline)?;
    let gone = |at: usize| told.iter().all(|told| told.get(at) == Some(&1));
    for (arena, group) in &arenas {
        let of_arena = dropped
            .iter()
            .enumerate()
            .filter(|(at, drop)| drop.0 == *arena && gone(*at));
        let names: Vec<Name> = of_arena.map(|(_, (_, name))| *name).collect();
        returns::give_back(group, &names)?;
    }
    Ok(())
}

/// A line for each: segment, offset, bytes, arena.
fn encode(drops: impl Iterator<Item = Drop>) -> Vec<u8> {
    drops
        .map(|(arena, [segment, offset, bytes])| format!("{segment} {offset} {bytes} {arena}\n"))
        .collect::<String>()
        .into_bytes()
}

fn decode(told: &[u8]) -> Vec<Drop> {
    let told = String::from_utf8_lossy(told);
    let line = |line: &str| {
        let mut parts = line.splitn(4, ' ');
        let mut word = || parts.next()?.parse().ok();
        let name = [word()?, word()?, word()?];
        Some((parts.next()?.to_owned(), name))
    };
    told.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_come_back_as_they_were() {
        let drops = [
            ("of group 7".to_owned(), [0, 512, 1024]),
            ("Tp+Cp".to_owned(), [3, 0, 512]),
        ];
        assert_eq!(decode(&encode(drops.clone().into_iter())), drops);
        assert_eq!(decode(b"1 2\nx y z a\n"), []);
    }
}
