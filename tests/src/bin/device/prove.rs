//! The kernels that NCCL enqueues, beside the paths that this crate reports.
//!
//! Each call runs, and is then captured without running, to read the names of its kernels from the
//! driver. A report of `Symmetric` without a symmetric kernel, or of `Plain` with one, is a
//! failure.

use std::cell::Cell;
use std::sync::Arc;

use symm_core::cuda::cudarc::driver::CudaStream;
use symm_core::cuda::kernel_names;
use symm_core::{
    Cuda, Element, Group, Path, Reason, ReduceOp, Result, SymmBuf, World, bf16, f16, groups, plain,
    plain_mut, symm,
};
use symm_tests::suite::{Case, Failure, Outcome};

groups! { pub(crate) Tp = "tp"; }

/// One case for each kind of call.
pub(crate) fn cases() -> Vec<Case<Cuda>> {
    macro_rules! proofs {
        ($($name:ident),* $(,)?) => {
            vec![$(Case::new(module_path!(), stringify!($name), 2, $name)),*]
        };
    }
    proofs![
        all_reduce,
        all_gather,
        reduce_scatter,
        in_place,
        small_floats,
        averages,
        one_operand_in_the_window,
        reductions_without_kernels,
        other_operations,
        batches,
        switched_off,
    ]
    .into_iter()
    .chain(crate::prove_graphs::cases())
    .collect()
}

/// What a call is expected to be.
pub(crate) const SYMMETRIC: bool = true;
pub(crate) const PLAIN: bool = false;

/// Bytes of one rank's operand.
pub(crate) const SIZES: [usize; 4] = [1 << 10, 64 << 10, 1 << 20, 16 << 20];

/// A group, and a stream on which everything happens: work of other streams cannot be waited for in
/// a capture.
pub(crate) struct Bench<'a> {
    pub(crate) tp: Group<Tp, Cuda>,
    pub(crate) stream: &'a Arc<CudaStream>,
    pub(crate) rank: usize,
}

impl Bench<'_> {
    pub(crate) fn with(world: &World<Cuda>, body: impl FnOnce(&Bench<'_>) -> Outcome) -> Outcome {
        let stream = world.stream();
        body(&Bench {
            tp: world.split(0, 0)?,
            stream,
            rank: world.rank(),
        })
    }

    /// Buffers of so many elements each.
    pub(crate) fn buffers<T: Element, const N: usize>(
        &self,
        lens: [usize; N],
    ) -> Result<[SymmBuf<T, Tp, Cuda>; N]> {
        symm!(group = self.tp, {
            let mut zeros = Vec::with_capacity(N);
            for len in lens {
                zeros.push(self.tp.zeros(len)?);
            }
            zeros
                .try_into()
                .unwrap_or_else(|_| unreachable!("as many buffers as lengths"))
        })
    }

    /// Runs the call, captures it, prints what was found, and returns the path.
    #[track_caller]
    fn prove<R: AsPath>(
        &self,
        what: &str,
        bytes: usize,
        mut call: impl FnMut() -> Result<R>,
    ) -> Result<Path, Failure> {
        call()?; // the first time NCCL connects the ranks
        let reported = Cell::new(None);
        let kernels = kernel_names(self.stream, || -> Result<()> {
            reported.set(Some(call()?.path()));
            Ok(())
        })?;
        let path = reported
            .take()
            .ok_or_else(|| Failure::new("the call was not captured"))?;
        if self.rank == 0 {
            println!(
                "      {what:<34} {bytes:>9} B  {path:<50} {}",
                kernels.join(" ")
            );
        }
        agree(what, bytes, path, &kernels).map(|()| path)
    }

    /// The same for a call of which it is known whether it is symmetric.
    #[track_caller]
    fn expect<R: AsPath>(
        &self,
        symmetric: bool,
        what: &str,
        bytes: usize,
        call: impl FnMut() -> Result<R>,
    ) -> Outcome {
        let path = self.prove(what, bytes, call)?;
        match symmetric == (path == Path::Symmetric) {
            true => Ok(()),
            false => Err(Failure::new(format!(
                "{what} of {bytes} bytes is {path}, which it must not be"
            ))),
        }
    }
}

