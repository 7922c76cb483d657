//! Where the blocks of a graph pool go: a function of what its captures allocated, kept and dropped.
//!
//! What a capture allocated and freed is free for the next capture, whose graph then writes to the
//! same bytes: launches of one pool follow each other, so neither sees the other. What outlives a
//! capture is taken until it is given back, and lies where no live graph writes.
//!
//! First fit by position, and not best fit as in eager arenas: temporaries from the front of a
//! segment, what outlives the capture from the back. So the last segment's size has no influence on
//! the others, which is how [`shortfall`] can tell the size that it needs.

use std::collections::BTreeMap;

use crate::pool::placement::{GRANULE, Position};
use crate::pool::ranges::Ranges;
use crate::site::Site;

/// What is known of a block's life when it is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It was freed before the prime ended.
    Temporary,
    /// It was alive at the prime's end, or is made to stay.
    Outlives,
    /// It was not seen in a prime.
    Unknown,
}

/// The free bytes of a graph arena, and which of them live graphs write to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    /// Bytes of each segment.
    segments: Vec<u64>,
    free: Ranges,
    /// What each live graph allocated in its capture, by the graph's number.
    written: BTreeMap<u64, (Site, Ranges)>,
}

impl Layout {
    /// A new segment, all free.
    pub(crate) fn add_segment(&mut self, bytes: u64) {
        let segment = self.segments.len();
        self.free.insert(Position { segment, offset: 0 }, bytes);
        self.segments.push(bytes);
    }

    /// Takes the last segment back, of which nothing was taken.
    pub(crate) fn remove_segment(&mut self) {
        if let Some(bytes) = self.segments.pop() {
            let segment = self.segments.len();
            self.free.remove(Position { segment, offset: 0 }, bytes);
        }
    }

    /// Takes a block of `bytes`, a multiple of [`GRANULE`].
    pub(crate) fn take(&mut self, bytes: u64, life: Life) -> Option<Position> {
        let position = match life {
            Life::Temporary => front(&self.free, bytes),
            Life::Outlives => self.back(bytes),
            // Room that no live graph writes to, as long as there is some: it may stay.
            Life::Unknown => front(&self.untouched(), bytes).or_else(|| front(&self.free, bytes)),
        }?;
        self.free.remove(position, bytes);
        Some(position)
    }

    /// Gives a block back.
    pub(crate) fn give(&mut self, position: Position, bytes: u64) {
        self.free.insert(position, bytes);
    }

    /// Notes what a graph writes to as long as it lives.
    pub(crate) fn add_graph(&mut self, graph: u64, site: Site, written: Ranges) {
        self.written.insert(graph, (site, written));
    }

    /// The graph is gone.
    pub(crate) fn remove_graph(&mut self, graph: u64) {
        self.written.remove(&graph);
    }

    /// Where the graph was captured that writes to a byte of the block, if one does.
    pub(crate) fn written_by(&self, position: Position, bytes: u64) -> Option<Site> {
        let mut graphs = self.written.values();
        graphs
            .find(|(_, ranges)| ranges.overlaps(position, bytes))
            .map(|(site, _)| *site)
    }

    /// The largest block that could be taken.
    pub(crate) fn largest_free(&self) -> u64 {
        self.free.iter().map(|(_, bytes)| bytes).max().unwrap_or(0)
    }

    /// Bytes that are free, but written to by live graphs.
    pub(crate) fn shared_bytes(&self) -> u64 {
        self.free.bytes() - self.untouched().bytes()
    }

    /// The free ranges of each segment, and what each live graph writes to, by its number.
    #[allow(clippy::type_complexity)]
    pub(crate) fn chart(&self) -> (Vec<Vec<(u64, u64)>>, Vec<(u64, Vec<(Position, u64)>)>) {
        let free = |segment| {
            let ranges = self.free.in_segment(segment);
            ranges
                .map(|(position, bytes)| (position.offset, bytes))
                .collect()
        };
        let free = (0..self.segments.len()).map(free).collect();
        let written = self.written.iter();
        let written = written.map(|(graph, (_, ranges))| (*graph, ranges.iter().collect()));
        (free, written.collect())
    }

    /// From the back of the first segment that has room which no live graph writes to.
    fn back(&self, bytes: u64) -> Option<Position> {
        let untouched = self.untouched();
        (0..self.segments.len()).find_map(|segment| {
            let mut fitting = untouched.in_segment(segment).rev();
            let (position, size) = fitting.find(|(_, size)| *size >= bytes)?;
            Some(Position {
                offset: position.offset + size - bytes,
                ..position
            })
        })
    }

    /// Free bytes to which no live graph writes.
    fn untouched(&self) -> Ranges {
        let mut untouched = self.free.clone();
        let written = self.written.values().flat_map(|(_, ranges)| ranges.iter());
        for (position, bytes) in written {
            untouched.remove(position, bytes);
        }
        untouched
    }
}

