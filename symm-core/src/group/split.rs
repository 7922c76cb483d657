//! Cutting groups out of a world: all of its ranks say what they want, and go on if it fits.

use std::collections::BTreeSet;
#[cfg(feature = "cuda")]
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::Group;
use super::connect::cut;
use super::core::{GroupCore, Instance};
use super::tag::{Dyn, GroupTag};
use super::world::World;
use super::{sleep, start};
use crate::backend::Backend;
use crate::backend::driver::Split;
use crate::capture::active;
use crate::error::{Error, Result};
use crate::rendezvous::Topic;

/// The channel of the rendezvous on which worlds agree on their splits.
const SPLITS: Topic = Topic {
    channel: 0,
    step: 1 << 32,
};

/// How far a world's splits have come, on all ranks alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Splits {
    /// Splits so far, also those that were refused.
    pub(crate) made: u64,
    /// Groups that they gave, of all colors.
    pub(crate) groups: u64,
}

impl<B: Backend> World<B> {
    /// Cuts groups out of the world: the ranks with the same `color` form one, ordered by `key`,
    /// then by their rank in the world. A collective: all ranks of the world call it at the same
    /// point, with the same tag.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(4, |world| {
    /// # groups! { pub Cp = "cp"; }
    /// let tp = world.split::<Tp>(world.rank() / 2, 0)?; // {0, 1} and {2, 3}
    /// let cp = world.split::<Cp>(world.rank() % 2, 0)?; // {0, 2} and {1, 3}
    /// assert_eq!(tp.members(), [[0, 1], [2, 3]][world.rank() / 2]);
    /// assert_eq!(cp.members(), [[0, 2], [1, 3]][world.rank() % 2]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::RanksDiffer`] on all ranks when they split different tags: nothing was made, and the
    /// world goes on. [`Error::Timeout`], [`Error::PeerFailed`] and those of the backend end the world
    /// for all ranks, as in a round. [`Error::Poisoned`], [`Error::Suspended`], [`Error::InCapture`].
    pub fn split<G: GroupTag>(&self, color: usize, key: usize) -> Result<Group<G, B>> {
        self.split_named::<G>(G::NAME, color, key)
    }

    /// As [`split`](World::split), for a group that is named and checked at run time.
    ///
    /// ```
    /// # use symm_core::{Host, ReduceOp, World, symm};
    /// # World::<Host>::run(2, |world| {
    /// for name in ["tp", "experts"] { // as a configuration has them
    ///     let group = world.split_dyn(name, 0, 0)?;
    ///     let mut x = symm!(group = group, { group.from_slice(&[1.0f32])? })?;
    ///     group.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    ///     assert_eq!((group.name(), x.to_vec()?), (name, vec![2.0]));
    /// }
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`split`](World::split).
    pub fn split_dyn(&self, name: &str, color: usize, key: usize) -> Result<Group<Dyn, B>> {
        self.split_named::<Dyn>(name, color, key)
    }

    fn split_named<G: GroupTag>(
        &self,
        name: &str,
        color: usize,
        key: usize,
    ) -> Result<Group<G, B>> {
        self.rank.check()?;
        active::refuse(
            &self.rank,
            "splitting a world",
            "it waits for peers: make the groups before the capture",
        )?;
        sleep::awake(&self.rank)?;
        let mut splits = self
            .rank
            .splits
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let intent = Intent {
            name: name.into(),
            arena: G::ARENA.map(str::to_owned),
            color: color as u64,
            key: key as u64,
        };
        let (split, number) = self.agree(&mut splits, &intent)?;
        let instance = Instance {
            split: Some(split.id),
            number,
        };
        let comm = cut(&self.rank, &split)?;
        let (rank, members) = (split.rank, split.members);
        let group = GroupCore::new::<G>(&self.rank, name, comm, instance, rank, members)
            .map_err(|error| self.failed(error))?;
        start::begin(&group)?;
        Ok(Group::new(group))
    }

    /// Exchanges what every rank wants, and works out this rank's group and its number. Ranks that
    /// want different things leave the world whole, since all of them know; one that does not come
    /// ends it, as in a round.
    fn agree(&self, splits: &mut Splits, intent: &Intent) -> Result<(Split, u64)> {
        let seat = &self.rank.seat;
        let step = splits.made;
        splits.made += 1;
        let intents = self
            .meet(step, intent)
            .map_err(|error| self.failed(error))?;
        if let Some(other) = intents.iter().position(|other| !intent.fits(other)) {
            let (mine, theirs) = intent.told_apart(&intents[other]);
            let detail = format!(
                "rank {} splits {mine}, rank {other} splits {theirs}",
                seat.rank
            );
            return Err(Error::RanksDiffer {
                group: "the world".into(),
                what: format!("split #{step}").into(),
                detail: detail.into(),
            });
        }
        // One that waited for this rank may have given up meanwhile.
        self.rank.check()?;
        let colors: BTreeSet<u64> = intents.iter().map(|intent| intent.color).collect();
        let color = colors.range(..intent.color).count() as u64;
        let mut members: Vec<usize> = (0..seat.ranks)
            .filter(|&rank| intents[rank].color == intent.color)
            .collect();
        members.sort_by_key(|&rank| (intents[rank].key, rank));
        let rank = members
            .iter()
            .position(|&rank| rank == seat.rank)
            .unwrap_or_default();
        let number = splits.groups + 1 + color;
        splits.groups += colors.len() as u64;
        let split = Split {
            // Communicator 1 is the world's; a world has fewer than 2^20 ranks, hence colors.
            id: ((step + 1) << 20) + color,
            color: color as i32,
            members: members.into(),
            rank,
        };
        Ok((split, number))
    }

    /// What all ranks want.
    fn meet(&self, step: u64, intent: &Intent) -> Result<Vec<Intent>> {
        let seat = &self.rank.seat;
        let everyone: Arc<[usize]> = (0..seat.ranks).collect();
        let topic = Topic {
            step: SPLITS.step + step,
            ..SPLITS
        };
        let what = format!("world.split #{step} of {}", intent.name);
        let answers =
            seat.rendezvous
                .exchange(topic, &everyone, intent.encode(), &what, seat.deadline)?;
        let intents = answers.iter().map(|bytes| Intent::decode(bytes));
        intents
            .collect::<Option<_>>()
            .ok_or_else(|| Error::Rendezvous {
                rank: seat.rank,
                why: "a peer runs another version of symm-core: its answer cannot be read".into(),
            })
    }

    /// A split that some ranks may have made and others not ends the world for all of them.
    fn failed(&self, error: Error) -> Error {
        // The board says more than the wire: who failed first, and why.
        let error = self.rank.check().err().unwrap_or(error);
        self.rank.vitals.first(error)
    }

    /// A group over an existing communicator.
    #[cfg(feature = "cuda")]
    pub(crate) fn adopt<G: GroupTag>(
        &self,
        comm: B::Comm,
        rank: usize,
        size: usize,
    ) -> Result<Group<G, B>> {
        let comm = self.rank.vitals.own(comm);
        let members = (0..size).collect();
        let instance = Instance {
            split: None,
            number: 1 + self.rank.adopted.fetch_add(1, Ordering::Relaxed),
        };
        let group = GroupCore::new::<G>(&self.rank, G::NAME, comm, instance, rank, members)?;
        Ok(Group::new(group))
    }
}

