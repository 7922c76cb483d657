//! Where a block goes: a function of the set of free blocks and the size, so that ranks with one
//! history of allocations place alike.
//!
//! Nothing here knows an address, a clock, a thread or a hash. The order in which blocks are freed
//! between two allocations has no influence either: free blocks live in ordered maps and heaps, and
//! those that were freed are merged all at once (`../shared/reference/review.md`, section 1:
//! last-in-first-out reuse gave 176 placements for 200 orders of the same frees, this rule gives
//! 1).

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::streams::StreamSet;

/// Blocks start and end at multiples of this many bytes.
pub(crate) const GRANULE: u64 = 512;

/// A place in an arena: the name of a block across ranks. Ordered by segment, then offset.
///
/// See [`Buf::position`](crate::Buf::position).
///
/// ```
/// # use symm_core::{Host, Position, World, groups, symm};
/// # groups! { pub Tp = "tp"; }
/// # World::<Host>::run(2, |world| {
/// # let tp = world.split::<Tp>(0, 0)?;
/// let (x, y) = symm!(group = tp, { (tp.empty::<u8>(700)?, tp.empty::<u8>(1)?) })?;
/// assert_eq!(x.position(), Some(Position { segment: 0, offset: 0 }));
/// assert_eq!(y.position(), Some(Position { segment: 0, offset: 1024 })); // 700, rounded up
/// assert!(x.position() < y.position());
/// # Ok(())
/// # })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Index of the segment in its arena.
    pub segment: usize,
    /// Bytes from the start of the segment, a multiple of 512.
    pub offset: u64,
}

/// A position in one word, in the order of positions: the segment, and the offset in granules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Spot(u64);

impl Spot {
    /// Bits of the offset: half a petabyte in a segment.
    const OFFSET: u32 = 40;

    #[inline]
    fn of(position: Position) -> Self {
        Self(((position.segment as u64) << Self::OFFSET) | (position.offset / GRANULE))
    }

    #[inline]
    fn after(self, bytes: u64) -> Self {
        Self(self.0 + bytes / GRANULE)
    }

    #[inline]
    fn before(self, bytes: u64) -> Self {
        Self(self.0 - bytes / GRANULE)
    }

    #[inline]
    fn position(self) -> Position {
        Position {
            segment: (self.0 >> Self::OFFSET) as usize,
            offset: (self.0 & ((1 << Self::OFFSET) - 1)) * GRANULE,
        }
    }
}

/// Free bytes.
#[derive(Clone, Copy, Debug)]
struct Range {
    start: Spot,
    bytes: u64,
    /// Those whose work has to end before it is used.
    streams: StreamSet,
}

impl Range {
    #[inline]
    fn end(&self) -> Spot {
        self.start.after(self.bytes)
    }

    /// With another one that touches it.
    #[inline]
    fn with(self, other: Range) -> Range {
        Range {
            start: self.start.min(other.start),
            bytes: self.bytes + other.bytes,
            streams: self.streams | other.streams,
        }
    }
}

/// Freed blocks of one size, lowest position first.
type Freed = BinaryHeap<Reverse<(Spot, StreamSet)>>;

/// How many of the blocks that were freed last are kept in a list. It is searched from end to end:
/// for so few that is less work than a tree.
const RECENT: usize = 8;

/// The free blocks of an arena.
///
/// What is found is the same as if there were the trees alone. The list of recent blocks and the
/// range that was cut last stand before them, for what programs mostly do: free a block and ask for
/// one like it, or cut one block after the other from the same range.
#[derive(Debug, Default)]
pub(crate) struct Placement {
    /// Blocks that were freed last, in no order: what a program frees it mostly asks for again in
    /// the same size.
    recent: Vec<Range>,
    /// Those that were freed before, by size. Sizes stay when they have no block left.
    front: BTreeMap<u64, Freed>,
    /// Heaps without a size, kept for the room they have.
    spare: Vec<Freed>,
    /// The range that was cut last; not in the trees.
    cut: Option<Range>,
    /// A place where no range of the trees ends: where the range began that was cut last. So for the
    /// first block of it no free neighbour before it has to be looked for.
    floor: Option<Spot>,
    /// All other free ranges, merged with their neighbours, by their ends.
    ranges: BTreeMap<Spot, (u64, StreamSet)>,
    /// The same ranges by size, and start.
    sizes: BTreeSet<(u64, Spot)>,
}

