//! The kernels on GPUs: cuBLAS for the matrices, `kernels.cu` for the rest. cudarc takes
//! symm-core's buffers as they are.

use std::ffi::c_void;
use std::fmt::Debug;
use std::sync::Arc;

use cudarc::cublas::sys::cublasOperation_t::CUBLAS_OP_N;
use cudarc::cublas::{self, CudaBlas, Gemm, GemmConfig};
use cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::{self, CompileOptions};
use symm_core::{Buf, Cuda, Error, Result, World};

use super::{Compute, Inputs, Kernels, MAX_HEAD_DIM, Matrix, Shape};

/// Threads of a block, where their number is free.
const THREADS: u32 = 256;

/// Bytes of cuBLAS's workspace: what NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

/// What is compiled and loaded for one rank.
#[derive(Debug)]
pub(crate) struct CudaKernels {
    rank: usize,
    stream: Arc<CudaStream>,
    blas: CudaBlas,
    /// Lent to cuBLAS, and dropped behind it: without it, a captured multiplication would allocate
    /// one at every launch.
    _workspace: CudaSlice<u8>,
    embed: CudaFunction,
    rms_norm: CudaFunction,
    rotate: CudaFunction,
    attend: CudaFunction,
    merge: CudaFunction,
    gate: CudaFunction,
    add: CudaFunction,
}

impl Compute for Cuda {
    type Kernels = CudaKernels;
}

// SAFETY: seven `u32` in C's layout, the struct of the same name in kernels.cu.
unsafe impl DeviceRepr for Shape {}

/// Whether the libraries are there that these kernels need beside symm-core's. To be asked first:
/// cudarc panics where they are not.
pub(crate) fn libraries() -> Result<()> {
    // SAFETY: loading them runs no more than their own initialisation.
    let (nvrtc, cublas) = unsafe {
        (
            nvrtc::sys::is_culib_present(),
            cublas::sys::is_culib_present(),
        )
    };
    let missing = [
        ("NVRTC (libnvrtc.so)", nvrtc),
        ("cuBLAS (libcublas.so)", cublas),
    ]
    .into_iter()
    .find(|(_, found)| !found);
    missing.map_or(Ok(()), |(name, _)| {
        let why = format!(
            "{name} was not found: add its folder to LD_LIBRARY_PATH, e.g. site-packages/nvidia/*/lib \
             of pip's wheels"
        );
        Err(Error::Unavailable { backend: "cuda", why: why.into() })
    })
}

impl CudaKernels {
    fn failed<E: Debug>(&self, call: &'static str) -> impl FnOnce(E) -> Error {
        failed(self.rank, call)
    }
}

fn failed<E: Debug>(rank: usize, call: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::Config {
        what: format!("rank {rank}: {call}: {error:?}").into(),
    }
}

/// cuBLAS on the stream, and the workspace that it uses.
fn blas(rank: usize, stream: &Arc<CudaStream>) -> Result<(CudaBlas, CudaSlice<u8>)> {
    let blas = CudaBlas::new(Arc::clone(stream)).map_err(failed(rank, "cublasCreate"))?;
    // SAFETY: cuBLAS writes to it before it reads.
    let workspace = unsafe { stream.alloc::<u8>(WORKSPACE) }.map_err(failed(rank, "cuMemAlloc"))?;
    let address = workspace.device_ptr(stream).0 as *mut c_void;
    // SAFETY: as many bytes of this stream's device, which live longer than the handle.
    let set = unsafe { cublas::sys::cublasSetWorkspace_v2(*blas.handle(), address, WORKSPACE) };
    set.result().map_err(failed(rank, "cublasSetWorkspace"))?;
    Ok((blas, workspace))
}

/// A grid of blocks.
fn grid(blocks: usize, by: u32, threads: u32) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (blocks as u32, by, 1),
        block_dim: (threads, 1, 1),
        shared_mem_bytes: 0,
    }
}

impl Kernels<Cuda> for CudaKernels {
    fn new(world: &World<Cuda>) -> Result<Self> {
        let (rank, stream) = (world.rank(), world.stream().clone());
        let options = CompileOptions {
            options: vec![format!("--define-macro=MAX_HEAD_DIM={MAX_HEAD_DIM}")],
            ..CompileOptions::default()
        };
        let ptx = nvrtc::compile_ptx_with_opts(include_str!("kernels.cu"), options)
            .map_err(failed(rank, "compiling kernels.cu"))?;
        let module = stream
            .context()
            .load_module(ptx)
            .map_err(failed(rank, "cuModuleLoadData"))?;
        let function = |name| module.load_function(name).map_err(failed(rank, name));
        let (blas, workspace) = blas(rank, &stream)?;
        Ok(Self {
            rank,
            blas,
            _workspace: workspace,
            embed: function("embed")?,
            rms_norm: function("rms_norm")?,
            rotate: function("rotate")?,
            attend: function("attend")?,
            merge: function("merge")?,
            gate: function("gate")?,
            add: function("add")?,
            stream,
        })
    }

    fn embed(&self, inputs: &Inputs<Cuda>, table: &Matrix<Cuda>) -> Result<Buf<f32, Cuda>> {
        let width = table.columns as u32;
        let mut x = Buf::empty(inputs.rows() * table.columns)?;
        let mut launch = self.stream.launch_builder(&self.embed);
        launch.arg(&inputs.tokens).arg(&table.data);
        launch.arg(&mut x).arg(&width);
        // SAFETY: the kernel's parameters; a block for each token, which are bytes, below the
        // table's 256 rows.
        unsafe { launch.launch(grid(inputs.rows(), 1, THREADS)) }.map_err(self.failed("embed"))?;
        Ok(x)
    }

