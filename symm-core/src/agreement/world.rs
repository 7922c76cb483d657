//! A rank's view of the world's board: poison and heartbeats.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use super::board::Board;
use super::layout::WorldLayout;
use super::poison::Poison;
use crate::backend::driver::Seat;
use crate::error::Result;
use crate::rendezvous::Topic;

/// The channel on which the ranks of a host share the world's board.
const BOARD: u64 = 0x626f_6172;

/// The board of the world's ranks on this host.
#[derive(Debug)]
pub(crate) struct WorldBoard {
    board: Board,
    layout: WorldLayout,
    /// World ranks by their place on the board.
    here: Arc<[usize]>,
    /// This rank's place.
    me: usize,
    epoch: AtomicU32,
}

impl WorldBoard {
    /// All ranks `here`, on this host, call it.
    pub(crate) fn meet(seat: &Seat, here: &Arc<[usize]>) -> Result<Self> {
        let layout = WorldLayout::of(here.len());
        let topic = Topic {
            channel: Topic::channel(&[BOARD, here.first().map_or(0, |&rank| rank as u64)]),
            step: 0,
        };
        let bytes = layout.bytes();
        let board = Board::meet(&seat.rendezvous, here, topic, bytes, seat.deadline)?;
        let me = here.iter().position(|&rank| rank == seat.rank);
        Ok(Self {
            board,
            layout,
            here: Arc::clone(here),
            me: me.unwrap_or_default(),
            epoch: AtomicU32::new(0),
        })
    }

    #[inline]
    fn words(&self) -> Poison<'_> {
        Poison::new(self.layout, self.board.words())
    }

    #[inline]
    fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// Whether a rank of this host stored poison: one load.
    #[inline]
    pub(crate) fn is_poisoned(&self) -> bool {
        self.words().is_set(self.epoch())
    }

    /// Stores that `rank` failed in this epoch, unless another failure was stored before.
    pub(crate) fn poison(&self, epoch: u32, rank: usize, cause: &str) {
        self.words()
            .set(epoch, self.me, &format!("{rank}\t{cause}"));
    }

    /// Which rank failed first in this epoch, and why.
    pub(crate) fn cause(&self, epoch: u32) -> Option<(usize, String)> {
        let (place, told) = self.words().get(epoch)?;
        let parts = told.split_once('\t');
        let parts = parts.and_then(|(rank, cause)| Some((rank.parse().ok()?, cause.to_owned())));
        let writer = self.here.get(place).copied().unwrap_or_default();
        Some(parts.unwrap_or((writer, told)))
    }

    /// Goes on in another epoch, in which nothing has failed.
    pub(crate) fn renew(&self, epoch: u32) {
        self.epoch.store(epoch, Ordering::Relaxed);
    }

    /// States that this rank's watchdog runs.
    pub(crate) fn beat(&self) {
        self.words().beat(self.me, now());
    }

    /// For how long the rank's watchdog has not been seen; `None` for one of another host.
    pub(crate) fn silence(&self, rank: usize) -> Option<Duration> {
        let place = self.here.iter().position(|&here| here == rank)?;
        let last = self.words().last_beat(place);
        (last > 0).then(|| Duration::from_millis(now().saturating_sub(last)))
    }
}

/// Milliseconds on the clock that all processes of a host share.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