impl Placement {
    /// A new segment of `bytes`, all free.
    pub(crate) fn add_segment(&mut self, segment: usize, bytes: u64) {
        self.insert(Range {
            start: Spot::of(Position { segment, offset: 0 }),
            bytes,
            streams: StreamSet::EMPTY,
        });
    }

    /// Takes a block of `bytes` (a multiple of [`GRANULE`]): one of exactly this size that was
    /// freed, lowest position first; else the best fit among all free ranges, lowest position
    /// first. With it come the streams that may still use it. `None` when nothing fits.
    #[inline(always)]
    pub(crate) fn take(&mut self, bytes: u64) -> Option<(Position, StreamSet)> {
        let block = match self.take_freed(bytes) {
            Some(block) => block,
            None => self.take_merged(bytes)?,
        };
        Some((block.start.position(), block.streams))
    }

    /// Gives a block back that may still be used by work on `streams`.
    #[inline]
    pub(crate) fn give(&mut self, position: Position, bytes: u64, streams: StreamSet) {
        if self.recent.len() == RECENT {
            self.sort_recent();
        }
        self.recent.push(Range {
            start: Spot::of(position),
            bytes,
            streams,
        });
    }

    /// Forgets in which sizes blocks were freed: what is left is the set of free ranges.
    pub(crate) fn forget_sizes(&mut self) {
        self.merge();
        self.put_back();
    }

    /// The free ranges of a segment as offset and bytes, in order, each as long as it can be. Looking
    /// changes nothing: what is placed next must not depend on what was freed before a look.
    pub(crate) fn free_ranges(&self, segment: usize) -> Vec<(u64, u64)> {
        let first = Spot::of(Position { segment, offset: 0 });
        let merged = self.ranges.range(first..);
        let merged = merged.map(|(end, &(bytes, _))| (end.before(bytes), bytes));
        let merged = merged.take_while(|(start, _)| start.position().segment == segment);
        let listed = self
            .recent
            .iter()
            .chain(&self.cut)
            .map(|range| (range.start, range.bytes));
        let freed = self.front.iter().flat_map(|(&bytes, freed)| {
            freed.iter().map(move |&Reverse((start, _))| (start, bytes))
        });
        let others = listed.chain(freed);
        let others = others.filter(|(start, _)| start.position().segment == segment);
        let all = merged.chain(others);
        let mut all: Vec<_> = all
            .map(|(start, bytes)| (start.position().offset, bytes))
            .collect();
        all.sort_unstable();
        all.dedup_by(|next, last| {
            let adjoins = last.0 + last.1 == next.0;
            last.1 += if adjoins { next.1 } else { 0 };
            adjoins
        });
        all
    }

    /// Takes a segment away that is free as a whole.
    pub(crate) fn remove_segment(&mut self, segment: usize) {
        let other = |spot: Spot| spot.position().segment != segment;
        self.recent.retain(|block| other(block.start));
        for freed in self.front.values_mut() {
            freed.retain(|&Reverse((start, _))| other(start));
        }
        self.cut = self.cut.filter(|cut| other(cut.start));
        self.ranges
            .retain(|end, (bytes, _)| other(end.before(*bytes)));
        self.sizes.retain(|&(_, start)| other(start));
    }

    /// The block of exactly this size that was freed, at the lowest position.
    #[inline(always)]
    fn take_freed(&mut self, bytes: u64) -> Option<Range> {
        let recent = self.recent.iter().enumerate();
        let found = recent
            .filter(|(_, block)| block.bytes == bytes)
            .map(|(index, block)| (block.start, index))
            .min();
        if !self.front.is_empty()
            && let Some(block) = self.take_front(bytes, found.map(|(start, _)| start))
        {
            return Some(block);
        }
        found.map(|(_, index)| self.recent.swap_remove(index))
    }

