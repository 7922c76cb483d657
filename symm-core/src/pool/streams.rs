//! Which streams may still use a free block, so that reuse on another stream waits for them and
//! never changes where a block goes.

use std::ops::BitOr;

use crate::backend::Backend;
use crate::error::Result;

/// Streams of one arena, as bits of its [`StreamTable`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StreamSet(u64);

impl StreamSet {
    pub(crate) const EMPTY: StreamSet = StreamSet(0);

    /// The stream at `index` of the table; all from 63 on share the last bit.
    #[inline]
    pub(crate) fn one(index: usize) -> Self {
        StreamSet(1 << index.min(63))
    }

    #[inline]
    fn without(self, other: StreamSet) -> StreamSet {
        StreamSet(self.0 & !other.0)
    }

    #[inline]
    fn contains(self, index: usize) -> bool {
        self.0 & StreamSet::one(index).0 != 0
    }
}

impl BitOr for StreamSet {
    type Output = StreamSet;

    #[inline]
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
    #[inline]
    pub(crate) fn note(&mut self, stream: &B::Stream) -> StreamSet {
        match self.streams.first() {
            Some(first) if B::same_stream(first, stream) => StreamSet::one(0),
            _ => self.note_other(stream),
        }
    }

    fn note_other(&mut self, stream: &B::Stream) -> StreamSet {
        let mut known = self.streams.iter();
        let index = known.position(|known| B::same_stream(known, stream));
        StreamSet::one(index.unwrap_or_else(|| {
            self.streams.push(stream.clone());
            self.streams.len() - 1
        }))
    }

    /// Makes `stream` wait for the work that the others of `set` hold now.
    #[inline]
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
        match others == StreamSet::EMPTY {
            true => Ok(()),
            false => self.wait_for(stream, others),
        }
    }

    fn wait_for(&self, stream: &B::Stream, others: StreamSet) -> Result<()> {
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
