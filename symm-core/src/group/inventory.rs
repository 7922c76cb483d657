//! What a rank has when its world is rebuilt, as ranks compare it.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use super::core::GroupCore;
use super::split::Splits;
use super::world::Rank;
use crate::backend::Backend;
use crate::pool::arena::Surveyed;

/// Groups and arenas of one rank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inventory {
    pub(crate) splits: Splits,
    groups: Vec<Owned>,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    id: u64,
    members: Vec<u64>,
    /// The arena's name, which is the same on all ranks.
    arena: String,
    segments: Vec<[u64; 3]>,
}

/// A group that is rebuilt, with what stays of its arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) id: u64,
    pub(crate) arena: String,
    /// Segments that stay.
    pub(crate) segments: usize,
}

impl Owned {
    fn of<B: Backend>(group: &GroupCore<B>) -> Option<Self> {
        let id = group.link().split?;
        let words = |segment: &Surveyed| [segment.bytes, u64::from(segment.empty), segment.digest];
        Some(Self {
            id,
            members: group.members.iter().map(|&rank| rank as u64).collect(),
            arena: group.arena.name().into(),
            segments: group.arena.survey().iter().map(words).collect(),
        })
    }
}

impl Inventory {
    /// What this rank has.
    pub(crate) fn of<B: Backend>(rank: &Arc<Rank<B>>) -> Self {
        let splits = *rank.splits.lock().unwrap_or_else(PoisonError::into_inner);
        let groups = rank.live_groups();
        let mut groups: Vec<Owned> = groups.iter().filter_map(|group| Owned::of(group)).collect();
        groups.sort_by_key(|group| group.id);
        Self { splits, groups }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut word = |word: u64| out.extend(word.to_le_bytes());
        word(self.splits.made);
        word(self.splits.groups);
        word(self.groups.len() as u64);
        for group in &self.groups {
            word(group.id);
            word(group.members.len() as u64);
            group.members.iter().for_each(|member| word(*member));
            word(group.arena.len() as u64);
            group.arena.bytes().for_each(|byte| word(byte.into()));
            word(group.segments.len() as u64);
            group.segments.iter().flatten().for_each(|part| word(*part));
        }
        out
    }

    pub(crate) fn decode(told: &[u8]) -> Option<Self> {
        let mut words = told
            .as_chunks::<8>()
            .0
            .iter()
            .map(|word| u64::from_le_bytes(*word));
        let splits = Splits {
            made: words.next()?,
            groups: words.next()?,
        };
        let mut groups = Vec::new();
        for _ in 0..words.next()? {
            let id = words.next()?;
            let members = list(&mut words)?;
            let arena = list(&mut words)?;
            let arena = arena.into_iter().map(|byte| byte as u8).collect();
            let mut segments = Vec::new();
            for _ in 0..words.next()? {
                segments.push([words.next()?, words.next()?, words.next()?]);
            }
            groups.push(Owned {
                id,
                members,
                arena: String::from_utf8(arena).ok()?,
                segments,
            });
        }
        Some(Self { splits, groups })
    }

    /// The groups that live on all of their ranks, in the order of their numbers, and how much of
    /// their arenas stays. `all` are those of all ranks. The error says which ranks differ.
    pub(crate) fn compare(&self, me: usize, all: &[Inventory]) -> Result<Vec<Group>, String> {
        let has = |rank: u64, id: u64| {
            let inventory = all.get(rank as usize)?;
            inventory.groups.iter().find(|group| group.id == id)
        };
        let alive = |group: &&Owned| {
            group
                .members
                .iter()
                .all(|&rank| has(rank, group.id).is_some())
        };
        let mut kept = Vec::new();
        for group in self.groups.iter().filter(alive) {
            // What all have alike stays. Behind it, ranks that failed at different places may have
            // different segments, with nothing in them.
            let sharers = sharers(group, all);
            let theirs = || {
                let arenas = sharers.iter();
                arenas.filter_map(|&rank| Some((rank, arena_of(all, rank, &group.arena)?)))
            };
            let common = theirs()
                .map(|(_, theirs)| alike(&group.segments, theirs))
                .min()
                .unwrap_or(0);
            let holds = |segments: &[[u64; 3]]| {
                let mut beyond = segments.iter().skip(common);
                beyond.any(|[_, empty, _]| *empty == 0)
            };
            let mut differing = theirs().filter(|(_, theirs)| {
                alike(&group.segments, theirs) < group.segments.len().max(theirs.len())
            });
            let differs = differing.find(|(_, theirs)| holds(theirs) || holds(&group.segments));
            if let Some((rank, _)) = differs {
                return Err(format!(
                    "ranks {me} and {rank} hold different buffers in the arena {}: drop what the failed step made, then rebuild again",
                    group.arena
                ));
            }
            kept.push(Group {
                id: group.id,
                arena: group.arena.clone(),
                segments: common,
            });
        }
        Ok(kept)
    }
}

