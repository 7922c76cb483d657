//! The ring of the agreement under loom: the shipped file, with loom's atomics, in every order of
//! execution with up to three preemptions (two where there are three ranks), and with every value that a relaxed load may return.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use loom::thread;
use ring::{Cursor, LINE, Ring, Step};

/// What the ring takes its atomics from.
mod sync {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
}

#[path = "../../symm-core/src/agreement/ring.rs"]
#[allow(dead_code)]
mod ring;

/// The memory of a ring.
struct Board {
    slots: Vec<sync::AtomicU64>,
    lines: Vec<sync::AtomicU64>,
}

/// A rank that states something else than its peers at a point.
#[derive(Clone, Copy)]
struct Odd {
    rank: usize,
    point: u64,
}

/// One model: ranks that pass so many points.
#[derive(Clone, Copy)]
struct Case {
    ranks: usize,
    points: u64,
    odd: Option<Odd>,
}

/// A rank on its way: how far it came, and whether it met a difference.
#[derive(Debug)]
struct Rank {
    rank: usize,
    cursor: Cursor,
    differs: bool,
}

impl Rank {
    /// Goes on until all points are passed, a peer differs, or a peer is a lap behind: a model that
    /// waits has no end.
    fn run<const N: usize>(&mut self, board: &Board, case: Case) {
        let ring = Ring::<N>::new(&board.slots, &board.lines, self.rank);
        while self.cursor.seq < case.points && !self.differs {
            let point = self.cursor.seq + 1;
            let odd = |odd: Odd| odd.rank == self.rank && odd.point == point;
            let fingerprint = if case.odd.is_some_and(odd) {
                0xBAD
            } else {
                point
            };
            match ring.enter(&mut self.cursor, fingerprint) {
                Step::Passed => {}
                Step::Differs => self.differs = true,
                Step::Full { behind } => {
                    assert_ne!(behind, self.rank);
                    return;
                }
            }
        }
    }

    /// No peer was a lap behind when this rank passed its last point.
    fn look_around<const N: usize>(&self, board: &Board) {
        let ring = Ring::<N>::new(&board.slots, &board.lines, self.rank);
        for peer in (0..ring.ranks()).filter(|&peer| peer != self.rank) {
            let (seq, mine) = (ring.seq_of(peer), self.cursor.seq);
            assert!(seq + N as u64 >= mine, "rank {} lapped {peer}", self.rank);
        }
    }
}

/// Runs the ranks in all orders, and checks what they promise.
fn check<const N: usize>(case: Case) {
    let orders = Arc::new(AtomicUsize::new(0));
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(if case.ranks == 2 { 3 } else { 2 });
    let counted = Arc::clone(&orders);
    model.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let words = |count: usize| (0..count).map(|_| sync::AtomicU64::new(0)).collect();
        let board = loom::sync::Arc::new(Board {
            slots: words(N),
            lines: words(case.ranks * LINE),
        });
        let start = move |rank: usize, board: &Board| {
            let (cursor, differs) = (Cursor::default(), false);
            let mut rank = Rank {
                rank,
                cursor,
                differs,
            };
            rank.run::<N>(board, case);
            // With three ranks these looks make for too many orders.
            if case.ranks == 2 {
                rank.look_around::<N>(board);
            }
            rank
        };
        let spawn = |rank: usize| {
            let board = loom::sync::Arc::clone(&board);
            thread::spawn(move || start(rank, &board))
        };
        let peers: Vec<_> = (1..case.ranks).map(spawn).collect();
        let mut ranks = vec![start(0, &board)];
        ranks.extend(peers.into_iter().map(|peer| peer.join().expect("rank")));
        // Those that found a peer a lap behind go on, as far as they can.
        for _ in 0..case.points {
            for rank in &mut ranks {
                rank.run::<N>(&board, case);
            }
        }
        judge(&ranks, case);
    });
    let orders = orders.load(Ordering::Relaxed);
    let odd = case.odd.map_or(String::new(), |odd| {
        format!(", rank {} differs at {}", odd.rank, odd.point)
    });
    println!(
        "{} ranks, {} points, a ring of {N}{odd}: {orders} orders",
        case.ranks, case.points
    );
    assert!(orders > 1);
}

fn judge(ranks: &[Rank], case: Case) {
    let Some(odd) = case.odd else {
        let done = |rank: &Rank| rank.cursor.seq == case.points && !rank.differs;
        assert!(ranks.iter().all(done), "equal ranks pass: {ranks:?}");
        return;
    };
    let (odd_ranks, others): (Vec<_>, Vec<_>) =
        ranks.iter().partition(|rank| rank.rank == odd.rank);
    let passed = |rank: &&Rank| rank.cursor.seq >= odd.point;
    let together = odd_ranks.iter().any(passed) && others.iter().any(passed);
    assert!(!together, "ranks that differ both pass: {ranks:?}");
    assert!(
        ranks.iter().any(|rank| rank.differs),
        "a difference stays unseen: {ranks:?}"
    );
    assert!(
        ranks.iter().all(|rank| rank.cursor.seq + 1 >= odd.point),
        "what came before is equal: {ranks:?}"
    );
}

fn case(ranks: usize, points: u64, odd: Option<Odd>) -> Case {
    Case { ranks, points, odd }
}

#[test]
fn equal_ranks_pass_and_nobody_laps_a_peer() {
    check::<1>(case(2, 3, None));
    check::<2>(case(2, 3, None));
    check::<2>(case(3, 2, None));
    check::<1>(case(3, 2, None));
}

#[test]
fn two_ranks_that_differ_do_not_both_pass() {
    for point in 1..=3 {
        check::<2>(case(2, 3, Some(Odd { rank: 1, point })));
    }
    check::<1>(case(2, 3, Some(Odd { rank: 0, point: 2 })));
}

#[test]
fn of_three_ranks_one_that_differs_passes_alone_or_not_at_all() {
    for point in 1..=2 {
        check::<2>(case(3, 2, Some(Odd { rank: 2, point })));
    }
    check::<1>(case(3, 2, Some(Odd { rank: 0, point: 2 })));
}
