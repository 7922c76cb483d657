//! The weights: written once as a safetensors file, then read by each rank as far as its share
//! goes.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use memmap2::Mmap;
use safetensors::slice::TensorIndexer;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize_to_file};
use symm_core::{Buf, Error, Pool};

use super::kernels::{Compute, Matrix};
use super::options::{Model, VOCABULARY};
use super::rank::Rank;

/// The name of a block's tensor.
pub(super) fn of_block(layer: usize, tensor: &str) -> String {
    format!("blocks.{layer}.{tensor}")
}

impl Model {
    /// Names and shapes of all tensors. Matrices are [inputs, outputs].
    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, queries, keys, inner) = (
            self.hidden,
            self.heads * self.head_dim,
            self.kv_heads * self.head_dim,
            self.inner(),
        );
        let block = [
            ("attention.norm", vec![hidden]),
            ("attention.q", vec![hidden, queries]),
            ("attention.k", vec![hidden, keys]),
            ("attention.v", vec![hidden, keys]),
            ("attention.out", vec![queries, hidden]),
            ("mlp.norm", vec![hidden]),
            ("mlp.gate", vec![hidden, inner]),
            ("mlp.up", vec![hidden, inner]),
            ("mlp.down", vec![inner, hidden]),
        ];
        let blocks = (0..self.layers).flat_map(|layer| {
            block
                .clone()
                .map(|(name, shape)| (of_block(layer, name), shape))
        });
        let ends = [
            ("embedding", vec![VOCABULARY, hidden]),
            ("norm", vec![hidden]),
            ("head", vec![hidden, VOCABULARY]),
        ];
        blocks
            .chain(ends.map(|(name, shape)| (name.to_string(), shape)))
            .collect()
    }

    /// Number of weights.
    pub(super) fn parameters(&self) -> usize {
        self.tensors()
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum()
    }

    fn file_name(&self) -> String {
        let Self {
            layers,
            hidden,
            heads,
            kv_heads,
            seed,
            ..
        } = self;
        format!("symm-decoder-{layers}x{hidden}-{heads}q{kv_heads}kv-seed{seed}.safetensors")
    }
}

/// A file of weights that fits the model. Mapped, so that ranks touch only the pages of their
/// slices.
#[derive(Debug)]
pub(super) struct Checkpoint {
    map: Mmap,
}

impl Checkpoint {
    /// Opens the model's file in `folder`, writing it first if it is not there.
    pub(super) fn open(model: &Model, folder: &Path) -> Result<Self> {
        let path = folder.join(model.file_name());
        if !path.exists() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make the folder {}", folder.display()))?;
            write(model, &path)
                .with_context(|| format!("cannot write the weights to {}", path.display()))?;
        }
        let file = File::open(&path)
            .with_context(|| format!("cannot open the weights in {}", path.display()))?;
        // SAFETY: the file was moved to its place when it was complete, and nobody changes it
        // there.
        let map = unsafe { Mmap::map(&file) }?;
        let checkpoint = Self { map };
        checkpoint
            .check(model)
            .with_context(|| format!("{} does not fit the model: delete it", path.display()))?;
        Ok(checkpoint)
    }

    fn check(&self, model: &Model) -> Result<()> {
        let tensors = SafeTensors::deserialize(&self.map)?;
        for (name, shape) in model.tensors() {
            let tensor = tensors.tensor(&name)?;
            ensure!(
                tensor.dtype() == Dtype::F32 && tensor.shape() == shape,
                "{name} is {:?} {:?}, not F32 {shape:?}",
                tensor.dtype(),
                tensor.shape()
            );
        }
        Ok(())
    }

    /// What loads the rank's share.
    pub(super) fn loader<'a, B: Compute>(
        &'a self,
        rank: &'a Rank<B>,
    ) -> symm_core::Result<Loader<'a, B>> {
        let tensors = SafeTensors::deserialize(&self.map)
            .map_err(|error| broken("the weights' file", &error))?;
        Ok(Loader {
            tensors,
            pool: rank.world.pool(),
            part: rank.tp.rank(),
            parts: rank.tp.size(),
        })
    }
}

/// Loads tensors to one rank's device: whole, or this rank's share of the rows or columns.
pub(super) struct Loader<'a, B: Compute> {
    tensors: SafeTensors<'a>,
    pool: &'a Pool<B>,
    part: usize,
    parts: usize,
}

