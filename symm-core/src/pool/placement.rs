//! Where a block goes: a function of the set of free blocks and the size, so that ranks with one
//! history of allocations place alike.
//!
//! Nothing here knows an address, a clock, a thread or a hash. The order in which blocks are freed
//! between two allocations has no influence either: free blocks live in ordered maps, and those
//! that were freed are merged all at once (`../shared/reference/review.md`, section 1:
//! last-in-first-out reuse gave 176 placements for 200 orders of the same frees, this rule gives
//! 1).

use std::collections::{BTreeMap, BTreeSet};

use super::streams::StreamSet;

/// Blocks start and end at multiples of this many bytes.
pub(crate) const GRANULE: u64 = 512;

/// A place in an arena: the name of a block across ranks. Ordered by segment, then offset.
///
/// See [`Buf::position`](crate::Buf::position).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Index of the segment in its arena.
    pub segment: usize,
    /// Bytes from the start of the segment, a multiple of 512.
    pub offset: u64,
}

impl Position {
    const FIRST: Position = Position {
        segment: 0,
        offset: 0,
    };

    fn after(self, bytes: u64) -> Position {
        Position {
            offset: self.offset + bytes,
            ..self
        }
    }
}

/// The free blocks of an arena.
#[derive(Debug, Default)]
pub(crate) struct Placement {
    /// Blocks as they were freed, by size and position: what a program frees it mostly asks for
    /// again in the same size.
    front: BTreeMap<(u64, Position), StreamSet>,
    /// Free ranges, merged with their neighbours: bytes, and the streams whose work has to end
    /// before they are used.
    ranges: BTreeMap<Position, (u64, StreamSet)>,
    /// The same ranges by size.
    sizes: BTreeSet<(u64, Position)>,
}

impl Placement {
    /// A new segment of `bytes`, all free.
    pub(crate) fn add_segment(&mut self, segment: usize, bytes: u64) {
        self.insert(Position { segment, offset: 0 }, bytes, StreamSet::EMPTY);
    }

    /// Takes a block of `bytes` (a multiple of [`GRANULE`]): one of exactly this size that was
    /// freed, lowest position first; else the best fit among all free ranges, lowest position
    /// first. With it come the streams that may still use it. `None` when nothing fits.
    pub(crate) fn take(&mut self, bytes: u64) -> Option<(Position, StreamSet)> {
        if let Some((&(size, position), _)) = self.front.range((bytes, Position::FIRST)..).next()
            && size == bytes
        {
            let streams = self.front.remove(&(size, position))?;
            return Some((position, streams));
        }
        self.merge();
        let &(size, position) = self.sizes.range((bytes, Position::FIRST)..).next()?;
        self.sizes.remove(&(size, position));
        let (_, streams) = self.ranges.remove(&position)?;
        if size > bytes {
            self.insert(position.after(bytes), size - bytes, streams);
        }
        Some((position, streams))
    }

    /// Gives a block back that may still be used by work on `streams`.
    pub(crate) fn give(&mut self, position: Position, bytes: u64, streams: StreamSet) {
        self.front.insert((bytes, position), streams);
    }

    /// Forgets in which sizes blocks were freed: what is left is the set of free ranges.
    pub(crate) fn forget_sizes(&mut self) {
        self.merge();
    }

    /// The free ranges of a segment as offset and bytes, in order, each as long as it can be. Looking
    /// changes nothing: what is placed next must not depend on what was freed before a look.
    pub(crate) fn free_ranges(&self, segment: usize) -> Vec<(u64, u64)> {
        let first = Position { segment, offset: 0 };
        let merged = self.ranges.range(first..);
        let merged = merged.take_while(|(position, _)| position.segment == segment);
        let merged = merged.map(|(position, (bytes, _))| (position.offset, *bytes));
        let freed = self.front.keys();
        let freed = freed.filter(|(_, position)| position.segment == segment);
        let freed = freed.map(|(bytes, position)| (position.offset, *bytes));
        let mut all: Vec<(u64, u64)> = merged.chain(freed).collect();
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
        self.front
            .retain(|(_, position), _| position.segment != segment);
        self.ranges
            .retain(|position, _| position.segment != segment);
        self.sizes
            .retain(|(_, position)| position.segment != segment);
    }

    /// Merges all freed blocks with their neighbours.
    fn merge(&mut self) {
        for ((bytes, position), streams) in std::mem::take(&mut self.front) {
            self.insert_merged(position, bytes, streams);
        }
    }

