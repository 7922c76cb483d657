//! Symmetric buffers in work of cudarc's own: cuBLAS writes into one, a kernel reads and writes it,
//! copies fill it and read it, alone and in a captured graph.
//!
//! ```sh
//! cargo run --release --example cudarc_kernels                    # on GPUs if there are two or more
//! cargo run --release --example cudarc_kernels -- --backend host  # the same steps without a GPU
//! ```
//!
//! On GPUs it needs cuBLAS where the loader looks (`LD_LIBRARY_PATH`). The kernel is compiled by NVRTC
//! if that is found, else its PTX is loaded as it is.

use std::process::ExitCode;

use clap::Parser;
use symm_core::{
    Backend, Buf, GraphPool, Group, Host, Path, ReduceOp, Result, SymmBuf, World, groups, host,
    plain, plain_mut, symm,
};
use symm_examples::Start;

groups! {
    /// Over which the inner dimension is split: each rank has a part of every sum.
    pub Tp = "tp";
}

/// y = max(x w + bias, 0): `x` has a row for each token, `w` this rank's rows of the weight.
const ROWS: usize = 16;
const INNER: usize = 64;
const COLUMNS: usize = 128;

/// What the library of a backend does: everything here is its own, and takes our buffers.
trait Device: Backend {
    /// What is loaded once.
    type Kernels;

    fn kernels(world: &World<Self>) -> Result<Self::Kernels>;
    /// `y = x w`, by the device's BLAS.
    fn matmul(
        kernels: &Self::Kernels,
        x: &Buf<f32, Self>,
        w: &Buf<f32, Self>,
        y: &mut SymmBuf<f32, Tp, Self>,
    ) -> Result<()>;
    /// `y = max(y + bias, 0)`, by a kernel of our own.
    fn bias_relu(
        kernels: &Self::Kernels,
        y: &mut SymmBuf<f32, Tp, Self>,
        bias: &Buf<f32, Self>,
    ) -> Result<()>;
    /// Sets the first row to `row` and returns the whole, by the device's copies.
    fn copies(
        kernels: &Self::Kernels,
        y: &mut SymmBuf<f32, Tp, Self>,
        row: &[f32],
    ) -> Result<Vec<f32>>;
}

/// Whole numbers, so that sums are exact in any order.
fn number(seed: usize, at: usize) -> f32 {
    ((seed * 31 + at * 7) % 11) as f32 - 5.0
}

fn numbers(seed: usize, len: usize) -> Vec<f32> {
    (0..len).map(|at| number(seed, at)).collect()
}

/// What must come out, for the inputs of `round`.
fn expected(ranks: usize, round: usize) -> Vec<f32> {
    let y = |row: usize, column: usize| {
        let parts = (0..ranks).flat_map(|rank| (0..INNER).map(move |inner| (rank, inner)));
        let products = parts.map(|(rank, inner)| {
            number(round + rank, row * INNER + inner) * number(rank, inner * COLUMNS + column)
        });
        (products.sum::<f32>() + number(99, column)).max(0.0)
    };
    let rows = (0..ROWS).flat_map(|row| (0..COLUMNS).map(move |column| (row, column)));
    rows.map(|(row, column)| y(row, column)).collect()
}

fn rank<B: Device>(world: World<B>) -> Result<Path> {
    let tp: Group<Tp, B> = world.split(0, 0)?;
    let kernels = B::kernels(&world)?;
    let pool = world.pool();
    let me = tp.rank();
    let mut x = pool.from_slice(&numbers(me, ROWS * INNER))?;
    let w = pool.from_slice(&numbers(me, INNER * COLUMNS))?;
    let bias = pool.from_slice(&numbers(99, COLUMNS))?;

    // One layer: cuBLAS writes its part of the sums into the window, NCCL adds them there, the kernel
    // goes on with them there. Nothing is copied in between.
    let layer = |x: &Buf<f32, B>| -> Result<(SymmBuf<f32, Tp, B>, Path)> {
        let mut y = symm!(group = tp, { tp.empty(ROWS * COLUMNS)? })?;
        B::matmul(&kernels, x, &w, &mut y)?;
        let path = tp.all_reduce_in_place(&mut y, ReduceOp::Sum)?;
        B::bias_relu(&kernels, &mut y, &bias)?;
        Ok((y, path))
    };
    let (mut y, path) = layer(&x)?;
    assert_eq!(y.to_vec()?, expected(tp.size(), 0));

    let row = numbers(7, COLUMNS);
    let copied = B::copies(&kernels, &mut y, &row)?;
    assert_eq!(copied[..COLUMNS], row);
    assert_eq!(copied[COLUMNS..], expected(tp.size(), 0)[COLUMNS..]);

    // The same in a graph, which owns what it uses; each launch reads what `x` holds then.
    let graphs = GraphPool::new(pool);
    let mut step = graphs.capture(world.stream(), |_pass| layer(&x).map(|(y, _)| y))?;
    for round in 0..3 {
        x.copy_from_slice(&numbers(round + me, ROWS * INNER))?;
        step.launch()?;
        assert_eq!(step.output().to_vec()?, expected(tp.size(), round));
    }
    Ok(path)
}

