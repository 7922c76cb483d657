//! Redzones: a pattern behind every buffer of an arena, so that what writes past a buffer's end is
//! found when it is freed.
//!
//! Freeing never waits: the zone is copied in stream order, behind the block's last use, and the
//! reaper looks at the copy. In a capture both the pattern and the copy are recorded, and the copy is
//! looked at when the graph is gone.

#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::sync::Arc;

use super::lease::Holder;
use crate::backend::Backend;
use crate::capture::active;
use crate::error::{Error, Result};
use crate::group::world::Rank;
use crate::pool::arena::Block;

/// A byte that is seldom written; a zone of it holds large numbers in every floating-point format, so
/// that what reads past the end shows as well.
const PATTERN: u8 = 0xFB;

/// Copies that a graph makes lie together, in pieces of at least so many bytes.
const PIECE: u64 = 64 << 10;

/// The bytes from the end of a buffer to the end of its block.
#[derive(Debug)]
pub(crate) struct Zone {
    /// The arena's name in messages.
    pub(crate) arena: Box<str>,
    pub(crate) block: Block,
    /// Bytes of the buffer.
    pub(crate) buffer: u64,
}

impl Zone {
    fn start(&self) -> u64 {
        self.block.addr + self.buffer
    }

    fn bytes(&self) -> u64 {
        self.block.bytes - self.buffer
    }

    /// Enqueues the pattern, or records it. `stream` is the block's own.
    pub(crate) fn fill<B: Backend>(&self, stream: &B::Stream) -> Result<()> {
        // SAFETY: the zone is a part of the block, which is given back behind the stream's work.
        unsafe { B::fill(stream, self.start(), PATTERN, self.bytes()) }
    }

    /// Whether what was in the zone is the pattern.
    fn compare(&self, rank: usize, found: &[u8]) -> Result<()> {
        let mut changed = found
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte != PATTERN);
        match changed.next() {
            None => Ok(()),
            Some((first, _)) => Err(Error::Redzone {
                rank,
                arena: self.arena.clone(),
                segment: self.block.position.segment,
                offset: self.block.position.offset,
                bytes: self.buffer,
                first: first as u64,
                changed: 1 + changed.count() as u32,
            }),
        }
    }
}

/// A zone that holds the pattern.
#[derive(Debug)]
pub(crate) struct Redzone<B: Backend> {
    zone: Zone,
    /// The graph whose launches write the pattern. Without one it was written when the block was
    /// allocated.
    graph: Option<Rc<Holder<B>>>,
}

impl<B: Backend> Redzone<B> {
    pub(crate) fn new(zone: Zone, graph: Option<&Rc<Holder<B>>>) -> Self {
        Self {
            zone,
            graph: graph.cloned(),
        }
    }

    /// What is to be looked at, of a block that no graph fills.
    pub(crate) fn into_zone(self) -> Zone {
        self.zone
    }

    /// Has the zone looked at. The block is about to be given back: `stream`, its own, is behind all
    /// its uses.
    pub(crate) fn check(self, rank: &Arc<Rank<B>>, stream: &B::Stream) {
        if rank.check().is_err() {
            return; // the first failure is what matters
        }
        let Self { zone, graph } = self;
        let capture = active::capture_on_this_thread(rank);
        match (capture, graph) {
            (Some(capture), Some(graph)) if Rc::ptr_eq(&graph, &capture.holder) => {
                if let Err(error) = record(&capture, zone, stream) {
                    capture.fail(&error);
                }
            }
            // What comes from elsewhere is not given back before the capture's end.
            (Some(_), _) => {}
            (None, Some(graph)) if graph.launches() == 0 => {}
            (None, _) => {
                if let Err(error) = check_later(rank, zone, stream) {
                    rank.pool.reaper.report(Err(error));
                }
            }
        }
    }
}

/// Copies the zone now, behind the uses on `stream`, and has the reaper look at it.
pub(crate) fn check_later<B: Backend>(
    rank: &Arc<Rank<B>>,
    zone: Zone,
    stream: &B::Stream,
) -> Result<()> {
    let mut copies = Copies::default();
    copies.add(zone, stream, stream, 0)?;
    let (of, stream) = (Arc::clone(rank), stream.clone());
    rank.pool.reaper.later(move || {
        B::synchronize(&stream)?;
        copies.check(&of)
    });
    Ok(())
}

/// Records the copy of a zone in the capture that is under way.
fn record<B: Backend>(capture: &active::Active<B>, zone: Zone, stream: &B::Stream) -> Result<()> {
    // Not on a captured stream, which would record the allocation.
    let Some(outside) = &capture.pool.rank.pool.redzones else {
        return Ok(());
    };
    capture.holder.launch_after(outside);
    let mut found = capture.found();
    found.redzones.add(zone, stream, outside, PIECE)
}

/// Copies of zones that nobody has looked at yet, in ordinary memory.
#[derive(Debug)]
pub(crate) struct Copies<B: Backend>(Vec<Piece<B>>);

#[derive(Debug)]
struct Piece<B: Backend> {
    memory: B::Plain,
    bytes: u64,
    /// What lies in it, one behind the other.
    zones: Vec<Zone>,
    used: u64,
}

impl<B: Backend> Copies<B> {
    /// Enqueues, or records, a copy on `stream`. More memory comes from `memory`, at least so many
    /// bytes.
    fn add(
        &mut self,
        zone: Zone,
        stream: &B::Stream,
        memory: &B::Stream,
        least: u64,
    ) -> Result<()> {
        let need = zone.bytes();
        let mut piece = match self.0.pop_if(|piece| piece.bytes - piece.used >= need) {
            Some(piece) => piece,
            None => {
                let bytes = need.max(least);
                Piece {
                    memory: B::alloc_plain(memory, bytes)?,
                    bytes,
                    zones: Vec::new(),
                    used: 0,
                }
            }
        };
        let to = B::plain_base(&piece.memory) + piece.used;
        // SAFETY: the zone is a part of a block that is given back behind the stream's work. The piece
        // has room, and is dropped when the copies are done, of a graph when its launches are.
        let copied = unsafe { B::copy(stream, to, zone.start(), need) };
        if copied.is_ok() {
            piece.used += need;
            piece.zones.push(zone);
        }
        self.0.push(piece);
        copied
    }

    /// Looks at the copies, which are done, and reports what is wrong: it ends the world.
    pub(crate) fn check(&self, rank: &Rank<B>) -> Result<()> {
        let Some(stream) = &rank.pool.redzones else {
            return Ok(());
        };
        for piece in &self.0 {
            let mut found = vec![0; piece.used as usize];
            // SAFETY: the piece has so many bytes, and is alive.
            unsafe { B::download(stream, B::plain_base(&piece.memory), &mut found) }?;
            let mut rest = &found[..];
            for zone in &piece.zones {
                let (copy, behind) = rest.split_at(zone.bytes() as usize);
                rest = behind;
                if let Err(error) = zone.compare(rank.seat.rank, copy) {
                    rank.poison(&error);
                    rank.pool.reaper.report(Err(error));
                }
            }
        }
        Ok(())
    }
}

impl<B: Backend> Default for Copies<B> {
    fn default() -> Self {
        Self(Vec::new())
    }
}