    /// The one among those that were freed before the recent ones, if it lies below `limit`.
    #[inline(never)]
    fn take_front(&mut self, bytes: u64, limit: Option<Spot>) -> Option<Range> {
        let freed = self.front.get_mut(&bytes)?;
        let &Reverse((start, streams)) = freed.peek()?;
        if limit.is_some_and(|limit| limit < start) {
            return None;
        }
        freed.pop();
        Some(Range {
            start,
            bytes,
            streams,
        })
    }

    #[inline(never)]
    fn take_merged(&mut self, bytes: u64) -> Option<Range> {
        self.merge();
        self.take_fit(bytes)
    }

    /// The best fit among the free ranges, when no freed block is left.
    fn take_fit(&mut self, bytes: u64) -> Option<Range> {
        let cut = self.cut.filter(|range| range.bytes >= bytes);
        let key = cut.map(|range| (range.bytes, range.start));
        // Mostly a look at the smallest range says that there is no better one.
        let best = match self.sizes.first() {
            Some(smallest) if key.is_none_or(|key| *smallest < key) => {
                let mut fits = self.sizes.range((bytes, Spot(0))..);
                fits.next().copied()
            }
            _ => None,
        };
        let range = match (cut, best) {
            (Some(range), best) if best.is_none_or(|best| (range.bytes, range.start) < best) => {
                self.cut = None;
                range
            }
            (_, Some((size, start))) => self.remove(start, size)?,
            (_, None) => return None,
        };
        if range.bytes > bytes {
            self.put_back();
            self.floor = Some(range.start);
            self.cut = Some(Range {
                start: range.start.after(bytes),
                bytes: range.bytes - bytes,
                ..range
            });
        }
        Some(Range { bytes, ..range })
    }

    /// Moves the recent blocks to where many are searched in less time.
    #[cold]
    fn sort_recent(&mut self) {
        for block in self.recent.drain(..) {
            let spare = &mut self.spare;
            let freed = self.front.entry(block.bytes);
            freed
                .or_insert_with(|| spare.pop().unwrap_or_default())
                .push(Reverse((block.start, block.streams)));
        }
    }

    /// Merges all freed blocks with their neighbours. What comes of it does not depend on their
    /// order.
    fn merge(&mut self) {
        while let Some(block) = self.recent.pop() {
            self.insert_merged(block);
        }
        if self.front.is_empty() {
            return;
        }
        while let Some((bytes, mut freed)) = self.front.pop_first() {
            for Reverse((start, streams)) in freed.drain() {
                self.insert_merged(Range {
                    start,
                    bytes,
                    streams,
                });
            }
            self.spare.push(freed);
        }
    }

    fn insert_merged(&mut self, block: Range) {
        let mut range = block;
        let cut = self
            .cut
            .take_if(|cut| cut.end() == block.start || cut.start == block.end());
        let (mut preceded, mut followed) = (self.floor == Some(block.start), false);
        if let Some(cut) = cut {
            followed = cut.start == block.end();
            preceded |= !followed;
            range = range.with(cut);
        }
        if !preceded && let Some((bytes, streams)) = self.ranges.remove(&block.start) {
            let start = block.start.before(bytes);
            self.sizes.remove(&(bytes, start));
            range = range.with(Range {
                start,
                bytes,
                streams,
            });
        }
        // Behind a range that was free there is none.
        if !followed
            && let Some((&end, &(bytes, _))) = self.ranges.range(block.end()..).next()
            && end.before(bytes) == block.end()
            && let Some(next) = self.remove(block.end(), bytes)
        {
            range = range.with(next);
        }
        match cut {
            Some(_) => self.cut = Some(range),
            None => self.insert(range),
        }
    }

    /// Puts the range that was cut last among the others.
    fn put_back(&mut self) {
        if let Some(cut) = self.cut.take() {
            self.insert(cut);
        }
    }

    fn insert(&mut self, range: Range) {
        self.floor = self.floor.filter(|floor| *floor != range.end());
        self.ranges
            .insert(range.end(), (range.bytes, range.streams));
        self.sizes.insert((range.bytes, range.start));
    }

    fn remove(&mut self, start: Spot, bytes: u64) -> Option<Range> {
        self.sizes.remove(&(bytes, start));
        let (bytes, streams) = self.ranges.remove(&start.after(bytes))?;
        Some(Range {
            start,
            bytes,
            streams,
        })
    }
}
