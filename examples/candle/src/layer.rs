//! A linear layer whose input is split over the ranks.

use candle_core::{CustomOp1, Result, Tensor};
use symm_core::{Backend, Group, GroupTag};

use crate::SumAllReduce;

/// `y = x weight'`, of which each rank has a part of `x`'s and `weight`'s columns: its product is a
/// partial sum.
#[derive(Clone, Debug)]
pub struct RowParallel<G: GroupTag, B: Backend> {
    /// Transposed: this rank's inputs by all outputs.
    weight: Tensor,
    all_reduce: SumAllReduce<G, B>,
}

impl<G: GroupTag, B: Backend> RowParallel<G, B>
where
    SumAllReduce<G, B>: CustomOp1,
{
    /// Takes this rank's columns of the whole `weight`, which has a row for each output.
    ///
    /// # Errors
    /// Those of candle, as where the columns cannot be divided by the ranks.
    pub fn new(group: &Group<G, B>, weight: &Tensor) -> Result<Self> {
        let (rank, ranks) = (group.rank(), group.size());
        let columns = weight.dim(1)?;
        if columns % ranks != 0 {
            candle_core::bail!("{columns} columns cannot be split over {ranks} ranks");
        }
        let columns = columns / ranks;
        let part = weight.narrow(1, rank * columns, columns)?;
        Ok(Self {
            weight: part.t()?.contiguous()?,
            all_reduce: SumAllReduce::new(group),
        })
    }

    /// The layer's output, the same on all ranks, of this rank's part of the input.
    ///
    /// # Errors
    /// Those of candle and of [`SumAllReduce`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.all_reduce.sum_all_reduce(&x.matmul(&self.weight)?)
    }
}