/// Fails unless the kernels are those of the path that was reported.
#[track_caller]
pub(crate) fn agree(what: &str, bytes: usize, path: Path, kernels: &[String]) -> Outcome {
    // From 2.29.2 on NCCL has symmetric LL kernels that need no window, for small messages.
    let windowless = |name: &str| path == Path::Plain(Reason::Foreign) && name.contains("LL");
    let is_symmetric = |name: &String| {
        let symmetric =
            name.starts_with("ncclSymkDevKernel") || name.starts_with("ncclSymDevKernel");
        symmetric && !windowless(name)
    };
    match kernels.iter().any(is_symmetric) == (path == Path::Symmetric) {
        true => Ok(()),
        false => Err(Failure::new(format!(
            "{what} of {bytes} bytes reports `{path}`, but its kernels are {kernels:?}"
        ))),
    }
}

/// What a call returns, as one path.
trait AsPath {
    fn path(self) -> Path;
}

impl AsPath for Path {
    fn path(self) -> Path {
        self
    }
}

impl AsPath for Vec<Path> {
    /// Symmetric if any call is.
    fn path(self) -> Path {
        self.into_iter()
            .reduce(|a, b| if a == Path::Symmetric { a } else { b })
            .unwrap_or(Path::Plain(Reason::Empty))
    }
}

fn all_reduce(world: &World<Cuda>) -> Outcome {
    Bench::with(world, |bench| {
        for bytes in SIZES {
            let [src, mut dst] = bench.buffers::<f32, 2>([bytes / 4; 2])?;
            bench.expect(SYMMETRIC, "all_reduce", bytes, || {
                bench.tp.all_reduce(&src, &mut dst, ReduceOp::Sum)
            })?;
            let (src, mut dst) = (
                world.pool().zeros::<f32>(bytes / 4)?,
                world.pool().zeros::<f32>(bytes / 4)?,
            );
            bench.expect(PLAIN, "all_reduce, plain", bytes, || {
                bench
                    .tp
                    .all_reduce(plain(&src), plain_mut(&mut dst), ReduceOp::Sum)
            })?;
        }
        Ok(())
    })
}

fn all_gather(world: &World<Cuda>) -> Outcome {
    Bench::with(world, |bench| {
        let ranks = bench.tp.size();
        for bytes in SIZES {
            let [src, mut dst] = bench.buffers::<f32, 2>([bytes / 4, bytes / 4 * ranks])?;
            bench.expect(SYMMETRIC, "all_gather", bytes, || {
                bench.tp.all_gather(&src, &mut dst)
            })?;
            let (src, mut dst) = (
                world.pool().zeros::<f32>(bytes / 4)?,
                world.pool().zeros::<f32>(bytes / 4 * ranks)?,
            );
            bench.expect(PLAIN, "all_gather, plain", bytes, || {
                bench.tp.all_gather(plain(&src), plain_mut(&mut dst))
            })?;
        }
        Ok(())
    })
}

fn reduce_scatter(world: &World<Cuda>) -> Outcome {
    Bench::with(world, |bench| {
        let ranks = bench.tp.size();
        for bytes in SIZES {
            let [src, mut dst] = bench.buffers::<f32, 2>([bytes / 4 * ranks, bytes / 4])?;
            bench.expect(SYMMETRIC, "reduce_scatter", bytes, || {
                bench.tp.reduce_scatter(&src, &mut dst, ReduceOp::Sum)
            })?;
            let (src, mut dst) = (
                world.pool().zeros::<f32>(bytes / 4 * ranks)?,
                world.pool().zeros::<f32>(bytes / 4)?,
            );
            bench.expect(PLAIN, "reduce_scatter, plain", bytes, || {
                bench
                    .tp
                    .reduce_scatter(plain(&src), plain_mut(&mut dst), ReduceOp::Sum)
            })?;
        }
        Ok(())
    })
}

