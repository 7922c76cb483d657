//! What changes from step to step, in device memory: written between launches, read by a captured
//! step at every launch.

use symm_core::{Backend, Buf, Pool, Result};

/// The token of a row and its position in its sequence.
pub(super) type Row = (u8, usize);

/// Rows on their way through the model, sequence by sequence.
#[derive(Debug)]
pub(crate) struct Inputs<B: Backend> {
    /// Each row's token. A float, which holds it exactly: a kernel of the host backend takes one
    /// type.
    pub(super) tokens: Buf<f32, B>,
    /// Each row's position, likewise.
    pub(super) positions: Buf<f32, B>,
    /// Rows of each sequence.
    pub(super) len: usize,
}

impl<B: Backend> Inputs<B> {
    /// Room for `len` rows of each of so many sequences.
    pub(super) fn new(pool: &Pool<B>, sequences: usize, len: usize) -> Result<Self> {
        Ok(Self {
            tokens: pool.zeros(sequences * len)?,
            positions: pool.zeros(sequences * len)?,
            len,
        })
    }

    pub(super) fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Enqueues what the next step reads. The last row is repeated as often as rows are missing: for
    /// sequences that have ended, whose cache nobody reads there.
    pub(super) fn write(&mut self, rows: &[Row]) -> Result<()> {
        let missing = self.rows().saturating_sub(rows.len());
        let padding = rows.last().into_iter().cycle().take(missing);
        let (tokens, positions): (Vec<f32>, Vec<f32>) = rows
            .iter()
            .chain(padding)
            .map(|(token, position)| (f32::from(*token), *position as f32))
            .unzip();
        self.tokens.copy_from_slice(&tokens)?;
        self.positions.copy_from_slice(&positions)
    }
}
