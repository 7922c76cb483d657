//! The all-reduce as an op of candle's.

use std::fmt::{self, Debug};
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, WithDType, bail};
use symm_core::{Backend, Cuda, Element, Group, GroupTag, Host, ReduceOp, SymmBuf, bf16, f16};

use crate::buffers::{self, Key};
use crate::failed;

/// The sum of all ranks' tensors, for one layer. `Send` and `Sync`: a field of the layer. Clones are
/// of the same layer, and share its buffers.
///
/// All ranks of the group call it in the same order with the same shapes and types: f32, f16, bf16
/// or f64, of which NCCL has symmetric kernels for the first three. Tensors are contiguous.
///
/// # Graphs
/// A call enqueues a copy, the collective and a copy, all on candle's stream, on memory that stays
/// where it is: it can be captured by [`GraphPool::capture`](symm_core::GraphPool::capture). Run each
/// shape once before, so that the buffer is there; candle, too, loads its kernels when they are first
/// used.
pub struct SumAllReduce<G: GroupTag, B: Backend> {
    group: Group<G, B>,
    layer: u64,
}

impl<G: GroupTag, B: Backend> SumAllReduce<G, B> {
    /// For one layer.
    pub fn new(group: &Group<G, B>) -> Self {
        static LAYERS: AtomicU64 = AtomicU64::new(0);
        Self {
            group: group.clone(),
            layer: LAYERS.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// The group whose ranks sum.
    pub fn group(&self) -> &Group<G, B> {
        &self.group
    }

    /// Whether there is nothing to sum.
    pub fn is_noop(&self) -> bool {
        self.group.size() == 1
    }

    /// Works on the layer's buffer for `len` elements.
    fn through<T: Element, R>(
        &self,
        dtype: DType,
        len: usize,
        work: impl FnOnce(&mut SymmBuf<T, G, B>) -> symm_core::Result<R>,
    ) -> Result<R> {
        let key = Key {
            group: self.group.id(),
            layer: self.layer,
            dtype,
            bucket: len.next_power_of_two(),
        };
        buffers::with(&self.group, key, work).map_err(failed)
    }
}

impl<G: GroupTag, B: Backend> SumAllReduce<G, B>
where
    Self: CustomOp1,
{
    /// The sum of all ranks' `xs`.
    ///
    /// # Errors
    /// Those of symm-core, wrapped; a tensor of another device or type, or one that is not contiguous.
    pub fn sum_all_reduce(&self, xs: &Tensor) -> Result<Tensor> {
        match self.is_noop() || xs.elem_count() == 0 {
            true => Ok(xs.clone()),
            false => xs.apply_op1_no_bwd(self),
        }
    }
}

/// Where a tensor's elements lie in its storage.
fn range(layout: &Layout) -> Result<std::ops::Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => bail!("SumAllReduce: the tensor has to be contiguous: call contiguous() before"),
    }
}

/// Calls a generic function with the type that a tensor has.
macro_rules! by_type {
    ($dtype:expr, $function:ident($($argument:expr),*)) => {
        match $dtype {
            DType::F32 => $function::<f32, _>($($argument),*),
            DType::F16 => $function::<f16, _>($($argument),*),
            DType::BF16 => $function::<bf16, _>($($argument),*),
            DType::F64 => $function::<f64, _>($($argument),*),
            other => bail!("SumAllReduce sums f32, f16, bf16 and f64, not {other:?}"),
        }
    };
}

/// On the host backend, for tests of layers: the device's memory is not candle's, so elements go
/// through the processor.
fn on_host<T: WithDType + Element, G: GroupTag>(
    op: &SumAllReduce<G, Host>,
    storage: &CpuStorage,
    layout: &Layout,
) -> Result<(CpuStorage, Shape)> {
    let partial = &T::cpu_storage_as_slice(storage)?[range(layout)?];
    let sum = op.through::<T, _>(<T as WithDType>::DTYPE, partial.len(), |buffer| {
        let part = 0..partial.len();
        buffer.view_mut(part.clone())?.copy_from_slice(partial)?;
        let group = op.group();
        group.all_reduce_in_place(buffer.view_mut(part.clone())?, ReduceOp::Sum)?;
        buffer.view(part)?.to_vec()
    })?;
    Ok((T::to_cpu_storage_owned(sum), layout.shape().clone()))
}

impl<G: GroupTag> CustomOp1 for SumAllReduce<G, Host> {
    fn name(&self) -> &'static str {
        "SumAllReduce"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        by_type!(dtype(storage), on_host(self, storage, layout))
    }
}

fn dtype(storage: &CpuStorage) -> DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}

impl<G: GroupTag> CustomOp1 for SumAllReduce<G, Cuda> {
    fn name(&self) -> &'static str {
        "SumAllReduce"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("SumAllReduce: the tensor is on the CPU, but its group is of GPUs")
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        storage: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        use candle_core::backend::BackendStorage;
        by_type!(storage.dtype(), on_cuda(self, storage, layout))
    }
}

/// On GPUs: copy in, sum, copy out, in the order of candle's stream.
#[cfg(feature = "cuda")]
fn on_cuda<T, G: GroupTag>(
    op: &SumAllReduce<G, Cuda>,
    storage: &candle_core::CudaStorage,
    layout: &Layout,
) -> Result<(candle_core::CudaStorage, Shape)>
where
    T: WithDType + Element + candle_core::cuda::CudaDType,
    T: candle_core::cuda::cudarc::driver::DeviceRepr,
{
    use candle_core::backend::BackendStorage;

    let (device, range) = (storage.device().clone(), range(layout)?);
    let (len, partial) = (range.len(), storage.as_cuda_slice::<T>()?.slice(range));
    // SAFETY: all of it is written by the copy below, before anything reads it.
    let mut sum = unsafe { device.alloc::<T>(len) }?;
    let copied = |error| symm_core::Error::Config {
        what: format!("SumAllReduce: a copy: {error:?}").into(),
    };
    op.through::<T, _>(<T as WithDType>::DTYPE, len, |buffer| {
        let stream = device.cuda_stream();
        let mut part = buffer.view_mut(0..len)?;
        stream.memcpy_dtod(&partial, &mut part).map_err(copied)?;
        op.group().all_reduce_in_place(part, ReduceOp::Sum)?;
        stream
            .memcpy_dtod(&buffer.view(0..len)?, &mut sum)
            .map_err(copied)
    })?;
    let sum = candle_core::CudaStorage::wrap_cuda_slice(sum, device);
    Ok((sum, layout.shape().clone()))
}

impl<G: GroupTag, B: Backend> Clone for SumAllReduce<G, B> {
    fn clone(&self) -> Self {
        Self {
            group: self.group.clone(),
            layer: self.layer,
        }
    }
}

impl<G: GroupTag, B: Backend> Debug for SumAllReduce<G, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SumAllReduce")
            .field("group", &self.group)
            .field("layer", &self.layer)
            .finish()
    }
}