/// On the host a kernel is a closure.
impl Device for Host {
    type Kernels = ();

    fn kernels(world: &World<Host>) -> Result<()> {
        if world.rank() == 0 {
            println!("{}: kernels are closures", world.device());
        }
        Ok(())
    }

    fn matmul(
        (): &(),
        x: &Buf<f32, Host>,
        w: &Buf<f32, Host>,
        y: &mut SymmBuf<f32, Tp, Host>,
    ) -> Result<()> {
        host::launch([plain(x), plain(w)], [plain_mut(y)], |[x, w], [y]| {
            for (y, x) in y.chunks_exact_mut(COLUMNS).zip(x.chunks_exact(INNER)) {
                y.fill(0.0);
                for (x, w) in x.iter().zip(w.chunks_exact(COLUMNS)) {
                    y.iter_mut().zip(w).for_each(|(y, w)| *y += x * w);
                }
            }
        })
    }

    fn bias_relu((): &(), y: &mut SymmBuf<f32, Tp, Host>, bias: &Buf<f32, Host>) -> Result<()> {
        host::launch([plain(bias)], [plain_mut(y)], |[bias], [y]| {
            for (at, y) in y.iter_mut().enumerate() {
                *y = (*y + bias[at % COLUMNS]).max(0.0);
            }
        })
    }

    fn copies((): &(), y: &mut SymmBuf<f32, Tp, Host>, row: &[f32]) -> Result<Vec<f32>> {
        y.view_mut(0..COLUMNS)?.copy_from_slice(row)?;
        y.to_vec()
    }
}

#[cfg(feature = "cuda")]
mod on_gpus {
    use std::ffi::c_void;
    use std::fmt::Debug;
    use std::sync::Arc;

    use cudarc::cublas::sys::cublasOperation_t::CUBLAS_OP_N;
    use cudarc::cublas::{self, CudaBlas, Gemm, GemmConfig};
    use cudarc::driver::{
        CudaFunction, CudaSlice, CudaStream, DevicePtr, LaunchConfig, PushKernelArg,
    };
    use cudarc::nvrtc::{self, Ptx};
    use symm_core::{Buf, Cuda, Error, Result, SymmBuf, World};

    use super::{COLUMNS, Device, INNER, ROWS, Tp};

    /// Bytes of cuBLAS's workspace: what NVIDIA recommends for Hopper.
    const WORKSPACE: usize = 32 << 20;

    pub(super) struct Kernels {
        stream: Arc<CudaStream>,
        blas: CudaBlas,
        /// Lent to cuBLAS, and dropped behind it: a captured multiplication would otherwise allocate
        /// one at every launch.
        _workspace: CudaSlice<u8>,
        bias_relu: CudaFunction,
    }

    /// A failure of cudarc's.
    fn failed<E: Debug>(call: &'static str) -> impl FnOnce(E) -> Error {
        move |error| Error::Config {
            what: format!("{call}: {error:?}").into(),
        }
    }

    /// The kernel, and where it comes from.
    fn ptx() -> Result<(Ptx, &'static str)> {
        // SAFETY: loading NVRTC runs no more than its own initialisation.
        match unsafe { nvrtc::sys::is_culib_present() } {
            true => nvrtc::compile_ptx(include_str!("bias_relu.cu"))
                .map(|ptx| (ptx, "compiled by NVRTC"))
                .map_err(failed("compiling bias_relu.cu")),
            false => {
                let ptx = Ptx::from_src(include_str!("bias_relu.ptx"));
                Ok((ptx, "PTX as it is, since NVRTC was not found"))
            }
        }
    }

    impl Device for Cuda {
        type Kernels = Kernels;

