use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::with_board;
use crate::agreement::layout::Layout;
use crate::agreement::ring::{Cursor, POINTS, Ring, Step, mix, tag};
use crate::agreement::sync::AtomicU64;

const RANKS: usize = 4;
const LAYOUT: Layout = Layout::of(RANKS);

/// Goes to the point, or to the first difference.
fn go(ring: &Ring<'_>, cursor: &mut Cursor, to: u64, odd: Option<u64>, poison: &AtomicBool) {
    while cursor.seq < to && !poison.load(Ordering::Relaxed) {
        let point = cursor.seq + 1;
        let fingerprint = if odd == Some(point) { u64::MAX } else { point };
        match ring.enter(cursor, fingerprint) {
            Step::Passed => {}
            Step::Differs => poison.store(true, Ordering::Relaxed),
            Step::Full { behind } => {
                assert!(ring.seq_of(behind) <= cursor.seq);
                thread::yield_now();
            }
        }
    }
}

#[test]
fn equal_ranks_pass_many_laps() {
    let points = 20 * POINTS as u64 + 5;
    let cursors = with_board(RANKS, LAYOUT.bytes(), |rank, board| {
        let ring = LAYOUT.ring(board.words(), rank);
        let (mut cursor, poison) = (Cursor::default(), AtomicBool::new(false));
        go(&ring, &mut cursor, points, None, &poison);
        assert!(!poison.load(Ordering::Relaxed));
        assert!(ring.seq_of(rank) == points);
        (cursor.seq, cursor.digest)
    });
    assert!(cursors.iter().all(|cursor| *cursor == cursors[0]));
    assert_eq!(cursors[0].0, points);
}

#[test]
fn one_that_differs_never_passes_with_another() {
    for odd in [1, 2, 255, 256, 257, 700, 1000] {
        let poison = AtomicBool::new(false);
        let passed = with_board(RANKS, LAYOUT.bytes(), |rank, board| {
            let ring = LAYOUT.ring(board.words(), rank);
            let mut cursor = Cursor::default();
            let mine = (rank == odd as usize % RANKS).then_some(odd);
            go(&ring, &mut cursor, 1000, mine, &poison);
            cursor.seq
        });
        assert!(poison.load(Ordering::Relaxed), "{passed:?}");
        let strange = passed[odd as usize % RANKS] >= odd;
        let others = (0..RANKS).filter(|rank| *rank != odd as usize % RANKS);
        let mut others = others.map(|rank| passed[rank] >= odd);
        assert!(!(strange && others.any(|passes| passes)), "{passed:?}");
    }
}

fn memory(ranks: usize) -> Vec<AtomicU64> {
    let words = Layout::of(ranks).bytes() / 8;
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

#[test]
fn a_difference_leaves_the_cursor_and_stays() {
    let words = memory(2);
    let [first, second] = [0, 1].map(|rank| Layout::of(2).ring(&words, rank));
    let (mut a, mut b) = (Cursor::default(), Cursor::default());
    assert_eq!(first.enter(&mut a, 1), Step::Passed);
    assert!(!first.all_at(1));
    for _ in 0..2 {
        assert_eq!(second.enter(&mut b, 2), Step::Differs);
        assert_eq!(b, Cursor::default());
    }
    assert_eq!(second.enter(&mut b, 1), Step::Passed);
    assert!(first.all_at(1) && second.all_at(1) && !second.all_at(2));
    // A digest that differs is a difference at all later points.
    b.digest ^= 1 << 20;
    assert_eq!(first.enter(&mut a, 7), Step::Passed);
    assert_eq!(second.enter(&mut b, 7), Step::Differs);
}

#[test]
fn nobody_enters_a_slot_that_a_peer_has_not_left() {
    let words = memory(3);
    let rings = [0, 1, 2].map(|rank| Layout::of(3).ring(&words, rank));
    let mut cursors = [0; 3].map(|_| Cursor::default());
    let lap = POINTS as u64;
    for point in 1..=lap {
        assert_eq!(rings[0].enter(&mut cursors[0], point), Step::Passed);
    }
    assert_eq!(rings[0].enter(&mut cursors[0], 0), Step::Full { behind: 1 });
    assert_eq!(rings[1].enter(&mut cursors[1], 1), Step::Passed);
    assert_eq!(rings[0].enter(&mut cursors[0], 0), Step::Full { behind: 2 });
    assert_eq!(rings[0].behind(&mut cursors[0]), Some(2));
    assert_eq!(rings[2].enter(&mut cursors[2], 1), Step::Passed);
    assert_eq!(rings[0].behind(&mut cursors[0]), None);
    assert_eq!(rings[0].enter(&mut cursors[0], lap + 1), Step::Passed);
    assert_eq!(rings[0].enter(&mut cursors[0], 0), Step::Full { behind: 1 });
}

#[test]
fn a_rank_alone_is_never_behind() {
    let words = memory(1);
    let (ring, mut cursor) = (Layout::of(1).ring(&words, 0), Cursor::default());
    for point in 0..3 * POINTS as u64 {
        assert_eq!(ring.enter(&mut cursor, point), Step::Passed);
    }
}

#[test]
fn tags_are_never_that_of_an_empty_slot_or_of_the_lap_before() {
    for lap in (0..200_000).chain([u64::MAX / 256 - 1]) {
        assert!((1..=0xFFFF).contains(&tag(lap)));
        assert_ne!(tag(lap), tag(lap + 1));
    }
}

#[test]
fn digests_depend_on_the_order_and_lose_nothing() {
    assert_ne!(mix(mix(0, 1), 2), mix(mix(0, 2), 1));
    let mut seen = std::collections::HashSet::new();
    for digest in 0..300 {
        for fingerprint in 0..300 {
            assert!(seen.insert(mix(digest, fingerprint) >> 16));
        }
    }
    // Each bit of either changes about half of the bits that are compared.
    for bit in 0..64 {
        for (digest, fingerprint) in [(1 << bit, 0), (0, 1 << bit)] {
            let changed = (mix(digest, fingerprint) ^ mix(0, 0)) >> 16;
            assert!((8..=40).contains(&changed.count_ones()), "{bit}");
        }
    }
}
