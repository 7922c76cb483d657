//! The layers that communicate. Each says once, by its annotation, whose memory its collective
//! works on.

use std::rc::Rc;

use symm_core::{Buf, Group, GroupTag, ReduceOp, Result, SymmBuf, symmetric};

use super::checkpoint::{Loader, of_block};
use super::inputs::Inputs;
use super::kernels::{Compute, Kernels, Matrix, Shape};
use super::options::Model;
use super::rank::Rank;
use super::{Cp, Tp};

/// What an operation allocated in a scope of the group, as a buffer of the group.
fn of_group<G: GroupTag, B: Compute>(buf: Buf<f32, B>) -> Result<SymmBuf<f32, G, B>> {
    buf.downcast().map_err(|(_, error)| error)
}

/// A linear layer with the rows of its weight split over `Tp`: each rank has a partial sum of every
/// output.
pub(super) struct RowParallel<B: Compute> {
    rank: Rc<Rank<B>>,
    tp: Group<Tp, B>,
    weight: Matrix<B>,
}

impl<B: Compute> RowParallel<B> {
    pub(super) fn load(rank: &Rc<Rank<B>>, loader: &Loader<'_, B>, name: &str) -> Result<Self> {
        Ok(Self {
            rank: Rc::clone(rank),
            tp: rank.tp.clone(),
            weight: loader.rows(name)?,
        })
    }

    /// `matmul` knows nothing of groups. The scope makes what it allocates symmetric memory of
    /// `tp`, where NCCL's fast kernels work.
    #[symmetric(group = self.tp)]
    pub(super) fn forward(&self, x: &Buf<f32, B>) -> Result<SymmBuf<f32, Tp, B>> {
        self.rank.entered::<Tp>();
        let mut sums = of_group(self.rank.kernels.matmul(x, &self.weight)?)?;
        let path = self.tp.all_reduce_in_place(&mut sums, ReduceOp::Sum)?;
        self.rank.launched::<Tp>("all_reduce", path)?;
        Ok(sums)
    }
}

/// A linear layer with the columns of its weight split over `Tp`, whose parts of the output all
/// ranks gather.
pub(super) struct GatheredColumns<B: Compute> {
    rank: Rc<Rank<B>>,
    tp: Group<Tp, B>,
    weight: Matrix<B>,
}

impl<B: Compute> GatheredColumns<B> {
    pub(super) fn load(rank: &Rc<Rank<B>>, loader: &Loader<'_, B>, name: &str) -> Result<Self> {
        Ok(Self {
            rank: Rc::clone(rank),
            tp: rank.tp.clone(),
            weight: loader.columns(&[name.into()])?,
        })
    }

    /// The parts of all ranks, one after another: `[tp][rows][columns of a part]`.
    #[symmetric(group = self.tp)]
    pub(super) fn forward(&self, x: &Buf<f32, B>) -> Result<SymmBuf<f32, Tp, B>> {
        self.rank.entered::<Tp>();
        let part = of_group(self.rank.kernels.matmul(x, &self.weight)?)?;
        let mut all = SymmBuf::empty(part.len() * self.tp.size())?;
        let path = self.tp.all_gather(&part, &mut all)?;
        self.rank.launched::<Tp>("all_gather", path)?;
        Ok(all)
    }

    /// Columns of one part.
    pub(super) fn columns(&self) -> usize {
        self.weight.columns
    }
}

/// Attention with the heads split over `Tp` and the context over `Cp`.
///
/// A rank of `Cp` keeps the keys and values of every `cp`-th position and attends to those alone.
/// What the ranks then gather is not the cache, which grows, but `head_dim + 2` numbers a head,
/// from which the attention over all positions follows (as in flash decoding).
pub(super) struct Attention<B: Compute> {
    rank: Rc<Rank<B>>,
    cp: Group<Cp, B>,
    qkv: Matrix<B>,
    out: RowParallel<B>,
    cache: Buf<f32, B>,
    shape: Shape,
}

impl<B: Compute> Attention<B> {
    /// With room for `context` positions of `batch` sequences.
    pub(super) fn load(
        rank: &Rc<Rank<B>>,
        loader: &Loader<'_, B>,
        model: &Model,
        layer: usize,
        batch: usize,
        context: usize,
    ) -> Result<Self> {
        let (tp, cp) = (&rank.tp, &rank.cp);
        let slots = context.div_ceil(cp.size());
        let shape = Shape {
            heads: (model.heads / tp.size()) as u32,
            kv_heads: (model.kv_heads / tp.size()) as u32,
            head_dim: model.head_dim as u32,
            len: 0,
            stripe: cp.rank() as u32,
            stripes: cp.size() as u32,
            slots: slots as u32,
        };
        Ok(Self {
            rank: Rc::clone(rank),
            cp: cp.clone(),
            qkv: loader.columns(
                &["attention.q", "attention.k", "attention.v"].map(|name| of_block(layer, name)),
            )?,
            out: RowParallel::load(rank, loader, &of_block(layer, "attention.out"))?,
            cache: rank.world.pool().empty(batch * slots * shape.slot())?,
            shape,
        })
    }

    pub(super) fn forward(
        &mut self,
        x: &Buf<f32, B>,
        inputs: &Inputs<B>,
    ) -> Result<SymmBuf<f32, Tp, B>> {
        let shape = Shape {
            len: inputs.len as u32,
            ..self.shape
        };
        let mut qkv = self.rank.kernels.matmul(x, &self.qkv)?;
        self.rank
            .kernels
            .rotate(&mut qkv, &mut self.cache, inputs, shape)?;
        let records = self.gather(&qkv, inputs, shape)?;
        let attended = self.rank.kernels.merge(&records, shape)?;
        self.out.forward(&attended)
    }

    /// The attention of all ranks of `cp`, each to its own positions.
    #[symmetric(group = self.cp)]
    fn gather(
        &self,
        qkv: &Buf<f32, B>,
        inputs: &Inputs<B>,
        shape: Shape,
    ) -> Result<SymmBuf<f32, Cp, B>> {
        self.rank.entered::<Cp>();
        let kernels = &self.rank.kernels;
        let part = of_group(kernels.attend(qkv, &self.cache, inputs, shape)?)?;
        let mut all = SymmBuf::empty(part.len() * self.cp.size())?;
        // self.tp.all_gather(..) would be a type error.
        let path = self.cp.all_gather(&part, &mut all)?;
        self.rank.launched::<Cp>("all_gather", path)?;
        Ok(all)
    }
}

/// The gated MLP, its inner columns split over `Tp`.
pub(super) struct Mlp<B: Compute> {
    rank: Rc<Rank<B>>,
    gate_up: Matrix<B>,
    down: RowParallel<B>,
}

impl<B: Compute> Mlp<B> {
    pub(super) fn load(rank: &Rc<Rank<B>>, loader: &Loader<'_, B>, layer: usize) -> Result<Self> {
        Ok(Self {
            rank: Rc::clone(rank),
            gate_up: loader.columns(&["mlp.gate", "mlp.up"].map(|name| of_block(layer, name)))?,
            down: RowParallel::load(rank, loader, &of_block(layer, "mlp.down"))?,
        })
    }

    pub(super) fn forward(&self, x: &Buf<f32, B>) -> Result<SymmBuf<f32, Tp, B>> {
        let kernels = &self.rank.kernels;
        let gate_up = kernels.matmul(x, &self.gate_up)?;
        self.down
            .forward(&kernels.gate(&gate_up, self.gate_up.columns / 2)?)
    }
}
