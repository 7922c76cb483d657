//! What the watchdog looks at: peers that stay behind, have left or were stopped, and launches that do
//! not come back.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::group::{Agreement, Behind};
use super::release::{INSIDE_NCCL, REVOKE};
use super::vitals::{SILENT, Vitals, lock};
use super::watchdog::Watch;
use crate::backend::Backend;
use crate::error::Error;

impl<B: Backend> Vitals<B> {
    /// A launch of this rank that does not come back from NCCL: a first collective connects its
    /// ranks, and waits on the host for those that do not.
    fn stuck_launch(&self) -> Option<Error> {
        let mut known = lock(&self.inside);
        let inside = self.gate.inside();
        let now = Instant::now();
        *known = match (inside, *known) {
            (Some(inside), Some((before, since))) if inside == before => Some((before, since)),
            (inside, _) => inside.map(|inside| (inside, now)),
        };
        let after = now - known.as_ref()?.1;
        (after > self.limits.inside()).then(|| Error::Timeout {
            rank: self.seat.rank,
            missing: self.silent(),
            what: "the launch of a collective, inside NCCL".into(),
            after,
        })
    }

    /// A rank of this host whose process does not run any more, although it lives.
    fn stopped(&self) -> Option<Error> {
        let board = self.board.as_ref()?;
        (0..self.seat.ranks).find_map(|rank| {
            let after = board.silence(rank)?;
            let gone = self.seat.rendezvous.has_left(rank);
            (after > self.limits.deadline.max(SILENT) && !gone).then(|| Error::Timeout {
                rank: self.seat.rank,
                missing: [rank].into(),
                what: "a sign of life: the process is stopped, or starved".into(),
                after,
            })
        })
    }

    /// A peer that stays behind where this rank has gone on, and will not come or is late.
    fn laggard(&self) -> Option<Error> {
        let agreements: Vec<_> = lock(&self.agreements)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let left = |rank| self.seat.rendezvous.has_left(rank);
        agreements.iter().find_map(|agreement| {
            let behind = agreement.laggard(self.limits.deadline, left)?;
            Some(self.explain(agreement, &behind))
        })
    }

    fn explain(&self, agreement: &Agreement, behind: &Behind) -> Error {
        let Behind {
            rank, seq, mine, ..
        } = *behind;
        let name = &agreement.name;
        let waiting = agreement.last_of(self.seat.rank, mine);
        let waiting = waiting.map_or_else(String::new, |record| {
            format!(", where rank {} has {record}", self.seat.rank)
        });
        let Some(after) = behind.waited else {
            let cause = format!("it left after step {seq} of {name}{waiting}, which waits for it");
            return Error::PeerFailed {
                rank,
                cause: cause.into(),
            };
        };
        let silence = self.board.as_ref().and_then(|board| board.silence(rank));
        let silence = silence.filter(|silence| *silence > SILENT);
        let silence = silence.map_or_else(String::new, |silence| {
            format!("; its watchdog has not been seen for {silence:?}, so its process is stopped or starved")
        });
        let last = agreement.last_of(rank, seq);
        let last = last.map_or_else(|| "nothing".into(), |record| record.to_string());
        Error::Timeout {
            rank: self.seat.rank,
            missing: [rank].into(),
            what: format!(
                "step {mine} of {name}{waiting}; rank {rank} is at step {seq} with {last}{silence}"
            )
            .into(),
            after,
        }
    }
}

impl<B: Backend> Watch for Vitals<B> {
    fn look(self: Arc<Self>) {
        let epoch = self.epoch.load(Ordering::Acquire);
        if let Some(board) = &self.board {
            board.beat();
        }
        self.adopt();
        if !self.has_failed() {
            let found = self.laggard().or_else(|| self.stuck_launch());
            if let Some(error) = found.or_else(|| self.stopped()) {
                self.poison_in(epoch, &error);
            }
        }
        if self.has_failed() {
            self.release();
            let since = *lock(&self.failed_at).get_or_insert_with(Instant::now);
            if since.elapsed() > REVOKE && self.stuck.load(Ordering::Acquire) > 0 {
                self.unrecoverable(INSIDE_NCCL);
            }
        }
    }
}
