//! Sets of bytes of an arena, as ranges that do not touch one another.

use std::collections::BTreeMap;

use super::placement::Position;

/// Ranges by position, merged with their neighbours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(BTreeMap<Position, u64>);

impl Ranges {
    /// Adds the range, whatever of it is in the set already.
    pub(crate) fn insert(&mut self, position: Position, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let (mut start, mut end) = (position.offset, position.offset + bytes);
        let neighbours: Vec<(Position, u64)> = self.near(position, bytes).collect();
        for (other, bytes) in neighbours {
            self.0.remove(&other);
            start = start.min(other.offset);
            end = end.max(other.offset + bytes);
        }
        let merged = Position {
            offset: start,
            ..position
        };
        self.0.insert(merged, end - start);
    }

    /// Takes the range out of the set, whatever of it is there.
    pub(crate) fn remove(&mut self, position: Position, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let end = position.offset + bytes;
        let cut: Vec<(Position, u64)> = self.overlapping(position, bytes).collect();
        for (other, bytes) in cut {
            self.0.remove(&other);
            let other_end = other.offset + bytes;
            if other.offset < position.offset {
                self.0.insert(other, position.offset - other.offset);
            }
            if end < other_end {
                let rest = Position {
                    offset: end,
                    ..position
                };
                self.0.insert(rest, other_end - end);
            }
        }
    }

    /// Whether a byte of the range is in the set.
    pub(crate) fn overlaps(&self, position: Position, bytes: u64) -> bool {
        self.overlapping(position, bytes).next().is_some()
    }

    /// All ranges, lowest position first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (Position, u64)> {
        self.0.iter().map(|(position, bytes)| (*position, *bytes))
    }

    /// The ranges in one segment, lowest first.
    pub(crate) fn in_segment(
        &self,
        segment: usize,
    ) -> impl DoubleEndedIterator<Item = (Position, u64)> {
        let all = Position { segment, offset: 0 }..=Position {
            segment,
            offset: u64::MAX,
        };
        self.0
            .range(all)
            .map(|(position, bytes)| (*position, *bytes))
    }

    /// Bytes of all ranges.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.values().sum()
    }

    /// Ranges that share a byte with this one.
    fn overlapping(&self, position: Position, bytes: u64) -> impl Iterator<Item = (Position, u64)> {
        self.near(position, bytes).filter(move |(other, size)| {
            other.offset < position.offset + bytes && position.offset < other.offset + size
        })
    }

    /// Ranges that share a byte with this one, or touch it.
    fn near(&self, position: Position, bytes: u64) -> impl Iterator<Item = (Position, u64)> {
        let end = position.offset + bytes;
        let last = Position {
            offset: end,
            ..position
        };
        self.0
            .range(..=last)
            .rev()
            .take_while(move |(other, size)| {
                other.segment == position.segment && other.offset + **size >= position.offset
            })
            .map(|(other, size)| (*other, *size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(segment: usize, offset: u64) -> Position {
        Position { segment, offset }
    }

    #[test]
    fn what_touches_is_merged_and_what_is_cut_stays_in_pieces() {
        let mut ranges = Ranges::default();
        ranges.insert(at(0, 0), 10);
        ranges.insert(at(0, 20), 10);
        ranges.insert(at(1, 10), 10);
        ranges.insert(at(0, 10), 10);
        assert_eq!(
            ranges.iter().collect::<Vec<_>>(),
            [(at(0, 0), 30), (at(1, 10), 10)]
        );
        ranges.remove(at(0, 5), 10);
        ranges.remove(at(0, 28), 10);
        ranges.remove(at(1, 0), 100);
        assert_eq!(
            ranges.iter().collect::<Vec<_>>(),
            [(at(0, 0), 5), (at(0, 15), 13)]
        );
        assert!(ranges.overlaps(at(0, 4), 1) && !ranges.overlaps(at(0, 5), 10));
        assert_eq!(ranges.bytes(), 18);
    }

    /// Against a set of single bytes.
    #[test]
    fn ranges_are_a_set_of_bytes() {
        let mut state = 1u64;
        let mut next = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        let (mut ranges, mut bytes) = (Ranges::default(), [false; 64]);
        for _ in 0..5000 {
            let (start, len) = (next(60), next(8));
            let len = len.min(64 - start);
            let adds = next(2) == 0;
            match adds {
                true => ranges.insert(at(3, start), len),
                false => ranges.remove(at(3, start), len),
            }
            bytes[start as usize..(start + len) as usize].fill(adds);
            for byte in 0..64 {
                assert_eq!(ranges.overlaps(at(3, byte), 1), bytes[byte as usize]);
            }
            let merged = ranges
                .iter()
                .zip(ranges.iter().skip(1))
                .all(|((a, size), (b, _))| a.offset + size < b.offset);
            assert!(merged, "{ranges:?}");
        }
    }
}
