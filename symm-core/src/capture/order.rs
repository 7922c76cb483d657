//! The order of one graph pool's work: launches and primes follow each other, since they share
//! memory.

use std::cell::RefCell;

use crate::backend::Backend;
use crate::error::Result;

/// Streams whose work so far comes before the pool's next launch or prime.
#[derive(Debug)]
pub(crate) struct Order<B: Backend>(RefCell<Vec<B::Stream>>);

impl<B: Backend> Order<B> {
    pub(crate) fn new() -> Self {
        Self(RefCell::default())
    }

    /// Puts what `stream` does next behind all that came before, and what comes later behind it.
    pub(crate) fn follow(&self, stream: &B::Stream) -> Result<()> {
        let mut earlier = self.0.borrow_mut();
        if let [only] = &earlier[..]
            && B::same_stream(only, stream)
        {
            return Ok(());
        }
        for other in earlier.iter() {
            if !B::same_stream(other, stream) {
                B::wait_stream(stream, other)?;
            }
        }
        *earlier = vec![stream.clone()];
        Ok(())
    }

    /// What comes next comes behind the work that is on `stream` by then.
    pub(crate) fn add(&self, stream: &B::Stream) {
        let mut earlier = self.0.borrow_mut();
        if !earlier.iter().any(|other| B::same_stream(other, stream)) {
            earlier.push(stream.clone());
        }
    }

    /// The streams that used the pool's memory last.
    pub(crate) fn streams(&self) -> Vec<B::Stream> {
        self.0.borrow().clone()
    }
}
