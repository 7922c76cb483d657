//! What an allocation says of itself while its pool records.

use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Home, Memory, Place};
use crate::backend::Backend;
use crate::group::core::GroupCore;
use crate::group::world::Rank;
use crate::pool::watch::Spot;

impl<B: Backend> Memory<B> {
    /// The same, written down if the pool records.
    pub(super) fn recorded(self, site: &'static Location<'static>) -> Self {
        if self.rank().pool.watch.is_attentive() {
            self.record(site);
        }
        self
    }

    #[cold]
    #[inline(never)]
    pub(super) fn record(&self, site: &'static Location<'static>) {
        let pool = &self.rank().pool;
        let Some(recorder) = pool.watch.recorder() else {
            return;
        };
        let taken = |bytes, group: Option<&Arc<GroupCore<B>>>| {
            let group = group.map(|group| group.short_label());
            pool.watch.taken(bytes, group, site)
        };
        let (arena, block, group) = match &self.owned.home {
            Home::Block { group, block } => {
                let arena = (group.arena.id, group.arena.live_bytes());
                (arena, block, Some(group))
            }
            Home::Graph(graph) => {
                let arena = (graph.arena.id(), graph.arena.live_bytes());
                (arena, &graph.block.block, graph.group.as_ref())
            }
            Home::Plain(plain) => {
                let taken = taken(self.owned.bytes, plain.group.as_ref());
                return recorder.took_plain(self.addr(), taken, pool.totals());
            }
            Home::Shared(_) => return,
        };
        let taken = taken(block.bytes, group);
        recorder.took(arena, block.position, taken, pool.totals());
    }
}

impl<B: Backend> Place<'_, B> {
    pub(crate) fn spot(&self) -> Spot {
        (self.arena, self.block.position, self.block.bytes)
    }
}

/// Ordinary memory is gone.
pub(crate) fn gave_plain<B: Backend>(rank: &Rank<B>, addr: u64, bytes: u64) {
    let pool = &rank.pool;
    pool.plain.fetch_sub(bytes, Ordering::Relaxed);
    if let Some(recorder) = pool.watch.recorder_if_any() {
        recorder.gave_plain(addr, pool.totals());
    }
}