/// How many segments two ranks have alike, from the first on.
fn alike(mine: &[[u64; 3]], theirs: &[[u64; 3]]) -> usize {
    mine.iter().zip(theirs).take_while(|(a, b)| a == b).count()
}

fn list(words: &mut impl Iterator<Item = u64>) -> Option<Vec<u64>> {
    let len = words.next()?;
    (0..len).map(|_| words.next()).collect()
}

/// All ranks that share the group's arena, through whichever groups.
fn sharers(group: &Owned, all: &[Inventory]) -> BTreeSet<u64> {
    let mut ranks: BTreeSet<u64> = group.members.iter().copied().collect();
    loop {
        let groups = ranks
            .iter()
            .filter_map(|&rank| all.get(rank as usize))
            .flat_map(|inventory| &inventory.groups);
        let sharing = groups.filter(|other| other.arena == group.arena);
        let more: BTreeSet<u64> = sharing.flat_map(|other| other.members.clone()).collect();
        if more.is_subset(&ranks) {
            return ranks;
        }
        ranks.extend(more);
    }
}

fn arena_of<'a>(all: &'a [Inventory], rank: u64, arena: &str) -> Option<&'a [[u64; 3]]> {
    let groups = &all.get(rank as usize)?.groups;
    let group = groups.iter().find(|group| group.arena == arena)?;
    Some(&group.segments)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: [u64; 3] = [8 << 20, 1, 11];
    const USED: [u64; 3] = [8 << 20, 0, 22];

    fn inventory(groups: &[(u64, &[u64], &str, &[[u64; 3]])]) -> Inventory {
        Inventory {
            splits: Splits { made: 3, groups: 4 },
            groups: groups
                .iter()
                .map(|(id, members, arena, segments)| Owned {
                    id: *id,
                    members: members.to_vec(),
                    arena: (*arena).into(),
                    segments: segments.to_vec(),
                })
                .collect(),
        }
    }

    #[test]
    fn an_inventory_comes_back_as_it_was() {
        let one = inventory(&[(5, &[0, 1], "tp+cp", &[FREE, USED]), (6, &[0], "tp#6", &[])]);
        assert_eq!(Inventory::decode(&one.encode()), Some(one));
        assert_eq!(Inventory::decode(&[0; 12]), None);
    }

    #[test]
    fn what_some_ranks_made_before_they_failed_goes() {
        let (more, less) = (
            inventory(&[(5, &[0, 1], "a", &[USED, FREE])]),
            inventory(&[(5, &[0, 1], "a", &[USED])]),
        );
        let kept = more.compare(0, &[more.clone(), less.clone()]).unwrap();
        assert_eq!(kept[0].segments, 1);
        let held = inventory(&[(5, &[0, 1], "a", &[USED, USED])]);
        let why = less.compare(1, &[held, less.clone()]).unwrap_err();
        assert!(
            why.contains("ranks 1 and 0 hold different buffers"),
            "{why}"
        );
    }

    #[test]
    fn empty_segments_of_other_sizes_go() {
        let large = [64 << 20, 1, 33];
        let (one, other) = (
            inventory(&[(5, &[0, 1], "a", &[USED, FREE, FREE])]),
            inventory(&[(5, &[0, 1], "a", &[USED, large])]),
        );
        for (me, inventory) in [&one, &other].into_iter().enumerate() {
            let kept = inventory.compare(me, &[one.clone(), other.clone()]);
            assert_eq!(kept.unwrap()[0].segments, 1);
        }
    }

    #[test]
    fn groups_that_some_rank_dropped_are_left() {
        let (both, one) = (
            inventory(&[(5, &[0, 1], "a", &[]), (6, &[0, 1], "b", &[])]),
            inventory(&[(6, &[0, 1], "b", &[])]),
        );
        let kept = both.compare(0, &[both.clone(), one]).unwrap();
        assert_eq!(kept.iter().map(|group| group.id).collect::<Vec<_>>(), [6]);
    }

    #[test]
    fn a_shared_arena_is_compared_on_all_that_share_it() {
        let all = [
            inventory(&[
                (1, &[0, 1], "s", &[USED, FREE]),
                (2, &[0, 2], "s", &[USED, FREE]),
            ]),
            inventory(&[(1, &[0, 1], "s", &[USED, FREE])]),
            inventory(&[(2, &[0, 2], "s", &[USED])]),
        ];
        for (rank, inventory) in all.iter().enumerate() {
            let kept = inventory.compare(rank, &all).unwrap();
            assert!(kept.iter().all(|group| group.segments == 1), "{kept:?}");
        }
    }
}
