//! An arena: segments and blocks with one history, for one group or for the groups that were
//! declared to share it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};

use super::PoolCore;
use super::placement::{Placement, Position};
use super::segment::Segment;
use super::stats::ArenaStats;
use super::streams::{StreamSet, StreamTable};
use super::usage::{Claim, Usage};
use super::watch::Chart;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::registration::returns::Returns;
use crate::site::Site;

/// Names an arena; no two of a process ever have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ArenaId(u64);

impl ArenaId {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        ArenaId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A group that allocates from an arena, as a bit; those after the 64th have none, and are told of a
/// segment each time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member(u64);

/// A block that a buffer owns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub(crate) position: Position,
    /// Bytes, a multiple of [`GRANULE`](super::placement::GRANULE); its redzone is part of them.
    pub(crate) bytes: u64,
    /// Its address on this rank's device.
    pub(crate) addr: u64,
}

/// One segment, as ranks compare it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Surveyed {
    pub(crate) bytes: u64,
    /// No block lies in it.
    pub(crate) empty: bool,
    /// Of its free ranges.
    pub(crate) digest: u64,
}

/// Segments and blocks with a history of their own.
#[derive(Debug)]
pub(crate) struct Arena<B: Backend> {
    pub(crate) id: ArenaId,
    name: Box<str>,
    pool: Arc<PoolCore<B>>,
    /// Blocks of shared buffers that this rank has dropped.
    pub(crate) returns: Returns<B>,
    usage: Usage,
    /// What calls ask of the state without its lock.
    glance: Glance<B>,
    state: Mutex<State<B>>,
}

/// What a call asks of an arena, which happens more often than anything else. The history is changed
/// by the thread that is inside the arena, and read by it.
#[derive(Debug)]
struct Glance<B: Backend> {
    digest: AtomicU64,
    allocations: AtomicU64,
    /// A stream that is noted: the first of the calls'.
    stream: OnceLock<B::Stream>,
}

impl<B: Backend> Default for Glance<B> {
    fn default() -> Self {
        Self {
            digest: AtomicU64::new(0),
            allocations: AtomicU64::new(0),
            stream: OnceLock::new(),
        }
    }
}

