//! Placement by itself, and against a list of all free bytes.

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
    for (block, free) in blocks[..4]
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

/// The free blocks without any index: what was freed by size and place, and what was merged.
#[derive(Default)]
struct Naive {
    freed: Vec<(Position, u64)>,
    merged: Vec<(Position, u64)>,
}

impl Naive {
    fn take(&mut self, bytes: u64) -> Option<Position> {
        let same = (0..self.freed.len()).filter(|&i| self.freed[i].1 == bytes);
        if let Some(i) = same.min_by_key(|&i| self.freed[i].0) {
            return Some(self.freed.swap_remove(i).0);
        }
        self.merged.append(&mut self.freed);
        self.merged.sort();
        self.merged.dedup_by(|(next, more), (last, bytes)| {
            let adjoins = last.segment == next.segment && last.offset + *bytes == next.offset;
            *bytes += if adjoins { *more } else { 0 };
            adjoins
        });
        let fits = (0..self.merged.len()).filter(|&i| self.merged[i].1 >= bytes);
        let best = fits.min_by_key(|&i| (self.merged[i].1, self.merged[i].0))?;
        let (position, size) = self.merged.swap_remove(best);
        if size > bytes {
            let offset = position.offset + bytes;
            self.merged
                .push((Position { offset, ..position }, size - bytes));
        }
        Some(position)
    }
}

/// Few sizes and small segments, so that all neighbours meet in all ways.
#[test]
fn what_is_kept_for_speed_changes_no_place() {
    let mut state = 7u64;
    let mut below = |end: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize % end
    };
    for _ in 0..200 {
        let (mut placement, mut naive) = (Placement::default(), Naive::default());
        for segment in 0..1 + below(3) {
            let bytes = (8 + below(24) as u64) * GRANULE;
            placement.add_segment(segment, bytes);
            naive.merged.push((at(segment, 0), bytes));
        }
        let (mut live, most) = (Vec::new(), 1 + below(16));
        for _ in 0..400 {
            if live.len() < most && below(2) == 0 {
                let bytes = (1 + below(5) as u64) * GRANULE;
                let place = take(&mut placement, bytes);
                assert_eq!(place, naive.take(bytes), "{placement:?}");
                live.extend(place.map(|place| (place, bytes)));
            } else if !live.is_empty() {
                let (place, bytes) = live.swap_remove(below(live.len()));
                placement.give(place, bytes, StreamSet::EMPTY);
                naive.freed.push((place, bytes));
            }
        }
    }
}
