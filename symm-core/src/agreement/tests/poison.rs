use std::sync::Barrier;

use super::with_board;
use crate::agreement::layout::{CAUSE, WorldLayout};
use crate::agreement::poison::Poison;
use crate::agreement::sync::AtomicU64;

const RANKS: usize = 4;
const LAYOUT: WorldLayout = WorldLayout::of(RANKS);

fn memory() -> Vec<AtomicU64> {
    let words = LAYOUT.bytes() / 8;
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

#[test]
fn the_first_cause_is_everybodys() {
    let all_are_there = Barrier::new(RANKS);
    for epoch in [0, 1, 7] {
        let outcomes = with_board(RANKS, LAYOUT.bytes(), |rank, board| {
            let poison = Poison::new(LAYOUT, board.words());
            assert!(!poison.is_set(epoch) && poison.get(epoch).is_none());
            all_are_there.wait();
            let first = poison.set(epoch, rank, &format!("cause of rank {rank}"));
            assert!(poison.is_set(epoch));
            all_are_there.wait();
            (first, poison.get(epoch).expect("a cause"))
        });
        let (rank, cause) = outcomes[0].1.clone();
        assert_eq!(cause, format!("cause of rank {rank}"));
        for (at, (first, told)) in outcomes.iter().enumerate() {
            assert_eq!((*first, told), (at == rank, &(rank, cause.clone())));
        }
    }
}

#[test]
fn the_next_epoch_is_whole_and_an_old_one_stays_failed() {
    let words = memory();
    let poison = Poison::new(LAYOUT, &words);
    assert!(poison.set(0, 2, "first"));
    assert!(!poison.set(0, 1, "second"));
    assert!(poison.is_set(0) && !poison.is_set(1));
    assert_eq!(poison.get(1), None);
    assert!(poison.set(1, 1, "third"));
    assert_eq!(poison.get(1), Some((1, "third".into())));
    // One that has not come to epoch 1 sees what failed there, and changes nothing.
    assert_eq!(poison.get(0), Some((1, "third".into())));
    assert!(!poison.set(0, 3, "late"));
    assert_eq!(poison.get(1), Some((1, "third".into())));
    assert_eq!(poison.read_cause(0, 3), Some("late".into()));
    assert_eq!(poison.read_cause(0, 1), None);
}

#[test]
fn the_first_cause_of_a_rank_stands() {
    let words = memory();
    let poison = Poison::new(LAYOUT, &words);
    assert!(poison.set(0, 3, "why"));
    assert!(!poison.set(0, 3, "another reason of the same rank"));
    assert_eq!(poison.get(0), Some((3, "why".into())));
}

#[test]
fn long_causes_end_at_a_character() {
    let words = memory();
    let poison = Poison::new(LAYOUT, &words);
    let long = format!("a{}", "é".repeat(CAUSE));
    assert!(poison.set(0, 0, &long));
    let (_, told) = poison.get(0).expect("a cause");
    assert_eq!(told.len(), CAUSE - 1);
    assert!(long.starts_with(&told));
    assert!(poison.set(1, 0, ""));
    assert_eq!(poison.get(1), Some((0, String::new())));
}

#[test]
fn heartbeats_are_each_ranks_own() {
    let words = memory();
    let poison = Poison::new(LAYOUT, &words);
    assert_eq!(poison.last_beat(2), 0);
    poison.beat(2, 1234);
    poison.beat(3, 99);
    assert_eq!([1, 2, 3].map(|rank| poison.last_beat(rank)), [0, 1234, 99]);
    assert!(!poison.is_set(0));
}