impl<B: Backend> Glance<B> {
    #[inline]
    fn history(&self, state: &State<B>) {
        self.digest.store(state.digest, Ordering::Relaxed);
        self.allocations.store(state.allocations, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct State<B: Backend> {
    segments: Vec<Known<B>>,
    placement: Placement,
    members: usize,
    streams: StreamTable<B>,
    reserved: u64,
    live: u64,
    peak: u64,
    blocks: u64,
    allocations: u64,
    digest: u64,
    /// Of the world, of the first group; `None` inside where nobody knows them.
    ranks: Option<Option<BTreeSet<usize>>>,
    mixed: bool,
}

#[derive(Debug)]
struct Known<B: Backend> {
    segment: Arc<Segment<B>>,
    /// The members that know that they work on it, as bits.
    members: u64,
}

impl<B: Backend> Known<B> {
    #[cold]
    fn tell(&mut self, member: Member) -> Arc<Segment<B>> {
        self.members |= member.0;
        Arc::clone(&self.segment)
    }
}

impl<B: Backend> Arena<B> {
    pub(crate) fn new(name: &str, pool: &Arc<PoolCore<B>>) -> Arc<Self> {
        let state = State {
            segments: Vec::new(),
            placement: Placement::default(),
            members: 0,
            streams: StreamTable::new(),
            reserved: 0,
            live: 0,
            peak: 0,
            blocks: 0,
            allocations: 0,
            digest: 0,
            ranks: None,
            mixed: false,
        };
        Arc::new(Self {
            id: ArenaId::next(),
            name: name.into(),
            pool: Arc::clone(pool),
            returns: Returns::default(),
            usage: Usage::default(),
            glance: Glance::default(),
            state: Mutex::new(state),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A block of at least `bytes` for a member to use on `stream`, and its segment if the member
    /// has not heard of it. Grows the arena if it has to.
    #[inline]
    pub(crate) fn allocate(
        &self,
        member: Member,
        bytes: u64,
        stream: &B::Stream,
    ) -> Result<(Block, Option<Arc<Segment<B>>>), Box<Error>> {
        let bytes = self.pool.config.block_bytes(bytes)?;
        let mut guard = self.state();
        let state = &mut *guard;
        let (position, streams) = match state.placement.take(bytes) {
            Some(found) => found,
            None => self.grow_and_take(state, bytes)?,
        };
        state
            .streams
            .wait(stream, streams)
            .inspect_err(|_| state.placement.give(position, bytes, streams))?;
        self.usage.claim_buffer();
        state.live += bytes;
        state.peak = state.peak.max(state.live);
        state.blocks += 1;
        state.allocations += 1;
        state.digest = mix(state.digest, bytes, position);
        self.glance.history(state);
        let known = &mut state.segments[position.segment];
        let block = Block {
            position,
            bytes,
            addr: known.segment.base() + position.offset,
        };
        let news = match known.members & member.0 {
            0 => Some(known.tell(member)),
            _ => None,
        };
        Ok((block, news))
    }

    #[cold]
    fn grow_and_take(&self, state: &mut State<B>, bytes: u64) -> Result<(Position, StreamSet)> {
        self.grow(state, bytes)?;
        let taken = state.placement.take(bytes);
        taken.ok_or_else(|| self.inconsistent())
    }

    /// Tells the member of all segments again: it starts a new ledger.
    pub(crate) fn tell_again(&self, member: Member) {
        let mut state = self.state();
        for known in &mut state.segments {
            known.members &= !member.0;
        }
    }

    /// Takes a block back whose last use is on `stream`.
    #[inline(always)]
    pub(crate) fn release(&self, block: &Block, stream: &B::Stream) {
        let mut state = self.state();
        let streams = state.streams.note(stream);
        state.placement.give(block.position, block.bytes, streams);
        state.live -= block.bytes;
        state.blocks -= 1;
        self.usage.release(Claim::Buffer);
        drop(state);
        if self.pool.watch.is_attentive() {
            self.note_release(block.position);
        }
    }

    /// For the recording, if there is one.
    #[cold]
    #[inline(never)]
    fn note_release(&self, position: Position) {
        if let Some(recorder) = self.pool.watch.recorder() {
            recorder.gave((self.id, self.live_bytes()), position, self.pool.totals());
        }
    }

    /// A block is shared from here on: it comes back by [`Arena::give_back`], in no thread's order.
    pub(crate) fn share(&self) {
        self.usage.release(Claim::Buffer);
    }

    /// Takes a shared block back whose last uses are on `streams`.
    pub(crate) fn give_back(&self, block: &Block, streams: &[B::Stream]) {
        let mut state = self.state();
        let streams = streams.iter().fold(StreamSet::EMPTY, |set, stream| {
            set | state.streams.note(stream)
        });
        state.placement.give(block.position, block.bytes, streams);
        state.live -= block.bytes;
        state.blocks -= 1;
        drop(state);
        if self.pool.watch.is_attentive() {
            self.note_release(block.position);
        }
    }

    /// A group allocates from it, of these ranks of the world, if that is known.
    pub(crate) fn join(&self, ranks: Option<&[usize]>) -> Member {
        let ranks = ranks.map(|ranks| ranks.iter().copied().collect());
        let mut state = self.state();
        match &state.ranks {
            None => state.ranks = Some(ranks),
            Some(known) => state.mixed |= *known != ranks || ranks.is_none(),
        }
        state.members += 1;
        Member(1u64.checked_shl(state.members as u32 - 1).unwrap_or(0))
    }

    /// Whether groups of different ranks allocate from it, or did: no round of one of them reaches
    /// all ranks that share its history.
    pub(crate) fn is_mixed(&self) -> bool {
        self.state().mixed
    }

    /// The rolling digest of its allocations, and their number.
    pub(crate) fn history(&self) -> (u64, u64) {
        let state = self.state();
        (state.digest, state.allocations)
    }

    /// Adds one segment of at least `bytes`, and says which.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<usize> {
        let mut state = self.state();
        self.grow(&mut state, self.pool.config.room(bytes))?;
        let index = state.segments.len() - 1;
        let segment = state.segments.last();
        let segment = segment.map(|known| Arc::clone(&known.segment));
        drop(state);
        if let Some(segment) = segment {
            segment.tell(&self.name);
        }
        Ok(index)
    }

    /// What lies where, by segment: for ranks to compare. What was freed is free, in whatever sizes.
    pub(crate) fn survey(&self) -> Vec<Surveyed> {
        let state = self.state();
        let segments = state.segments.iter().enumerate();
        let survey = segments.map(|(index, Known { segment, .. })| {
            let free = state.placement.free_ranges(index);
            let fold = |digest, &(offset, bytes): &(u64, u64)| {
                let segment = index;
                mix(digest, bytes, Position { segment, offset })
            };
            Surveyed {
                bytes: segment.bytes(),
                empty: free == [(0, segment.bytes())],
                digest: free.iter().fold(0, fold),
            }
        });
        survey.collect()
    }

    /// Whether all of these bytes are free.
    pub(crate) fn is_free(&self, position: Position, bytes: u64) -> bool {
        let free = self.state().placement.free_ranges(position.segment);
        free.iter().any(|&(offset, size)| {
            offset <= position.offset && position.offset + bytes <= offset + size
        })
    }

    /// Gives the segments from `keep` on back, which are free as a whole, and begins a new history
    /// from what is left.
    pub(crate) fn restart(&self, keep: usize) {
        self.shrink(keep);
        let mut state = self.state();
        state.placement.forget_sizes();
        (state.digest, state.allocations) = (0, 0);
        self.glance.history(&state);
    }

    /// Gives the segments from `keep` on back, which are free as a whole, and says how many bytes
    /// that is.
    pub(crate) fn shrink(&self, keep: usize) -> u64 {
        let mut state = self.state();
        let keep = keep.min(state.segments.len());
        let gone = state.segments.split_off(keep);
        let gone: Vec<_> = gone.into_iter().map(|known| known.segment).collect();
        for (at, segment) in gone.iter().enumerate() {
            state.placement.remove_segment(keep + at);
            state.reserved -= segment.bytes();
        }
        let bytes = gone.iter().map(|segment| segment.bytes()).sum();
        let streams = state.streams.all();
        drop(state);
        self.pool.reaper.segments(gone, streams);
        bytes
    }

    /// The segment at `index` of the arena.
    pub(crate) fn segment(&self, index: usize) -> Option<Arc<Segment<B>>> {
        let state = self.state();
        let known = state.segments.get(index)?;
        Some(Arc::clone(&known.segment))
    }

    /// Notes that work on `stream` uses the arena's memory, so that teardown waits for it. Returns
    /// the arena's [`history`](Self::history), which a call states.
    #[inline]
    pub(crate) fn note_stream(&self, stream: &B::Stream) -> (u64, u64) {
        let glance = &self.glance;
        let first = glance.stream.get();
        if !first.is_some_and(|first| B::same_stream(first, stream)) {
            self.state().streams.note(stream);
            glance.stream.get_or_init(|| stream.clone());
        }
        (
            glance.digest.load(Ordering::Relaxed),
            glance.allocations.load(Ordering::Relaxed),
        )
    }

    /// Every stream that used the arena's memory.
    pub(crate) fn streams(&self) -> Vec<B::Stream> {
        self.state().streams.all()
    }

    /// Lets this thread in, unless another one is inside. The claim is given back with
    /// [`Arena::leave`].
    #[inline]
    pub(crate) fn enter(&self, claim: Claim, site: Site) -> Result<(), Site> {
        self.usage.enter(claim, site)
    }

    #[inline]
    pub(crate) fn leave(&self, claim: Claim) {
        self.usage.release(claim);
    }

    /// Bytes that buffers own.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.state().live
    }

    /// What lies where.
    pub(crate) fn chart(&self) -> Chart {
        let state = self.state();
        let free = 0..state.segments.len();
        Chart {
            arena: self.id,
            name: self.name.to_string(),
            graph_pool: None,
            live: state.live,
            segments: state
                .segments
                .iter()
                .map(|known| known.segment.extent())
                .collect(),
            free: free
                .map(|index| state.placement.free_ranges(index))
                .collect(),
            taken: Vec::new(),
            returning: self.returns.ranges(),
            written: Vec::new(),
        }
    }

    pub(crate) fn stats(&self) -> ArenaStats {
        let state = self.state();
        ArenaStats {
            name: self.name.to_string(),
            segments: state.segments.len(),
            reserved_bytes: state.reserved,
            live_bytes: state.live,
            peak_live_bytes: state.peak,
            live_blocks: state.blocks,
            allocations: state.allocations,
            digest: state.digest,
        }
    }

    fn grow(&self, state: &mut State<B>, bytes: u64) -> Result<()> {
        let index = state.segments.len();
        let size = self.pool.config.segment_bytes(state.reserved, bytes)?;
        let segment = Segment::new(&self.pool, &self.name, size, bytes)?;
        state.segments.push(Known {
            segment: Arc::new(segment),
            members: 0,
        });
        state.placement.add_segment(index, size);
        state.reserved += size;
        Ok(())
    }

    #[inline]
    fn state(&self) -> MutexGuard<'_, State<B>> {
        // Nothing inside the lock runs user code or panics half way, so it needs no poisoning.
        self.state.lock()
    }

    fn inconsistent(&self) -> Error {
        Error::Config { what: format!("arena {}: a new segment did not fit the allocation it was made for: please report this", self.name).into() }
    }
}

impl<B: Backend> Drop for Arena<B> {
    fn drop(&mut self) {
        if let Some(recorder) = self.pool.watch.recorder() {
            recorder.forget(self.id, self.pool.totals());
        }
        let state = self.state.get_mut();
        let segments = state.segments.drain(..).map(|known| known.segment);
        let reaper = &self.pool.reaper;
        reaper.segments(segments.collect(), state.streams.all());
    }
}

/// One step of the rolling digest: the order of allocations, their sizes and where they went.
#[inline]
fn mix(digest: u64, bytes: u64, position: Position) -> u64 {
    [bytes, position.segment as u64, position.offset]
        .into_iter()
        .fold(digest, |digest, word| {
            (digest ^ word)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29)
        })
}
