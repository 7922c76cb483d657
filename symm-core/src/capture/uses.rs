//! The memory that a pass uses: what its graph keeps, how the captured streams are ordered by their
//! uses of it, and what becomes of memory that is freed meanwhile.

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;

use super::active::{Active, capture_on_this_thread};
use crate::backend::Backend;
use crate::backend::driver::Access;
use crate::buffer::memory::{Memory, Owned};
use crate::error::Result;
use crate::group::core::GroupCore;
use crate::group::twin::Lane;
use crate::pool::watch::Spot;

impl<B: Backend> Active<B> {
    /// Before a use of `memory` on `stream` that is about to be captured: the graph keeps the memory,
    /// and the stream waits for the uses in this capture. What was enqueued before the capture comes
    /// before the graph's first launch.
    pub(crate) fn before_use(
        &self,
        memory: &Memory<B>,
        stream: &B::Stream,
        access: Access,
    ) -> Result<()> {
        self.check()?;
        self.join(stream).inspect_err(|error| self.fail(error))?;
        self.keep(memory);
        let mut found = self.found.borrow_mut();
        let uses = found.uses.entry(memory.addr()).or_default();
        uses.before(stream, access)
    }

    /// After a use that was just captured.
    pub(crate) fn after_use(&self, memory: &Memory<B>, stream: &B::Stream, access: Access) {
        let mut found = self.found.borrow_mut();
        let uses = found.uses.entry(memory.addr()).or_default();
        uses.after(stream, access);
    }

    /// Before a read of shared memory on `stream` that is about to be captured: the graph keeps a
    /// clone, so that nobody writes as long as it lives, and its launches come after the writes so
    /// far.
    pub(crate) fn reads_shared(
        &self,
        addr: u64,
        stream: &B::Stream,
        writes: &[B::Stream],
        place: Option<Spot>,
        clone: Box<dyn Any + Send>,
    ) -> Result<()> {
        self.check()?;
        self.join(stream).inspect_err(|error| self.fail(error))?;
        let mut found = self.found.borrow_mut();
        if found.uses.contains_key(&addr) {
            return Ok(());
        }
        found.uses.insert(addr, Uses::default());
        found.leased.extend(place);
        found.kept.push(clone);
        writes
            .iter()
            .for_each(|stream| self.holder.launch_after(stream));
        Ok(())
    }

    /// Has the graph keep memory that was not made in this capture.
    fn keep(&self, memory: &Memory<B>) {
        let here = memory
            .graph_block()
            .is_some_and(|(arena, block)| arena.is_of_pass(block));
        if here {
            return;
        }
        let lease = memory.lease();
        if lease.hold(&self.holder) {
            self.holder.launch_after(memory.stream());
            if let Some(fence) = memory.fence_if_made() {
                self.holder.launch_after_fence(fence);
            }
            let mut found = self.found.borrow_mut();
            found
                .leased
                .extend(memory.place().map(|place| place.spot()));
            found.leases.push(Rc::clone(lease));
        }
    }

    /// Orders captured work on a group's two communicators, before such work on `stream`: see
    /// [`Link::order_lanes`](crate::group::link::Link::order_lanes).
    pub(crate) fn order_lanes(
        &self,
        group: &GroupCore<B>,
        lane: Lane,
        stream: &B::Stream,
    ) -> Result<()> {
        if !group.link().has_twin() {
            return Ok(());
        }
        self.join(stream).inspect_err(|error| self.fail(error))?;
        let mut found = self.found.borrow_mut();
        let known = |known: &&mut (u64, Lane, B::Stream)| known.0 == group.generation;
        match found.lanes.iter_mut().find(known) {
            None => found.lanes.push((group.generation, lane, stream.clone())),
            Some((_, last, on)) => {
                if *last != lane && !B::same_stream(on, stream) {
                    B::wait_stream(stream, on)?;
                }
                (*last, *on) = (lane, stream.clone());
            }
        }
        Ok(())
    }

    /// Gives back what was dropped meanwhile and was not the capture's.
    pub(crate) fn release_deferred(&self) {
        let mut found = self.found.borrow_mut();
        let dropped = std::mem::take(&mut found.dropped);
        let deferred = std::mem::take(&mut found.deferred);
        drop(found);
        drop(dropped);
        for (memory, streams) in deferred {
            give_back(memory, &streams);
        }
    }
}

/// Gives memory back whose buffer is gone and that no graph needs, behind the work on `streams`.
pub(crate) fn free<B: Backend>(memory: Owned<B>, streams: &[B::Stream]) {
    let Some(capture) = capture_on_this_thread(memory.rank()) else {
        return give_back(memory, streams);
    };
    let here = memory
        .graph_block()
        .is_some_and(|(arena, block)| arena.is_of_pass(block));
    let mut found = capture.found.borrow_mut();
    if !here {
        return found.deferred.push((memory, streams.to_vec()));
    }
    let users = found.uses.remove(&memory.addr());
    drop(found);
    // Reused behind its own stream, which therefore has to come after the others.
    let users = users.unwrap_or_default().all();
    if let Err(error) = memory.free_behind(&users) {
        capture.fail(&error);
    }
}

fn give_back<B: Backend>(memory: Owned<B>, streams: &[B::Stream]) {
    let rank = Arc::clone(memory.rank());
    if let Err(error) = memory.free_behind(streams) {
        rank.poison(&error);
        // Nobody else may ever ask: the world's end reports it.
        rank.pool.reaper.report(Err(error));
    }
}

/// The streams that used some memory in a capture and that its later users wait for.
#[derive(Debug)]
pub(super) struct Uses<B: Backend> {
    writes: Vec<B::Stream>,
    reads: Vec<B::Stream>,
}

impl<B: Backend> Default for Uses<B> {
    fn default() -> Self {
        Self {
            writes: Vec::new(),
            reads: Vec::new(),
        }
    }
}

impl<B: Backend> Uses<B> {
    /// Makes `stream` wait for the uses that `access` conflicts with.
    fn before(&self, stream: &B::Stream, access: Access) -> Result<()> {
        let reads = self.reads.iter().filter(|_| access == Access::Write);
        let mut users = self.writes.iter().chain(reads);
        users.try_for_each(|user| match B::same_stream(user, stream) {
            true => Ok(()),
            false => B::wait_stream(stream, user),
        })
    }

    fn after(&mut self, stream: &B::Stream, access: Access) {
        if access == Access::Write {
            // It waited for all others.
            *self = Self::default();
        }
        let users = match access {
            Access::Read => &mut self.reads,
            Access::Write => &mut self.writes,
        };
        if !users.iter().any(|user| B::same_stream(user, stream)) {
            users.push(stream.clone());
        }
    }

    fn all(self) -> Vec<B::Stream> {
        [self.writes, self.reads].concat()
    }
}