fn in_place(world: &World<Cuda>) -> Outcome {
    Bench::with(world, |bench| {
        for bytes in SIZES {
            let [mut x] = bench.buffers::<f32, 1>([bytes / 4])?;
            bench.expect(SYMMETRIC, "all_reduce_in_place", bytes, || {
                bench.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)
            })?;
            bench.expect(SYMMETRIC, "all_gather_in_place", bytes, || {
                bench.tp.all_gather_in_place(&mut x)
            })?;
            bench.expect(SYMMETRIC, "reduce_scatter_in_place", bytes, || {
                bench
                    .tp
                    .reduce_scatter_in_place(&mut x, ReduceOp::Sum)
                    .map(|(_, path)| path)
            })?;
        }
        Ok(())
    })
}

fn small_floats(world: &World<Cuda>) -> Outcome {
    fn of_type<T: Element>(bench: &Bench<'_>, name: &str) -> Outcome {
        for bytes in SIZES {
            let len = bytes / size_of::<T>();
            let [mut x, mut part] = bench.buffers::<T, 2>([len, len / bench.tp.size()])?;
            bench.expect(SYMMETRIC, &format!("all_reduce of {name}"), bytes, || {
                bench.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)
            })?;
            bench.expect(
                SYMMETRIC,
                &format!("reduce_scatter of {name}"),
                bytes,
                || bench.tp.reduce_scatter(&x, &mut part, ReduceOp::Sum),
            )?;
            bench.expect(SYMMETRIC, &format!("all_gather of {name}"), bytes, || {
                bench.tp.all_gather(&part, &mut x)
            })?;
        }
        Ok(())
    }
    Bench::with(world, |bench| {
        of_type::<f16>(bench, "f16")?;
        of_type::<bf16>(bench, "bf16")
    })
}

fn averages(world: &World<Cuda>) -> Outcome {
    fn of_type<T: Element>(bench: &Bench<'_>, name: &str) -> Outcome {
        for bytes in SIZES {
            let len = bytes / size_of::<T>();
            let [mut x, mut part] = bench.buffers::<T, 2>([len, len / bench.tp.size()])?;
            bench.expect(
                PLAIN,
                &format!("all_reduce, average of {name}"),
                bytes,
                || bench.tp.all_reduce_in_place(&mut x, ReduceOp::Avg),
            )?;
            // Symmetric or not by NCCL's version.
            bench.prove(&format!("reduce_scatter, average of {name}"), bytes, || {
                bench.tp.reduce_scatter(&x, &mut part, ReduceOp::Avg)
            })?;
        }
        Ok(())
    }
    Bench::with(world, |bench| {
        of_type::<f32>(bench, "f32")?;
        of_type::<bf16>(bench, "bf16")
    })
}

fn one_operand_in_the_window(world: &World<Cuda>) -> Outcome {
    Bench::with(world, |bench| {
        let ranks = bench.tp.size();
        for bytes in SIZES {
            let [mut whole, mut x] = bench.buffers::<f32, 2>([bytes / 4 * ranks, bytes / 4])?;
            let mut part = world.pool().zeros::<f32>(bytes / 4)?;
            // Symmetric or not by NCCL's version; the report has to be right in either.
            bench.prove("all_gather from plain", bytes, || {
                bench.tp.all_gather(plain(&part), &mut whole)
            })?;
            bench.prove("reduce_scatter to plain", bytes, || {
                bench
                    .tp
                    .reduce_scatter(&whole, plain_mut(&mut part), ReduceOp::Sum)
            })?;
            bench.expect(PLAIN, "all_reduce from plain", bytes, || {
                bench.tp.all_reduce(plain(&part), &mut x, ReduceOp::Sum)
            })?;
            bench.expect(PLAIN, "all_reduce to plain", bytes, || {
                bench.tp.all_reduce(&x, plain_mut(&mut part), ReduceOp::Sum)
            })?;
        }
        Ok(())
    })
}