impl<B: Compute> Loader<'_, B> {
    /// A whole tensor, the same on all ranks.
    pub(super) fn whole(&self, name: &str) -> symm_core::Result<Buf<f32, B>> {
        self.pool.from_slice(&self.read(name, &[])?.1)
    }

    /// This rank's rows of a matrix.
    pub(super) fn rows(&self, name: &str) -> symm_core::Result<Matrix<B>> {
        let (shape, data) = self.read(name, &[self.share(0, name)?])?;
        self.matrix(shape[0], &data)
    }

    /// This rank's columns of several matrices, side by side: one matrix, for one multiplication.
    pub(super) fn columns(&self, names: &[String]) -> symm_core::Result<Matrix<B>> {
        let shares = names
            .iter()
            .map(|name| self.read(name, &[TensorIndexer::from(..), self.share(1, name)?]))
            .collect::<Result<Vec<_>, _>>()?;
        let rows = shares.first().map_or(0, |(shape, _)| shape[0]);
        let mut data = Vec::with_capacity(shares.iter().map(|(_, share)| share.len()).sum());
        for row in 0..rows {
            for (shape, share) in &shares {
                data.extend_from_slice(&share[row * shape[1]..][..shape[1]]);
            }
        }
        self.matrix(rows, &data)
    }

    fn matrix(&self, rows: usize, data: &[f32]) -> symm_core::Result<Matrix<B>> {
        Ok(Matrix {
            data: self.pool.from_slice(data)?,
            rows,
            columns: data.len() / rows,
        })
    }

    /// This rank's range of a dimension of the tensor.
    fn share(&self, dimension: usize, name: &str) -> symm_core::Result<TensorIndexer> {
        let size = self
            .tensors
            .tensor(name)
            .map_err(|error| broken(name, &error))?
            .shape()[dimension];
        Ok(TensorIndexer::from(
            self.part * size / self.parts..(self.part + 1) * size / self.parts,
        ))
    }

    /// The shape and the elements of a slice.
    fn read(
        &self,
        name: &str,
        slice: &[TensorIndexer],
    ) -> symm_core::Result<(Vec<usize>, Vec<f32>)> {
        let tensor = self
            .tensors
            .tensor(name)
            .map_err(|error| broken(name, &error))?;
        let pieces = tensor
            .sliced_data(slice)
            .map_err(|error| broken(name, &error))?;
        let shape = pieces.newshape();
        let floats = |piece: &[u8]| {
            piece
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| f32::from_le_bytes(bytes))
                .collect::<Vec<_>>()
        };
        Ok((shape, pieces.flat_map(floats).collect()))
    }
}

fn broken(what: &str, error: &dyn std::error::Error) -> Error {
    Error::Config {
        what: format!("{what}: {error}").into(),
    }
}

/// Writes seeded weights. The file appears under its name when it is complete, so that processes
/// may do this at once.
fn write(model: &Model, path: &Path) -> Result<()> {
    let mut noise = Noise(model.seed);
    let tensors: Vec<_> = model
        .tensors()
        .into_iter()
        .map(|(name, shape)| {
            let count = shape.iter().product();
            let values: Vec<f32> = match shape[..] {
                // What multiplies a norm is 1, or nearly so.
                [_] => (0..count).map(|_| 1.0 + 0.1 * noise.next()).collect(),
                // Keeps the variance of what goes through a matrix. The embedding is a lookup.
                _ if name == "embedding" => (0..count).map(|_| noise.next()).collect(),
                _ => (0..count)
                    .map(|_| noise.next() * (shape[0] as f32).sqrt().recip())
                    .collect(),
            };
            (
                name,
                shape,
                values
                    .into_iter()
                    .flat_map(f32::to_le_bytes)
                    .collect::<Vec<u8>>(),
            )
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, shape, data)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), data)?)))
        .collect::<Result<Vec<_>>>()?;
    Ok(serialize_to_file(views, None, path)?)
}

/// SplitMix64, as uniform numbers of variance 1.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        // 24 bits are exact in a float.
        let uniform = ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1u64 << 24) as f32;
        (2.0 * uniform - 1.0) * 3f32.sqrt()
    }
}
