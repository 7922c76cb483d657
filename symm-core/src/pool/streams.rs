//! Which streams may still use a free block, so that reuse on another stream waits for them and
//! never changes where a block goes.

use std::ops::BitOr;

use crate::backend::Backend;
use crate::error::Result;

/// Streams of one arena, as bits of its [`StreamTable`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamSet(u64);

impl StreamSet {
    pub(crate) const EMPTY: StreamSet = StreamSet(0);

    /// The stream at `index` of the table; all from 63 on share the last bit.
    pub(crate) fn one(index: usize) -> Self {
        StreamSet(1 << index.min(63))
    }

    fn without(self, other: StreamSet) -> StreamSet {
        StreamSet(self.0 & !other.0)
    }

    fn contains(self, index: usize) -> bool {
        self.0 & StreamSet::one(index).0 != 0
    }
}

impl BitOr for StreamSet {
    type Output = StreamSet;

    fn bitor(self, other: StreamSet) -> StreamSet {
        StreamSet(self.0 | other.0)
    }
}

/// The streams that an arena has met, in the order of first use.
#[derive(Debug)]
pub(crate) struct StreamTable<B: Backend> {
    streams: Vec<B::Stream>,
}

impl<B: Backend> StreamTable<B> {
    pub(crate) fn new() -> Self {
        Self {
            streams: Vec::new(),
        }
    }

    /// The set of this one stream, which is noted at its first use.
    pub(crate) fn note(&mut self, stream: &B::Stream) -> StreamSet {
        let index = self
            .streams
            .iter()
            .position(|known| B::same_stream(known, stream))
            .unwrap_or_else(|| {
                self.streams.push(stream.clone());
                self.streams.len() - 1
            });
        StreamSet::one(index)
    }

    /// Makes `stream` wait for the work that the others of `set` hold now.
    pub(crate) fn wait(&mut self, stream: &B::Stream, set: StreamSet) -> Result<()> {
        if set == StreamSet::EMPTY {
            return Ok(());
        }
        let own = self.note(stream);
        let others = if own == StreamSet::one(63) {
            set
        } else {
            set.without(own)
        };
        if others == StreamSet::EMPTY {
            return Ok(());
        }
        for (index, other) in self.streams.iter().enumerate() {
            if others.contains(index) && !B::same_stream(other, stream) {
                B::wait_stream(stream, other)?;
            }
        }
        Ok(())
    }

    /// All streams met so far.
    pub(crate) fn all(&self) -> Vec<B::Stream> {
        self.streams.clone()
    }
}