fn reductions_without_kernels(world: &World<Cuda>) -> Outcome {
    Bench::with(world, |bench| {
        for bytes in [SIZES[0], SIZES[2]] {
            let [mut x] = bench.buffers::<f32, 1>([bytes / 4])?;
            for op in [ReduceOp::Max, ReduceOp::Min, ReduceOp::Prod] {
                bench.expect(PLAIN, &format!("all_reduce, {op:?} of f32"), bytes, || {
                    bench.tp.all_reduce_in_place(&mut x, op)
                })?;
            }
            let [mut d] = bench.buffers::<f64, 1>([bytes / 8])?;
            bench.expect(PLAIN, "all_reduce of f64", bytes, || {
                bench.tp.all_reduce_in_place(&mut d, ReduceOp::Sum)
            })?;
            let [mut i] = bench.buffers::<i32, 1>([bytes / 4])?;
            bench.expect(PLAIN, "all_reduce of i32", bytes, || {
                bench.tp.all_reduce_in_place(&mut i, ReduceOp::Sum)
            })?;
            bench.expect(SYMMETRIC, "all_gather of i32", bytes, || {
                bench.tp.all_gather_in_place(&mut i)
            })?;
            bench.expect(SYMMETRIC, "all_gather of f64", bytes, || {
                bench.tp.all_gather_in_place(&mut d)
            })?;
        }
        Ok(())
    })
}

fn other_operations(world: &World<Cuda>) -> Outcome {
    Bench::with(world, |bench| {
        let (tp, ranks) = (&bench.tp, bench.tp.size());
        for bytes in [SIZES[0], SIZES[2]] {
            let len = bytes / 4;
            let [mut x, mut y, mut whole, mut other] =
                bench.buffers::<f32, 4>([len, len, len * ranks, len * ranks])?;
            bench.expect(PLAIN, "broadcast", bytes, || tp.broadcast(&x, &mut y, 0))?;
            bench.expect(PLAIN, "broadcast_in_place", bytes, || {
                tp.broadcast_in_place(&mut x, 0)
            })?;
            bench.expect(PLAIN, "reduce", bytes, || {
                tp.reduce(&x, &mut y, ReduceOp::Sum, 0)
            })?;
            bench.expect(PLAIN, "all_to_all", bytes, || {
                tp.all_to_all(&whole, &mut other)
            })?;
            bench.expect(PLAIN, "gather", bytes, || tp.gather(&x, &mut whole, 0))?;
            bench.expect(PLAIN, "scatter", bytes, || tp.scatter(&whole, &mut x, 0))?;
            let (next, last) = ((tp.rank() + 1) % ranks, (tp.rank() + ranks - 1) % ranks);
            bench.expect(PLAIN, "send and recv", bytes, || {
                let mut ring = tp.batch();
                ring.send(&x, next).recv(&mut y, last);
                ring.launch()
            })?;
        }
        Ok(())
    })
}

fn batches(world: &World<Cuda>) -> Outcome {
    Bench::with(world, |bench| {
        for bytes in [SIZES[0], SIZES[2]] {
            let [mut x, mut y] = bench.buffers::<f32, 2>([bytes / 4; 2])?;
            bench.expect(SYMMETRIC, "two all_reduces in a batch", bytes, || {
                let mut batch = bench.tp.batch();
                batch
                    .all_reduce_in_place(&mut x, ReduceOp::Sum)
                    .all_reduce_in_place(&mut y, ReduceOp::Sum);
                batch.launch()
            })?;
            bench.prove("a sum and an average in a batch", bytes, || {
                let mut batch = bench.tp.batch();
                batch
                    .all_reduce_in_place(&mut x, ReduceOp::Sum)
                    .all_reduce_in_place(&mut y, ReduceOp::Avg);
                batch.launch()
            })?;
        }
        Ok(())
    })
}

fn switched_off(world: &World<Cuda>) -> Outcome {
    Bench::with(world, |bench| {
        let mut x = symm!(group = bench.tp, when = false, {
            bench.tp.zeros::<f32>(SIZES[2] / 4)?
        })?;
        bench.expect(PLAIN, "all_reduce, switched off", SIZES[2], || {
            bench.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)
        })
    })
}