    fn rms_norm(&self, x: &Buf<f32, Cuda>, scale: &Buf<f32, Cuda>) -> Result<Buf<f32, Cuda>> {
        let width = scale.len() as u32;
        let mut y = Buf::empty(x.len())?;
        let mut launch = self.stream.launch_builder(&self.rms_norm);
        launch.arg(x).arg(scale).arg(&mut y).arg(&width);
        // SAFETY: the kernel's parameters; a block for each row.
        unsafe { launch.launch(grid(x.len() / scale.len(), 1, THREADS)) }
            .map_err(self.failed("rms_norm"))?;
        Ok(y)
    }

    /// cuBLAS counts by columns, so a matrix of rows is its transpose there: `y' = weight' x'`,
    /// without a copy.
    fn matmul(&self, x: &Buf<f32, Cuda>, weight: &Matrix<Cuda>) -> Result<Buf<f32, Cuda>> {
        let (inner, columns, rows) = (
            weight.rows as i32,
            weight.columns as i32,
            x.len() / weight.rows,
        );
        let mut y = Buf::empty(rows * weight.columns)?;
        let (alpha, beta) = (1.0, 0.0);
        let shape = GemmConfig {
            transa: CUBLAS_OP_N,
            transb: CUBLAS_OP_N,
            m: columns,
            n: rows as i32,
            k: inner,
            alpha,
            lda: columns,
            ldb: inner,
            beta,
            ldc: columns,
        };
        // SAFETY: weight is inner x columns, x is rows x inner, y is rows x columns, all without
        // gaps.
        unsafe { self.blas.gemm(shape, &weight.data, x, &mut y) }
            .map_err(self.failed("cublasSgemm"))?;
        Ok(y)
    }

    fn rotate(
        &self,
        qkv: &mut Buf<f32, Cuda>,
        cache: &mut Buf<f32, Cuda>,
        inputs: &Inputs<Cuda>,
        shape: Shape,
    ) -> Result<()> {
        let blocks = grid(
            inputs.rows(),
            shape.heads + 2 * shape.kv_heads,
            shape.head_dim / 2,
        );
        let mut launch = self.stream.launch_builder(&self.rotate);
        launch
            .arg(qkv)
            .arg(cache)
            .arg(&inputs.positions)
            .arg(&shape);
        // SAFETY: the kernel's parameters; a block for each row and head, a thread for each pair of
        // it. The cache has a slot for each position.
        unsafe { launch.launch(blocks) }.map_err(self.failed("rotate"))?;
        Ok(())
    }

    fn attend(
        &self,
        qkv: &Buf<f32, Cuda>,
        cache: &Buf<f32, Cuda>,
        inputs: &Inputs<Cuda>,
        shape: Shape,
    ) -> Result<Buf<f32, Cuda>> {
        let rows = inputs.rows();
        let mut records = Buf::empty(rows * shape.heads as usize * shape.record())?;
        let blocks = LaunchConfig {
            shared_mem_bytes: THREADS / 32 * shape.record() as u32 * 4,
            ..grid(rows, shape.heads, THREADS)
        };
        let mut launch = self.stream.launch_builder(&self.attend);
        launch.arg(qkv).arg(cache).arg(&inputs.positions);
        launch.arg(&mut records).arg(&shape);
        // SAFETY: the kernel's parameters; a block for each row and head, with shared memory for a
        // record of each warp.
        unsafe { launch.launch(blocks) }.map_err(self.failed("attend"))?;
        Ok(records)
    }

    fn merge(&self, records: &Buf<f32, Cuda>, shape: Shape) -> Result<Buf<f32, Cuda>> {
        let heads = records.len() / shape.record() / shape.stripes as usize;
        let mut y = Buf::empty(heads * shape.head_dim as usize)?;
        let mut launch = self.stream.launch_builder(&self.merge);
        launch.arg(records).arg(&mut y).arg(&shape);
        // SAFETY: the kernel's parameters; a block for each row and head, a thread for each number
        // of it.
        unsafe { launch.launch(grid(heads, 1, shape.head_dim)) }.map_err(self.failed("merge"))?;
        Ok(y)
    }

    fn gate(&self, gate_up: &Buf<f32, Cuda>, width: usize) -> Result<Buf<f32, Cuda>> {
        let (rows, columns) = (gate_up.len() / (2 * width), width as u32);
        let mut y = Buf::empty(rows * width)?;
        let mut launch = self.stream.launch_builder(&self.gate);
        launch.arg(gate_up).arg(&mut y).arg(&columns);
        // SAFETY: the kernel's parameters; a block for each row.
        unsafe { launch.launch(grid(rows, 1, THREADS)) }.map_err(self.failed("gate"))?;
        Ok(y)
    }

    fn add(&self, x: &mut Buf<f32, Cuda>, y: &Buf<f32, Cuda>) -> Result<()> {
        let count = y.len() as u32;
        let mut launch = self.stream.launch_builder(&self.add);
        launch.arg(x).arg(y).arg(&count);
        // SAFETY: the kernel's parameters; the kernel goes no further than `count`, the length of
        // both.
        unsafe { launch.launch(grid(y.len().div_ceil(THREADS as usize), 1, THREADS)) }
            .map_err(self.failed("add"))?;
        Ok(())
    }
}