        fn kernels(world: &World<Cuda>) -> Result<Kernels> {
            // SAFETY: as for NVRTC. cudarc panics where the library is not there.
            if !unsafe { cublas::sys::is_culib_present() } {
                let why = "cuBLAS (libcublas.so) was not found: add its folder to LD_LIBRARY_PATH, e.g. \
                           site-packages/nvidia/cublas/lib of pip's wheels";
                return Err(Error::Unavailable {
                    backend: "cuda",
                    why: why.into(),
                });
            }
            let stream = world.stream().clone();
            let (ptx, origin) = ptx()?;
            if world.rank() == 0 {
                println!("{}: the kernel is {origin}", world.device());
            }
            let module = stream
                .context()
                .load_module(ptx)
                .map_err(failed("cuModuleLoadData"))?;
            let blas = CudaBlas::new(stream.clone()).map_err(failed("cublasCreate"))?;
            // SAFETY: cuBLAS writes to it before it reads.
            let workspace =
                unsafe { stream.alloc::<u8>(WORKSPACE) }.map_err(failed("cuMemAlloc"))?;
            let address = workspace.device_ptr(&stream).0 as *mut c_void;
            // SAFETY: as many bytes of this stream's device, which live longer than the handle.
            let set =
                unsafe { cublas::sys::cublasSetWorkspace_v2(*blas.handle(), address, WORKSPACE) };
            set.result().map_err(failed("cublasSetWorkspace"))?;
            Ok(Kernels {
                blas,
                _workspace: workspace,
                bias_relu: module
                    .load_function("bias_relu")
                    .map_err(failed("bias_relu"))?,
                stream,
            })
        }

        /// cuBLAS counts by columns, so a matrix of rows is its transpose there: `y' = w' x'`.
        fn matmul(
            kernels: &Kernels,
            x: &Buf<f32, Cuda>,
            w: &Buf<f32, Cuda>,
            y: &mut SymmBuf<f32, Tp, Cuda>,
        ) -> Result<()> {
            let [rows, inner, columns] = [ROWS, INNER, COLUMNS].map(|size| size as i32);
            let shape = GemmConfig {
                transa: CUBLAS_OP_N,
                transb: CUBLAS_OP_N,
                m: columns,
                n: rows,
                k: inner,
                alpha: 1.0,
                lda: columns,
                ldb: inner,
                beta: 0.0,
                ldc: columns,
            };
            // SAFETY: w is INNER x COLUMNS, x is ROWS x INNER, y is ROWS x COLUMNS, without gaps.
            unsafe { kernels.blas.gemm(shape, w, x, y) }.map_err(failed("cublasSgemm"))
        }

        fn bias_relu(
            kernels: &Kernels,
            y: &mut SymmBuf<f32, Tp, Cuda>,
            bias: &Buf<f32, Cuda>,
        ) -> Result<()> {
            let (count, columns) = (y.len() as u32, bias.len() as u32);
            let mut launch = kernels.stream.launch_builder(&kernels.bias_relu);
            launch.arg(y).arg(bias).arg(&count).arg(&columns);
            // SAFETY: the kernel's parameters; it goes no further than `count`, the length of y.
            unsafe { launch.launch(LaunchConfig::for_num_elems(count)) }
                .map(drop)
                .map_err(failed("bias_relu"))
        }

        fn copies(
            kernels: &Kernels,
            y: &mut SymmBuf<f32, Tp, Cuda>,
            row: &[f32],
        ) -> Result<Vec<f32>> {
            let stream = &kernels.stream;
            stream
                .memcpy_htod(row, &mut y.view_mut(0..COLUMNS)?)
                .map_err(failed("cuMemcpyHtoD"))?;
            let mut slice = stream
                .alloc_zeros::<f32>(y.len())
                .map_err(failed("cuMemAlloc"))?;
            stream
                .memcpy_dtod(&*y, &mut slice)
                .map_err(failed("cuMemcpyDtoD"))?;
            stream.clone_dtoh(&slice).map_err(failed("cuMemcpyDtoH"))
        }
    }
}

fn run(start: &Start) -> Result<Vec<Path>> {
    match start.on_gpus()? {
        #[cfg(feature = "cuda")]
        Some(ranks) => World::<symm_core::Cuda>::run(ranks, rank),
        _ => World::<Host>::run(start.on_host(), rank),
    }
}

fn main() -> ExitCode {
    match run(&Start::parse()) {
        Ok(paths) => {
            let (ranks, path) = (paths.len(), paths[0]);
            println!("{ranks} ranks: x w + bias is right, alone and in 3 launches of a graph");
            println!("all_reduce of {} bytes: {path}", ROWS * COLUMNS * 4);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
