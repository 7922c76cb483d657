//! What shared buffers held: a block goes back to its arena once every rank of the group has dropped
//! it, in a round, so that it goes back at the same point of all ranks' programs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::Backend;
use crate::buffer::redzone::{self, Zone};
use crate::capture::active;
use crate::error::Result;
use crate::group::core::GroupCore;
use crate::pool::arena::Block;
use crate::pool::placement::Position;

/// A block whose shared buffer is gone on this rank.
#[derive(Debug)]
pub(crate) struct Dropped<B: Backend> {
    pub(crate) block: Block,
    /// Those that used it last, its own first.
    pub(crate) streams: Vec<B::Stream>,
    pub(crate) zone: Option<Zone>,
}

/// A block as ranks name it: segment, offset, bytes.
pub(crate) type Name = [u64; 3];

impl<B: Backend> Dropped<B> {
    fn name(&self) -> Name {
        let at = self.block.position;
        [at.segment as u64, at.offset, self.block.bytes]
    }
}

/// The blocks of one arena that this rank has dropped and other ranks may still hold.
#[derive(Debug)]
pub(crate) struct Returns<B: Backend>(Mutex<Vec<Dropped<B>>>);

impl<B: Backend> Default for Returns<B> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<B: Backend> Returns<B> {
    /// On any thread. Where this falls among the rank's allocations changes nothing.
    pub(crate) fn note(&self, dropped: Dropped<B>) {
        self.all().push(dropped);
    }

    /// What this rank can tell in a round.
    pub(crate) fn names(&self) -> Vec<Name> {
        self.all().iter().map(Dropped::name).collect()
    }

    /// Where they lie.
    pub(crate) fn ranges(&self) -> Vec<(Position, u64)> {
        let range = |dropped: &Dropped<B>| (dropped.block.position, dropped.block.bytes);
        self.all().iter().map(range).collect()
    }

    /// Whether the block is one of them.
    pub(crate) fn has(&self, name: &Name) -> bool {
        self.all().iter().any(|dropped| dropped.name() == *name)
    }

    /// Those of the blocks that are named, by their positions.
    fn take(&self, names: &[Name]) -> Vec<Dropped<B>> {
        let mut all = self.all();
        let (mut taken, kept): (Vec<_>, Vec<_>) = all
            .drain(..)
            .partition(|dropped| names.contains(&dropped.name()));
        *all = kept;
        taken.sort_by_key(|dropped| dropped.block.position);
        taken
    }

    fn all(&self) -> MutexGuard<'_, Vec<Dropped<B>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What this rank tells in a round of the group: nothing, where the arena has other ranks than the
/// group, which would not hear of it, and in a capture, which memory from elsewhere outlives.
pub(crate) fn told<B: Backend>(group: &Arc<GroupCore<B>>) -> Vec<Name> {
    let names = group.arena.returns.names();
    let silent = names.is_empty()
        || group.arena.is_mixed()
        || active::capture_on_this_thread(&group.world).is_some();
    match silent {
        true => Vec::new(),
        false => names,
    }
}

/// What is in every list.
pub(crate) fn common(lists: &[Vec<Name>]) -> Vec<Name> {
    let Some((first, others)) = lists.split_first() else {
        return Vec::new();
    };
    let everywhere = |name: &&Name| others.iter().all(|other| other.contains(name));
    first.iter().filter(everywhere).copied().collect()
}

/// Gives the named blocks back to the arena. All ranks do so at the same point, with the same names.
pub(crate) fn give_back<B: Backend>(group: &Arc<GroupCore<B>>, names: &[Name]) -> Result<()> {
    let mut outcome = Ok(());
    for dropped in group.arena.returns.take(names) {
        let Dropped {
            block,
            streams,
            zone,
        } = dropped;
        if let (Some(zone), Some((own, others))) = (zone, streams.split_first()) {
            let mut behind = others.iter().map(|other| B::wait_stream(own, other));
            let looked = behind
                .try_for_each(|waited| waited)
                .and_then(|()| redzone::check_later(&group.world, zone, own));
            outcome = outcome.and(looked);
        }
        group.arena.give_back(&block, &streams);
    }
    outcome
}

/// The same for a group of one rank, which has nobody to ask.
pub(crate) fn alone<B: Backend>(group: &Arc<GroupCore<B>>) -> Result<()> {
    let names = told(group);
    match names.is_empty() {
        true => Ok(()),
        false => give_back(group, &names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_all_have_dropped_goes_back() {
        let (a, b, c) = ([0, 0, 512], [0, 512, 512], [1, 0, 512]);
        assert_eq!(common(&[vec![c, a, b], vec![b, c], vec![c, b]]), [c, b]);
        assert_eq!(common(&[vec![a], vec![]]), [[0; 3]; 0]);
        assert_eq!(common(&[vec![a], vec![[0, 0, 1024]]]), [[0; 3]; 0]);
    }
}
