//! Not in the modules themselves: the loom test compiles the ring without its tests.

mod board;
mod details;
mod fingerprint;
mod pairs;
mod poison;
mod ring;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::board::Board;
use crate::rendezvous::{Rendezvous, Topic};

const SOON: Duration = Duration::from_secs(30);
const TOPIC: Topic = Topic {
    channel: 0xB0A2D,
    step: 0,
};

/// Runs `rank` on every rank of a world of threads, with a board of so many bytes.
fn with_board<R: Send>(
    ranks: usize,
    bytes: usize,
    rank: impl Fn(usize, &Board) -> R + Sync,
) -> Vec<R> {
    each(ranks, |end| {
        let here: Arc<[usize]> = (0..ranks).collect();
        let board = Board::meet(&end, &here, TOPIC, bytes, SOON).expect("a board");
        rank(end.rank(), &board)
    })
}

/// Runs `rank` on every end of a world of threads.
fn each<R: Send>(ranks: usize, rank: impl Fn(Rendezvous) -> R + Sync) -> Vec<R> {
    thread::scope(|scope| {
        let ends = Rendezvous::threads(ranks).into_iter();
        let running: Vec<_> = ends.map(|end| scope.spawn(|| rank(end))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().expect("rank"))
            .collect()
    })
}