    fn insert_merged(&mut self, mut position: Position, mut bytes: u64, mut streams: StreamSet) {
        if let Some((&before, &(size, marks))) = self.ranges.range(..position).next_back()
            && before.after(size) == position
        {
            self.remove(before, size);
            (position, bytes, streams) = (before, size + bytes, streams | marks);
        }
        let end = position.after(bytes);
        if let Some(&(size, marks)) = self.ranges.get(&end) {
            self.remove(end, size);
            (bytes, streams) = (bytes + size, streams | marks);
        }
        self.insert(position, bytes, streams);
    }

    fn insert(&mut self, position: Position, bytes: u64, streams: StreamSet) {
        self.ranges.insert(position, (bytes, streams));
        self.sizes.insert((bytes, position));
    }

    fn remove(&mut self, position: Position, bytes: u64) {
        self.ranges.remove(&position);
        self.sizes.remove(&(bytes, position));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(segment: usize, offset: u64) -> Position {
        Position { segment, offset }
    }

    fn with_segment(bytes: u64) -> Placement {
        let mut placement = Placement::default();
        placement.add_segment(0, bytes);
        placement
    }

    fn take(placement: &mut Placement, bytes: u64) -> Option<Position> {
        placement.take(bytes).map(|(position, _)| position)
    }

    #[test]
    fn an_exact_size_comes_back_lowest_first_whatever_the_order_of_frees() {
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let mut placement = with_segment(8192);
            let blocks: Vec<_> = (0..3)
                .map(|_| take(&mut placement, 1024).unwrap())
                .collect();
            for i in order {
                placement.give(blocks[i], 1024, StreamSet::EMPTY);
            }
            assert_eq!(take(&mut placement, 1024), Some(at(0, 0)));
            assert_eq!(take(&mut placement, 1024), Some(at(0, 1024)));
        }
    }

    #[test]
    fn another_size_takes_the_best_fit_of_what_was_merged() {
        let mut placement = with_segment(8192);
        let blocks: Vec<_> = (0..8)
            .map(|_| take(&mut placement, 1024).unwrap())
            .collect();
        for i in [1, 4, 5, 7] {
            placement.give(blocks[i], 1024, StreamSet::EMPTY);
        }
        assert_eq!(
            take(&mut placement, 2048),
            Some(at(0, 4096)),
            "two neighbours merged"
        );
        assert_eq!(
            take(&mut placement, 512),
            Some(at(0, 1024)),
            "the lowest of two equal fits"
        );
        assert_eq!(take(&mut placement, 2048), None);
    }

    #[test]
    fn merged_ranges_keep_the_streams_of_all_their_parts() {
        let mut placement = with_segment(2048);
        let (a, b) = (
            take(&mut placement, 1024).unwrap(),
            take(&mut placement, 1024).unwrap(),
        );
        placement.give(a, 1024, StreamSet::one(1));
        placement.give(b, 1024, StreamSet::one(2));
        let (_, streams) = placement.take(2048).unwrap();
        assert_eq!(streams, StreamSet::one(1) | StreamSet::one(2));
    }

    #[test]
    fn looking_and_taking_segments_away_change_nothing_else() {
        let mut placement = with_segment(2048);
        placement.add_segment(1, 2048);
        let blocks: Vec<_> = (0..8).map(|_| take(&mut placement, 512).unwrap()).collect();
        let all = [(0, 2048)];
        for (block, free) in
            blocks[..4]
                .iter()
                .zip([&[(0, 512)][..], &[(0, 1024)], &[(0, 1536)], &all])
        {
            placement.give(*block, 512, StreamSet::EMPTY);
            assert_eq!(placement.free_ranges(0), free);
        }
        for block in [7, 5] {
            placement.give(blocks[block], 512, StreamSet::EMPTY);
        }
        assert_eq!(placement.free_ranges(1), [(512, 512), (1536, 512)]);
        // Not merged yet: the lowest of this size.
        assert_eq!(take(&mut placement, 512), Some(at(0, 0)));
        placement.give(at(0, 0), 512, StreamSet::EMPTY);
        for block in [4, 6] {
            placement.give(blocks[block], 512, StreamSet::EMPTY);
        }
        placement.remove_segment(1);
        assert_eq!(placement.free_ranges(1), []);
        assert_eq!(take(&mut placement, 2048), Some(at(0, 0)));
        assert_eq!(take(&mut placement, 512), None);
    }

    #[test]
    fn segments_are_never_merged_with_one_another() {
        let mut placement = with_segment(1024);
        placement.add_segment(1, 1024);
        assert_eq!(take(&mut placement, 2048), None);
        assert_eq!(take(&mut placement, 1024), Some(at(0, 0)));
        assert_eq!(take(&mut placement, 1024), Some(at(1, 0)));
    }
}
