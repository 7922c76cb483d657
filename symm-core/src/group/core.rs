//! What all handles of one group share.

use std::any::{TypeId, type_name};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};

use super::communicator::Communicator;
use super::counts::Counts;
use super::link::Link;
use super::strict::Strictness;
use super::table::Table;
use super::tag::{Dyn, GroupTag};
use super::world::Rank;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::pool::arena::{Arena, Member};
use crate::pool::segment::Segment;
use crate::registration::ledger::{Ledger, Unsettled};

/// Which group of its world it is, on all of its ranks alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instance {
    /// Equal on all members, and of no other communicator of the world; `None` where somebody else
    /// made the communicator.
    pub(crate) split: Option<u64>,
    /// From 1: among all groups that were split from the world, on whichever ranks, or among those
    /// that this rank made over communicators of other makers.
    pub(crate) number: u64,
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let maker = if self.split.is_some() { "" } else { "raw" };
        write!(f, "{maker}{}", self.number)
    }
}

/// Ranks with an arena, and the communicator that joins them. Lives until the last handle, buffer
/// and scope of the group is gone.
#[derive(Debug)]
pub(crate) struct GroupCore<B: Backend> {
    /// A generation: no two groups of a process ever have the same, whatever the addresses of their
    /// communicators. Differs by rank where ranks are threads, so no message has it.
    pub(crate) generation: u64,
    pub(crate) tag: TypeId,
    pub(crate) tag_name: &'static str,
    /// The tag, with the path that tells it from others of its name.
    pub(crate) tag_type: &'static str,
    name: Box<str>,
    instance: Instance,
    pub(crate) rank: usize,
    /// World ranks by rank in the group.
    pub(crate) members: Arc<[usize]>,
    pub(crate) arena: Arc<Arena<B>>,
    /// Its name in the arena.
    pub(crate) member: Member,
    shares_arena: bool,
    /// Scopes opened so far.
    pub(crate) scopes: AtomicU64,
    /// Which paths its collectives may take.
    pub(crate) strictness: Strictness,
    /// Which paths they took.
    pub(crate) counts: Counts,
    /// Which of them are faster on the twin.
    pub(crate) table: Table,
    /// Replaced when the world is rebuilt.
    link: ArcSwap<Link<B>>,
    /// Communicators that it had, this one counted.
    links: AtomicU64,
    /// What its ledgers have pending.
    pub(crate) unsettled: Unsettled,
    pub(crate) world: Arc<Rank<B>>,
}

impl<B: Backend> GroupCore<B> {
    pub(crate) fn new<G: GroupTag>(
        world: &Arc<Rank<B>>,
        name: &str,
        comm: Arc<Communicator<B>>,
        instance: Instance,
        rank: usize,
        members: Arc<[usize]>,
    ) -> Result<Arc<Self>> {
        static GENERATIONS: AtomicU64 = AtomicU64::new(1);
        let generation = GENERATIONS.fetch_add(1, Ordering::Relaxed);
        let label = short_label(name, instance);
        let arena = match G::ARENA {
            Some(shared) => shared_arena(world, shared),
            None => world.pool.new_arena(&label),
        };
        let split = instance.split;
        let member = arena.join(split.map(|_| &members[..]));
        let unsettled = Unsettled::default();
        let link = Link::new(&label, world, comm, split, &members, &arena, &unsettled)?;
        let group = Arc::new(Self {
            generation,
            tag: TypeId::of::<G>(),
            tag_name: G::NAME,
            tag_type: tag_type::<G>(),
            name: name.into(),
            instance,
            rank,
            members,
            scopes: AtomicU64::new(0),
            strictness: Strictness::new(world.strict),
            counts: Counts::default(),
            table: Table::default(),
            link: ArcSwap::new(link),
            links: AtomicU64::new(1),
            unsettled,
            arena,
            member,
            shares_arena: G::ARENA.is_some(),
            world: Arc::clone(world),
        });
        world.add_group(&group);
        Ok(group)
    }

    pub(crate) fn size(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The name in messages, e.g. `tp#3 (rank 1 of 4)`.
    pub(crate) fn label(&self) -> String {
        let label = short_label(&self.name, self.instance);
        format!("{label} (rank {} of {})", self.rank, self.size())
    }

    /// Its name among the groups of the world, on all of its ranks: e.g. `tp#3`, or `tp#raw1` over a
    /// communicator of another maker.
    pub(crate) fn short_label(&self) -> String {
        short_label(&self.name, self.instance)
    }

    /// Whether a handle or buffer of tag `G` may name this group: its own tag, or any.
    pub(crate) fn has_tag<G: GroupTag>(&self) -> bool {
        let tag = TypeId::of::<G>();
        tag == self.tag || tag == TypeId::of::<Dyn>()
    }

    /// The communicator with its windows.
    pub(crate) fn link(&self) -> Arc<Link<B>> {
        self.link.load_full()
    }

    /// The same for a while.
    #[inline]
    pub(crate) fn borrow_link(&self) -> Guard<Arc<Link<B>>> {
        self.link.load()
    }

    /// How many communicators it had so far: names the one it has.
    #[inline]
    pub(crate) fn links(&self) -> u64 {
        self.links.load(Ordering::Acquire)
    }

    /// Looks into the ledger.
    #[inline]
    pub(crate) fn with_ledger<R>(&self, look: impl FnOnce(&mut Ledger<B>) -> R) -> R {
        look(&mut self.link.load().ledger())
    }

    /// Notes in the ledger that a block of the group lies in this segment of its arena.
    #[cold]
    pub(crate) fn touch(&self, index: usize, segment: Arc<Segment<B>>) {
        segment.tell(self.arena.name());
        self.with_ledger(|ledger| ledger.touch(self.arena.id, index, || Some(segment)));
    }

    /// Puts another communicator in the place of one whose world failed.
    pub(crate) fn relink(&self, link: Arc<Link<B>>) -> Arc<Link<B>> {
        let old = self.link.swap(link);
        self.links.fetch_add(1, Ordering::Release);
        self.arena.tell_again(self.member);
        old
    }
}

fn short_label(name: &str, instance: Instance) -> String {
    format!("{name}#{instance}")
}

/// A tag with its path, by which people know it.
pub(super) fn tag_type<G: GroupTag>() -> &'static str {
    match TypeId::of::<G>() == TypeId::of::<Dyn>() {
        true => "symm_core::Dyn",
        false => type_name::<G>(),
    }
}

/// That a buffer is of another group, or of none.
pub(crate) fn mismatch<B: Backend>(
    what: impl Into<Box<str>>,
    owner: Option<&Arc<GroupCore<B>>>,
    group: impl Into<Box<str>>,
) -> Error {
    let buffer = owner.map_or_else(|| "no group".into(), |owner| owner.label());
    Error::GroupMismatch {
        what: what.into(),
        buffer: buffer.into(),
        group: group.into(),
    }
}

/// The arena that the rank's groups share under this name, or a new one when none of them is left.
/// Groups end in the order of the program, on all ranks alike; an arena itself may live on for as
/// long as the reaper takes.
fn shared_arena<B: Backend>(world: &Arc<Rank<B>>, name: &str) -> Arc<Arena<B>> {
    let groups = world.live_groups();
    let found = groups
        .iter()
        .find(|group| group.shares_arena && group.arena.name() == name);
    match found {
        Some(group) => Arc::clone(&group.arena),
        None => world.pool.new_arena(name),
    }
}