fn front(ranges: &Ranges, bytes: u64) -> Option<Position> {
    ranges
        .iter()
        .find(|(_, size)| *size >= bytes)
        .map(|(position, _)| position)
}

/// An allocation or a free that is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The next block, of so many bytes.
    Take(u64, Life),
    /// The n-th block that was taken is given back.
    Give(usize),
}

/// Bytes of the segment that a layout lacks for the steps; 0 if they fit as it is.
pub(crate) fn shortfall(layout: &Layout, steps: &[Step]) -> u64 {
    /// Larger than any device, and a multiple of every granule.
    const ENDLESS: u64 = 1 << 60;

    let mut layout = layout.clone();
    let (last, mut front, mut back) = (layout.segments.len(), 0, ENDLESS);
    layout.add_segment(ENDLESS);
    let mut taken = Vec::new();
    for step in steps {
        match *step {
            Step::Take(bytes, life) => {
                let position = layout.take(bytes, life);
                taken.push(position.map(|position| (position, bytes)));
                let Some(position) = position.filter(|position| position.segment == last) else {
                    continue;
                };
                match life {
                    Life::Outlives => back = back.min(position.offset),
                    Life::Temporary | Life::Unknown => front = front.max(position.offset + bytes),
                }
            }
            Step::Give(block) => {
                if let Some(Some((position, bytes))) = taken.get(block) {
                    layout.give(*position, *bytes);
                }
            }
        }
    }
    front + (ENDLESS - back)
}

/// The bytes of a block for `bytes` of elements.
pub(crate) fn block_bytes(bytes: u64) -> Option<u64> {
    bytes.max(1).checked_next_multiple_of(GRANULE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(segment: usize, offset: u64) -> Option<Position> {
        Some(Position { segment, offset })
    }

    fn with_segment(bytes: u64) -> Layout {
        let mut layout = Layout::default();
        layout.add_segment(bytes);
        layout
    }

    fn graph(layout: &mut Layout, number: u64, blocks: &[(Option<Position>, u64)]) {
        let mut written = Ranges::default();
        for (position, bytes) in blocks {
            written.insert(position.unwrap(), *bytes);
        }
        layout.add_graph(number, Site::caller(), written);
    }

    #[test]
    fn a_second_graph_shares_temporaries_and_nothing_else() {
        let mut layout = with_segment(8192);
        let temporary = layout.take(4096, Life::Temporary);
        let output = layout.take(512, Life::Outlives);
        assert_eq!((temporary, output), (at(0, 0), at(0, 7680)));
        layout.give(temporary.unwrap(), 4096);
        graph(&mut layout, 1, &[(temporary, 4096), (output, 512)]);

        assert_eq!(layout.take(4096, Life::Temporary), at(0, 0), "shared");
        assert_eq!(layout.take(512, Life::Outlives), at(0, 7168));
        layout.give(at(0, 0).unwrap(), 4096);
        assert_eq!(layout.take(512, Life::Unknown), at(0, 4096), "untouched");
        assert_eq!(layout.take(3072, Life::Outlives), None);
        assert_eq!(layout.take(3072, Life::Unknown), at(0, 0), "shared");
        assert!(layout.written_by(at(0, 0).unwrap(), 512).is_some());
        assert!(layout.written_by(at(0, 4096).unwrap(), 512).is_none());
        layout.remove_graph(1);
        assert!(layout.written_by(at(0, 0).unwrap(), 512).is_none());
    }

    #[test]
    fn the_shortfall_is_exactly_what_lacks() {
        let steps = [
            Step::Take(4096, Life::Temporary),
            Step::Take(512, Life::Outlives),
            Step::Take(1024, Life::Temporary),
            Step::Give(0),
            Step::Take(2048, Life::Temporary),
            Step::Give(2),
            Step::Give(3),
        ];
        let run = |mut layout: Layout| {
            let mut taken = Vec::new();
            for step in steps {
                match step {
                    Step::Take(bytes, life) => taken.push((layout.take(bytes, life)?, bytes)),
                    Step::Give(block) => layout.give(taken[block].0, taken[block].1),
                }
            }
            Some(())
        };
        assert_eq!(shortfall(&Layout::default(), &steps), 4096 + 1024 + 512);
        assert_eq!(shortfall(&with_segment(5632), &steps), 0);
        for first in (512..6144).step_by(512) {
            let lacks = shortfall(&with_segment(first), &steps);
            let mut layout = with_segment(first);
            assert_eq!(run(layout.clone()).is_some(), lacks == 0, "{first}");
            layout.add_segment(lacks);
            assert!(run(layout).is_some(), "{first} and {lacks}");
        }
    }

    #[test]
    fn a_segment_that_was_not_used_goes_without_a_trace() {
        let mut layout = with_segment(1024);
        layout.add_segment(4096);
        layout.remove_segment();
        assert_eq!(layout.largest_free(), 1024);
        assert_eq!(layout.take(2048, Life::Temporary), None);
    }
}
