//! The kernels as loops over slices. The innermost ones run over contiguous floats, which the
//! compiler vectorises.

use symm_core::{Buf, Host, Result, World, host, plain, plain_mut};

use super::{Compute, Inputs, Kernels, Matrix, Shape};

/// Nothing to prepare.
#[derive(Debug)]
pub(crate) struct HostKernels;

impl Compute for Host {
    type Kernels = HostKernels;
}

impl Kernels<Host> for HostKernels {
    fn new(_world: &World<Host>) -> Result<Self> {
        Ok(Self)
    }

    fn embed(&self, inputs: &Inputs<Host>, table: &Matrix<Host>) -> Result<Buf<f32, Host>> {
        let width = table.columns;
        let mut x = Buf::empty(inputs.rows() * width)?;
        host::launch(
            [plain(&inputs.tokens), plain(&table.data)],
            [plain_mut(&mut x)],
            move |[tokens, table], [x]| {
                for (x, token) in x.chunks_exact_mut(width).zip(tokens) {
                    x.copy_from_slice(&table[*token as usize * width..][..width]);
                }
            },
        )?;
        Ok(x)
    }

    fn rms_norm(&self, x: &Buf<f32, Host>, scale: &Buf<f32, Host>) -> Result<Buf<f32, Host>> {
        let mut y = Buf::empty(x.len())?;
        host::launch(
            [plain(x), plain(scale)],
            [plain_mut(&mut y)],
            |[x, scale], [y]| {
                for (x, y) in x
                    .chunks_exact(scale.len())
                    .zip(y.chunks_exact_mut(scale.len()))
                {
                    let root = (dot(x, x) / x.len() as f32 + 1e-5).sqrt();
                    for ((y, x), scale) in y.iter_mut().zip(x).zip(scale) {
                        *y = x / root * scale;
                    }
                }
            },
        )?;
        Ok(y)
    }

    fn matmul(&self, x: &Buf<f32, Host>, weight: &Matrix<Host>) -> Result<Buf<f32, Host>> {
        let &Matrix { rows, columns, .. } = weight;
        let mut y = Buf::empty(x.len() / rows * columns)?;
        host::launch(
            [plain(x), plain(&weight.data)],
            [plain_mut(&mut y)],
            move |[x, weight], [y]| matmul(x, weight, rows, columns, y),
        )?;
        Ok(y)
    }

    fn rotate(
        &self,
        qkv: &mut Buf<f32, Host>,
        cache: &mut Buf<f32, Host>,
        inputs: &Inputs<Host>,
        shape: Shape,
    ) -> Result<()> {
        host::launch(
            [plain(&inputs.positions)],
            [plain_mut(qkv), plain_mut(cache)],
            move |[positions], [qkv, cache]| rotate(qkv, cache, positions, shape),
        )
    }

    fn attend(
        &self,
        qkv: &Buf<f32, Host>,
        cache: &Buf<f32, Host>,
        inputs: &Inputs<Host>,
        shape: Shape,
    ) -> Result<Buf<f32, Host>> {
        let mut records = Buf::empty(inputs.rows() * shape.heads as usize * shape.record())?;
        host::launch(
            [plain(qkv), plain(cache), plain(&inputs.positions)],
            [plain_mut(&mut records)],
            move |[qkv, cache, positions], [records]| {
                attend(qkv, cache, positions, shape, records);
            },
        )?;
        Ok(records)
    }

    fn merge(&self, records: &Buf<f32, Host>, shape: Shape) -> Result<Buf<f32, Host>> {
        let heads = records.len() / shape.record() / shape.stripes as usize;
        let mut y = Buf::empty(heads * shape.head_dim as usize)?;
        host::launch(
            [plain(records)],
            [plain_mut(&mut y)],
            move |[records], [y]| merge(records, shape, y),
        )?;
        Ok(y)
    }

    fn gate(&self, gate_up: &Buf<f32, Host>, width: usize) -> Result<Buf<f32, Host>> {
        let mut y = Buf::empty(gate_up.len() / 2)?;
        host::launch(
            [plain(gate_up)],
            [plain_mut(&mut y)],
            move |[gate_up], [y]| {
                for (gate_up, y) in gate_up
                    .chunks_exact(2 * width)
                    .zip(y.chunks_exact_mut(width))
                {
                    let (gate, up) = gate_up.split_at(width);
                    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
                        *y = gate / (1.0 + (-gate).exp()) * up;
                    }
                }
            },
        )?;
        Ok(y)
    }

    fn add(&self, x: &mut Buf<f32, Host>, y: &Buf<f32, Host>) -> Result<()> {
        host::launch([plain(y)], [plain_mut(x)], |[y], [x]| add_scaled(x, 1.0, y))
    }
}

