//! A segment: what NCCL hands out, owned until its last window and its last block are gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::PoolCore;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::trace;

/// One `ncclMemAlloc`. Arenas and windows hold it together; it is freed when both have let go.
#[derive(Debug)]
pub(crate) struct Segment<B: Backend> {
    /// `None` only while it is being dropped.
    memory: Option<B::Segment>,
    base: u64,
    bytes: u64,
    /// Whether a subscriber has been told of it.
    told: AtomicBool,
    pool: Arc<PoolCore<B>>,
}

impl<B: Backend> Segment<B> {
    /// Asks the device for `bytes`, within the pool's budget; `need` is the allocation that made
    /// the arena grow.
    pub(crate) fn new(pool: &Arc<PoolCore<B>>, arena: &str, bytes: u64, need: u64) -> Result<Self> {
        if pool.sealed.load(Ordering::Relaxed) {
            return Err(Error::Sealed {
                rank: pool.rank,
                arena: arena.into(),
                need,
            });
        }
        let budget = pool.config.budget;
        let taken = pool
            .reserved
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |reserved| {
                reserved.checked_add(bytes).filter(|sum| *sum <= budget)
            });
        if let Err(reserved) = taken {
            return Err(Error::BudgetExceeded {
                rank: pool.rank,
                arena: arena.into(),
                need: bytes,
                reserved,
                budget,
            });
        }
        let memory = B::alloc_segment(&pool.device, bytes).inspect_err(|_| {
            pool.reserved.fetch_sub(bytes, Ordering::Relaxed);
        })?;
        pool.segments.fetch_add(1, Ordering::Relaxed);
        pool.note_segments();
        let base = B::segment_base(&memory);
        Ok(Self {
            memory: Some(memory),
            base,
            bytes,
            told: AtomicBool::new(false),
            pool: Arc::clone(pool),
        })
    }

    /// Tells subscribers, once, that the arena has it: behind the arena's lock, under which it was
    /// made.
    pub(crate) fn tell(&self, arena: &str) {
        if !self.told.swap(true, Ordering::Relaxed) {
            let reserved = self.pool.reserved.load(Ordering::Relaxed);
            trace::grew(self.pool.rank, arena, self.bytes, reserved);
        }
    }

    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Base and bytes.
    pub(crate) fn extent(&self) -> (u64, u64) {
        (self.base, self.bytes)
    }

    /// What the backend registers.
    pub(crate) fn memory(&self) -> Option<&B::Segment> {
        self.memory.as_ref()
    }
}

impl<B: Backend> Drop for Segment<B> {
    /// Runs on the reaper, behind the streams and the windows that used the segment: see `reaper`.
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.pool
                .reaper
                .report(B::free_segment(&self.pool.device, memory));
            self.pool.reserved.fetch_sub(self.bytes, Ordering::Relaxed);
            self.pool.segments.fetch_sub(1, Ordering::Relaxed);
            self.pool.note_segments();
        }
    }
}
