//! The decoder: tokens in, logits out, both in device memory.

use std::rc::Rc;

use symm_core::{Buf, Result, SymmBuf};

use super::Tp;
use super::checkpoint::{Loader, of_block};
use super::inputs::Inputs;
use super::kernels::{Compute, Kernels, Matrix};
use super::layers::{Attention, GatheredColumns, Mlp};
use super::options::{Model, VOCABULARY};
use super::rank::Rank;

/// Logits as the ranks gathered them: `[tp][rows][columns of a part]`.
pub(super) type Logits<B> = SymmBuf<f32, Tp, B>;

/// One rank's part of the model, with its part of the KV cache.
pub(super) struct Decoder<B: Compute> {
    rank: Rc<Rank<B>>,
    embedding: Matrix<B>,
    blocks: Vec<Block<B>>,
    norm: Buf<f32, B>,
    head: GatheredColumns<B>,
}

struct Block<B: Compute> {
    attention_norm: Buf<f32, B>,
    attention: Attention<B>,
    mlp_norm: Buf<f32, B>,
    mlp: Mlp<B>,
}

impl<B: Compute> Decoder<B> {
    /// With room for `context` positions of `batch` sequences.
    pub(super) fn load(
        rank: &Rc<Rank<B>>,
        loader: &Loader<'_, B>,
        model: &Model,
        batch: usize,
        context: usize,
    ) -> Result<Self> {
        let block = |layer| {
            Ok(Block {
                attention_norm: loader.whole(&of_block(layer, "attention.norm"))?,
                attention: Attention::load(rank, loader, model, layer, batch, context)?,
                mlp_norm: loader.whole(&of_block(layer, "mlp.norm"))?,
                mlp: Mlp::load(rank, loader, layer)?,
            })
        };
        Ok(Self {
            embedding: Matrix {
                data: loader.whole("embedding")?,
                rows: VOCABULARY,
                columns: model.hidden,
            },
            blocks: (0..model.layers).map(block).collect::<Result<_>>()?,
            norm: loader.whole("norm")?,
            head: GatheredColumns::load(rank, loader, "head")?,
            rank: Rc::clone(rank),
        })
    }

    /// The logits of each row, whose keys and values go to the cache. Copies nothing from or to the
    /// host, so that it can be captured.
    pub(super) fn forward(&mut self, inputs: &Inputs<B>) -> Result<Logits<B>> {
        let kernels = &self.rank.kernels;
        let mut x = kernels.embed(inputs, &self.embedding)?;
        for block in &mut self.blocks {
            let attended = block
                .attention
                .forward(&kernels.rms_norm(&x, &block.attention_norm)?, inputs)?;
            kernels.add(&mut x, &attended)?;
            let fed = block.mlp.forward(&kernels.rms_norm(&x, &block.mlp_norm)?)?;
            kernels.add(&mut x, &fed)?;
        }
        self.head.forward(&kernels.rms_norm(&x, &self.norm)?)
    }

    /// Waits for the logits, and returns them as `[rows][vocabulary]`.
    pub(super) fn read(&self, logits: &Logits<B>) -> Result<Vec<f32>> {
        let rows = logits.len() / VOCABULARY;
        Ok(side_by_side(&logits.to_vec()?, rows, self.head.columns()))
    }
}

/// `[parts][rows][columns]` as `[rows][parts][columns]`.
fn side_by_side(parts: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let row = |row| {
        parts
            .chunks_exact(rows * columns)
            .flat_map(move |part| &part[row * columns..][..columns])
    };
    (0..rows).flat_map(row).copied().collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_of_all_parts_come_together() {
        assert_eq!(
            super::side_by_side(&[1.0, 2.0, 5.0, 6.0, 3.0, 4.0, 7.0, 8.0], 2, 2),
            [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
        );
    }
}
