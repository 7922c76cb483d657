//! What the model needs of a device beside memory and collectives, for both backends.

#[cfg(feature = "cuda")]
pub(super) mod cuda;
mod host;

use symm_core::{Backend, Buf, Result, World};

use super::inputs::Inputs;

/// The largest head that the kernels take.
pub(super) const MAX_HEAD_DIM: usize = 256;

/// A backend that can run the model.
pub(crate) trait Compute: Backend {
    /// Its kernels, made once for each rank.
    type Kernels: Kernels<Self>;
}

/// A matrix in row-major order.
#[derive(Debug)]
pub(crate) struct Matrix<B: Backend> {
    pub(crate) data: Buf<f32, B>,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

/// The operations of the model, in stream order. Activations are rows, one for each token.
///
/// They allocate what they return with [`Buf::empty`] and know nothing of groups: inside a scope
/// their results are symmetric memory of its group. Nor do they know of captures: what changes from
/// step to step they read from device memory, so that a graph reads it at every launch. A graph
/// keeps them, because it launches their modules' kernels.
pub(crate) trait Kernels<B: Backend>: Sized + Send + Sync + 'static {
    fn new(world: &World<B>) -> Result<Self>;

    /// The rows of `table` that the tokens name.
    fn embed(&self, inputs: &Inputs<B>, table: &Matrix<B>) -> Result<Buf<f32, B>>;

    /// `x` with rows of mean square 1, times `scale`.
    fn rms_norm(&self, x: &Buf<f32, B>, scale: &Buf<f32, B>) -> Result<Buf<f32, B>>;

    /// `x` times `weight`.
    fn matmul(&self, x: &Buf<f32, B>, weight: &Matrix<B>) -> Result<Buf<f32, B>>;

    /// Rotates queries and keys by their positions, and stores the keys and values of this rank's
    /// positions.
    fn rotate(
        &self,
        qkv: &mut Buf<f32, B>,
        cache: &mut Buf<f32, B>,
        inputs: &Inputs<B>,
        shape: Shape,
    ) -> Result<()>;

    /// Attention over the positions in `cache` as far as each row sees them: for each row and head a
    /// record of [`Shape::record`] numbers, the weighted values and, last, the largest score and the
    /// sum of the weights relative to it.
    fn attend(
        &self,
        qkv: &Buf<f32, B>,
        cache: &Buf<f32, B>,
        inputs: &Inputs<B>,
        shape: Shape,
    ) -> Result<Buf<f32, B>>;

    /// The attention over all positions, from the records of `stripes` ranks one after another.
    fn merge(&self, records: &Buf<f32, B>, shape: Shape) -> Result<Buf<f32, B>>;

    /// `silu(gate) * up`, where each row is `gate` and then `up`.
    fn gate(&self, gate_up: &Buf<f32, B>, width: usize) -> Result<Buf<f32, B>>;

    /// `x += y`.
    fn add(&self, x: &mut Buf<f32, B>, y: &Buf<f32, B>) -> Result<()>;
}

/// One rank's part of one attention: its heads, the tokens at hand, and its stripe of the context.
/// Kernels on GPUs take it as it is.
///
/// The context is dealt out like cards: position `p` lies with rank `p % stripes`, in slot `p /
/// stripes` of its cache, which is `[batch][slots][keys of all heads, values of all heads]`. So all
/// caches grow evenly, and the work with them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
    pub(crate) head_dim: u32,
    /// Rows of each sequence.
    pub(crate) len: u32,
    pub(crate) stripe: u32,
    pub(crate) stripes: u32,
    pub(crate) slots: u32,
}

impl Shape {
    /// Numbers in a row of queries, keys and values.
    pub(crate) fn width(&self) -> usize {
        self.queries() + self.slot()
    }

    /// Numbers in the queries of a row, and in the attention's output.
    pub(crate) fn queries(&self) -> usize {
        (self.heads * self.head_dim) as usize
    }

    /// Numbers in a slot of the cache.
    pub(crate) fn slot(&self) -> usize {
        (2 * self.kv_heads * self.head_dim) as usize
    }

    /// Numbers in a record of [`Kernels::attend`].
    pub(crate) fn record(&self) -> usize {
        self.head_dim as usize + 2
    }
}