/// `y += scale * x`.
fn add_scaled(y: &mut [f32], scale: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += scale * x;
    }
}

/// In eight sums side by side: a single one could not be vectorised, for addition does not
/// associate.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// Rows of `x` that share one pass over the weight, which comes from memory; their results stay in
/// the cache.
const TILE: usize = 8;

fn matmul(x: &[f32], weight: &[f32], rows: usize, columns: usize, y: &mut [f32]) {
    y.fill(0.0);
    for (x, y) in x.chunks(TILE * rows).zip(y.chunks_mut(TILE * columns)) {
        for (at, weight) in weight.chunks_exact(columns).enumerate() {
            for (x, y) in x.chunks_exact(rows).zip(y.chunks_exact_mut(columns)) {
                add_scaled(y, x[at], weight);
            }
        }
    }
}

fn rotate(qkv: &mut [f32], cache: &mut [f32], positions: &[f32], shape: Shape) {
    let (dim, len, slots, stripes) = (
        shape.head_dim as usize,
        shape.len as usize,
        shape.slots as usize,
        shape.stripes as usize,
    );
    let rotated = ((shape.heads + shape.kv_heads) * shape.head_dim) as usize;
    for (row, (qkv, position)) in qkv
        .chunks_exact_mut(shape.width())
        .zip(positions)
        .enumerate()
    {
        let position = *position as usize;
        let angle = |pair: usize| position as f32 * 10_000f32.powf(-2.0 * pair as f32 / dim as f32);
        let turns: Vec<(f32, f32)> = (0..dim / 2).map(|pair| angle(pair).sin_cos()).collect();
        for head in qkv[..rotated].chunks_exact_mut(dim) {
            let (low, high) = head.split_at_mut(dim / 2);
            for ((a, b), (sin, cos)) in low.iter_mut().zip(high).zip(&turns) {
                (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
            }
        }
        if position % stripes == shape.stripe as usize {
            let slot = row / len * slots + position / stripes;
            cache[slot * shape.slot()..][..shape.slot()].copy_from_slice(&qkv[shape.queries()..]);
        }
    }
}

fn attend(qkv: &[f32], cache: &[f32], positions: &[f32], shape: Shape, records: &mut [f32]) {
    let (dim, len, slot) = (shape.head_dim as usize, shape.len as usize, shape.slot());
    let (stripe, stripes) = (shape.stripe as usize, shape.stripes as usize);
    let scale = (dim as f32).sqrt().recip();
    let mut scores = Vec::new();
    for (row, ((qkv, records), position)) in qkv
        .chunks_exact(shape.width())
        .zip(records.chunks_exact_mut(shape.heads as usize * shape.record()))
        .zip(positions)
        .enumerate()
    {
        // Its own position and those before it, as far as they are this rank's.
        let visible = (*position as usize + stripes - stripe) / stripes;
        let cache = &cache[row / len * shape.slots as usize * slot..][..visible * slot];
        for (head, (query, record)) in qkv
            .chunks_exact(dim)
            .zip(records.chunks_exact_mut(shape.record()))
            .enumerate()
        {
            let key = head / (shape.heads / shape.kv_heads) as usize * dim;
            let value = key + slot / 2;
            scores.clear();
            scores.extend(
                cache
                    .chunks_exact(slot)
                    .map(|entry| scale * dot(query, &entry[key..][..dim])),
            );
            // Finite also where nothing is visible, so that no difference of two of these is NaN.
            let peak = scores.iter().copied().fold(f32::MIN, f32::max);
            let (values, tail) = record.split_at_mut(dim);
            values.fill(0.0);
            let mut sum = 0.0;
            for (score, entry) in scores.iter().zip(cache.chunks_exact(slot)) {
                let weight = (score - peak).exp();
                add_scaled(values, weight, &entry[value..][..dim]);
                sum += weight;
            }
            tail.copy_from_slice(&[peak, sum]);
        }
    }
}

fn merge(records: &[f32], shape: Shape, y: &mut [f32]) {
    let (dim, record) = (shape.head_dim as usize, shape.record());
    let share = records.len() / shape.stripes as usize;
    for (head, y) in y.chunks_exact_mut(dim).enumerate() {
        let shares = || {
            records
                .chunks_exact(share)
                .map(|share| &share[head * record..][..record])
        };
        let peak = shares().map(|record| record[dim]).fold(f32::MIN, f32::max);
        y.fill(0.0);
        let mut sum = 0.0;
        for record in shares() {
            let weight = (record[dim] - peak).exp();
            add_scaled(y, weight, &record[..dim]);
            sum += weight * record[dim + 1];
        }
        y.iter_mut().for_each(|y| *y /= sum);
    }
}
