use std::sync::Barrier;

use super::with_board;
use crate::agreement::layout::Layout;
use crate::agreement::pairs::{MESSAGES, PairCursor, Pairs};
use crate::agreement::sync::AtomicU64;

fn memory() -> Vec<AtomicU64> {
    let words = Pairs::words(2);
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

#[test]
fn equal_messages_pass_in_any_order() {
    let layout = Layout::of(3);
    with_board(3, layout.bytes(), |rank, board| {
        let pairs = layout.pairs(board.words());
        let mut cursors = [[(); 3]; 3].map(|row| row.map(|()| PairCursor::default()));
        for message in 0..5000u64 {
            for (source, cursors) in cursors.iter_mut().enumerate() {
                for (target, cursor) in cursors.iter_mut().enumerate() {
                    let mine = source != target && (source == rank || target == rank);
                    let passes = !mine || pairs.enter(cursor, source, target, message);
                    assert!(passes, "{source} to {target}: {message}");
                }
            }
        }
    });
}

#[test]
fn directions_are_apart_and_a_rank_can_send_to_itself() {
    let words = memory();
    let pairs = Pairs::new(&words, 2);
    let (mut there, mut back) = (PairCursor::default(), PairCursor::default());
    assert!(pairs.enter(&mut there, 0, 1, 1));
    assert!(pairs.enter(&mut back, 1, 0, 2));
    let (mut sent, mut received) = (PairCursor::default(), PairCursor::default());
    assert!(pairs.enter(&mut sent, 0, 0, 3));
    assert!(!pairs.enter(&mut received, 0, 0, 4));
    assert_eq!(received, PairCursor::default());
    assert!(pairs.enter(&mut received, 0, 0, 3));
}

#[test]
fn the_end_that_comes_second_sees_a_difference() {
    let layout = Layout::of(2);
    for odd in [0, 15, 16, 40] {
        let turn = Barrier::new(2);
        let saw = with_board(2, layout.bytes(), |rank, board| {
            let pairs = layout.pairs(board.words());
            let mut cursor = PairCursor::default();
            for message in 0..odd {
                turn.wait();
                assert!(pairs.enter(&mut cursor, 0, 1, message));
            }
            turn.wait();
            !pairs.enter(&mut cursor, 0, 1, odd + 1000 * rank as u64)
        });
        assert_eq!(saw.iter().filter(|saw| **saw).count(), 1);
    }
}

#[test]
fn a_difference_that_was_overtaken_shows_at_the_next_comparison() {
    let words = memory();
    let pairs = Pairs::new(&words, 2);
    let (mut sender, mut receiver) = (PairCursor::default(), PairCursor::default());
    let ahead = 3 * MESSAGES as u64 + 5;
    for message in 0..ahead {
        assert!(pairs.enter(&mut sender, 0, 1, message));
    }
    let seen = (0..ahead).find(|&message| {
        let fingerprint = if message == 2 { 1000 } else { message };
        !pairs.enter(&mut receiver, 0, 1, fingerprint)
    });
    // What is left are the sender's last words.
    assert_eq!(seen, Some(ahead - MESSAGES as u64));
}

#[test]
fn an_end_that_is_far_behind_leaves_the_other_alone() {
    let words = memory();
    let pairs = Pairs::new(&words, 2);
    let (mut sender, mut receiver) = (PairCursor::default(), PairCursor::default());
    let laps = 0x1_0010 * MESSAGES as u64;
    for message in 0..laps {
        assert!(pairs.enter(&mut sender, 0, 1, message));
        if message >= MESSAGES as u64 * 7 {
            assert!(pairs.enter(&mut receiver, 0, 1, message - MESSAGES as u64 * 7));
        }
    }
    for message in receiver.count..laps {
        assert!(pairs.enter(&mut receiver, 0, 1, message));
    }
    assert_eq!(sender, receiver);
}