/// What one rank wants of a split.
struct Intent {
    name: String,
    /// The arena that the tag shares with others.
    arena: Option<String>,
    color: u64,
    key: u64,
}

impl Intent {
    /// Whether both may be parts of one split.
    fn fits(&self, other: &Self) -> bool {
        (&self.name, &self.arena) == (&other.name, &other.arena)
    }

    /// What both are called where they do not fit.
    fn told_apart(&self, other: &Self) -> (String, String) {
        if self.name != other.name {
            return (self.name.clone(), other.name.clone());
        }
        let with_arena = |intent: &Self| match &intent.arena {
            Some(arena) => format!("{} in {arena}", intent.name),
            None => format!("{} in an arena of its own", intent.name),
        };
        (with_arena(self), with_arena(other))
    }

    fn encode(&self) -> Vec<u8> {
        let arena = self
            .arena
            .as_ref()
            .map(|arena| [b"/", arena.as_bytes()].concat());
        [
            &self.color.to_le_bytes()[..],
            &self.key.to_le_bytes(),
            &(self.name.len() as u64).to_le_bytes(),
            self.name.as_bytes(),
            &arena.unwrap_or_default(),
        ]
        .concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (color, rest) = bytes.split_first_chunk()?;
        let (key, rest) = rest.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (name, rest) = rest.split_at_checked(u64::from_le_bytes(*len) as usize)?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        Some(Self {
            name: text(name)?,
            arena: match rest.split_first() {
                Some((_, arena)) => Some(text(arena)?),
                None => None,
            },
            color: u64::from_le_bytes(*color),
            key: u64::from_le_bytes(*key),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent(name: &str, arena: Option<&str>) -> Intent {
        Intent {
            name: name.into(),
            arena: arena.map(str::to_owned),
            color: 3,
            key: u64::MAX,
        }
    }

    #[test]
    fn what_a_rank_wants_comes_back_as_it_was() {
        for (name, arena) in [
            ("tp", None),
            ("", Some("")),
            ("a/b", Some("m::arena(A, B)")),
        ] {
            let sent = intent(name, arena);
            let read = Intent::decode(&sent.encode()).unwrap();
            assert!(read.fits(&sent) && (read.color, read.key) == (3, u64::MAX));
        }
        assert!(Intent::decode(&[0xFF; 30]).is_none());
        // Where the name ends is part of it.
        assert!(!intent("tp/", None).fits(&intent("tp", Some(""))));
        let read = Intent::decode(&intent("tp", Some("")).encode()).unwrap();
        assert!(!read.fits(&intent("tp/", None)) && !read.fits(&intent("tp", None)));
    }

    #[test]
    fn what_differs_is_what_people_read() {
        let (tp, cp) = (intent("tp", None), intent("cp", None));
        assert_eq!(tp.told_apart(&cp), ("tp".into(), "cp".into()));
        let shared = intent("tp", Some("m::arena(Tp, Cp)"));
        let told = (
            "tp in an arena of its own".into(),
            "tp in m::arena(Tp, Cp)".into(),
        );
        assert_eq!(tp.told_apart(&shared), told);
    }
}
