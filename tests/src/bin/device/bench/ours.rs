//! The ways to run one collective that are compared: ours, and those beside it.

use std::time::Instant;

use symm_core::{
    Backend, Buf, Cuda, Group, Host, Path, ReduceOp, Result, SymmBuf, World, bf16, plain,
    plain_mut, symm,
};
use symm_tests::suite::{Failure, Outcome};

use super::Tp;
use super::options::Operation;
use super::start::Timed;

/// What one batch of calls took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// Microseconds of the device, each call.
    pub(super) device: f64,
    /// Nanoseconds of the host, each call.
    pub(super) host: f64,
}

/// The ways to run the same collective, seen from one rank. All ranks take the same steps.
pub(super) trait Ways {
    /// Their names; ours is the first.
    fn names(&self) -> &'static [&'static str];

    /// The way that runs what ours ran by this path, without this crate.
    fn like(&self, path: Path) -> usize;

    /// Makes the operands of a row, and runs each way alone: the first time CUDA loads kernels, for
    /// which it may wait for the device, with a lock that the other ranks need. Returns our path.
    fn prepare(&mut self, operation: Operation, len: usize) -> Outcome<Path>;

    /// Runs so many calls of one way.
    fn batch(&mut self, way: usize, calls: usize) -> Outcome<Sample>;

    /// Gives back what is not this crate's.
    fn end(self: Box<Self>) -> Outcome;
}

/// A backend, with what is beside this crate on it: on the host nothing but memory outside the
/// windows, so that the bench itself runs there.
pub(super) trait Measured: Backend {
    /// For operands of `most` bytes.
    fn ways<'w>(
        world: &'w World<Self>,
        tp: &'w Group<Tp, Self>,
        most: usize,
    ) -> Outcome<Box<dyn Ways + 'w>> {
        Ok(Box::new(Alone {
            ours: Ours::new(world, tp, most)?,
            operands: None,
        }))
    }

    /// The raw calls for memory of so many bytes with windows in two new groups, if there are any.
    fn raw_starts(_world: &World<Self>, _tp: &Group<Tp, Self>) -> Outcome<Option<Box<dyn Timed>>> {
        Ok(None)
    }
}

impl Measured for Host {}

#[cfg(not(feature = "cuda"))]
impl Measured for Cuda {}

#[cfg(feature = "cuda")]
impl Measured for Cuda {
    fn ways<'w>(
        world: &'w World<Self>,
        tp: &'w Group<Tp, Self>,
        most: usize,
    ) -> Outcome<Box<dyn Ways + 'w>> {
        Ok(Box::new(super::gpu::OnGpu::new(world, tp, most)?))
    }

    fn raw_starts(world: &World<Self>, tp: &Group<Tp, Self>) -> Outcome<Option<Box<dyn Timed>>> {
        Ok(Some(Box::new(super::gpu::RawStart::new(world, tp)?)))
    }
}

/// Our collectives on symmetric memory.
pub(super) struct Ours<'w, B: Backend> {
    pub(super) world: &'w World<B>,
    tp: &'w Group<Tp, B>,
    operation: Operation,
    operands: Option<(SymmBuf<bf16, Tp, B>, SymmBuf<bf16, Tp, B>)>,
}

impl<'w, B: Backend> Ours<'w, B> {
    pub(super) fn new(world: &'w World<B>, tp: &'w Group<Tp, B>, most: usize) -> Result<Self> {
        // One window for all rows. Each operand may be rounded up by a part for each rank.
        tp.reserve(2 * most as u64 + (1 << 20))?;
        Ok(Self {
            world,
            tp,
            operation: Operation::AllReduce,
            operands: None,
        })
    }

    pub(super) fn prepare(&mut self, operation: Operation, len: usize) -> Outcome<Path> {
        self.operands = None;
        let (send, recv) = operation.lengths(len, self.tp.size());
        let operands = symm!(group = self.tp, {
            (self.tp.zeros(send)?, self.tp.zeros(recv)?)
        })?;
        (self.operation, self.operands) = (operation, Some(operands));
        self.world.synchronize()?;
        let path = self.call()?;
        self.world.synchronize()?;
        Ok(path)
    }

    pub(super) fn call(&mut self) -> Outcome<Path> {
        let Some((src, dst)) = &mut self.operands else {
            return Err(Failure::new("a call before its operands were made"));
        };
        Ok(match self.operation {
            Operation::AllReduce => self.tp.all_reduce(&*src, dst, ReduceOp::Sum),
            Operation::AllGather => self.tp.all_gather(&*src, dst),
            Operation::ReduceScatter => self.tp.reduce_scatter(&*src, dst, ReduceOp::Sum),
        }?)
    }
}

/// Ours beside ours in ordinary memory, by the host's clock.
struct Alone<'w, B: Backend> {
    ours: Ours<'w, B>,
    operands: Option<(Buf<bf16, B>, Buf<bf16, B>)>,
}

impl<B: Backend> Alone<'_, B> {
    fn plain(&mut self) -> Outcome<Path> {
        let (tp, operation) = (self.ours.tp, self.ours.operation);
        let Some((src, dst)) = &mut self.operands else {
            return Err(Failure::new("a call before its operands were made"));
        };
        let (src, dst) = (plain(&*src), plain_mut(dst));
        Ok(match operation {
            Operation::AllReduce => tp.all_reduce(src, dst, ReduceOp::Sum),
            Operation::AllGather => tp.all_gather(src, dst),
            Operation::ReduceScatter => tp.reduce_scatter(src, dst, ReduceOp::Sum),
        }?)
    }
}

impl<B: Backend> Ways for Alone<'_, B> {
    fn names(&self) -> &'static [&'static str] {
        &["ours", "ordinary"]
    }

    fn like(&self, _path: Path) -> usize {
        1
    }

    fn prepare(&mut self, operation: Operation, len: usize) -> Outcome<Path> {
        self.operands = None;
        let path = self.ours.prepare(operation, len)?;
        let (send, recv) = operation.lengths(len, self.ours.tp.size());
        let pool = self.ours.world.pool();
        self.operands = Some((pool.zeros(send)?, pool.zeros(recv)?));
        self.plain()?;
        self.ours.world.synchronize()?;
        Ok(path)
    }

    fn batch(&mut self, way: usize, calls: usize) -> Outcome<Sample> {
        let started = Instant::now();
        for _ in 0..calls {
            match way {
                0 => self.ours.call()?,
                _ => self.plain()?,
            };
        }
        let enqueued = started.elapsed();
        self.ours.world.synchronize()?;
        Ok(Sample {
            device: started.elapsed().as_secs_f64() * 1e6 / calls as f64,
            host: enqueued.as_secs_f64() * 1e9 / calls as f64,
        })
    }

    fn end(self: Box<Self>) -> Outcome {
        Ok(())
    }
}
