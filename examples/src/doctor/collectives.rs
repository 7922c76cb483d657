//! Which path each collective takes, by type and size, which kernels that are, and which way is
//! faster.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use symm_core::{
    Backend, Config, Element, Group, Path, Reason, ReduceOp, Result, SymmBuf, World, bf16, symm,
};

use super::step::Emit;
use super::windows::All;

/// Bytes of the whole buffer on GPUs: a step of decoding, and what grows from it.
#[cfg(feature = "cuda")]
pub(super) const SIZES: [usize; 5] = [4 << 10, 64 << 10, 512 << 10, 4 << 20, 32 << 20];
/// On the host backend, whose collectives a processor computes.
pub(super) const HOST_SIZES: [usize; 3] = [4 << 10, 16 << 10, 64 << 10];

/// What was found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Collectives {
    /// By operation, types and size.
    pub calls: Vec<Call>,
    /// Windows beside the twin; nothing where it was left out.
    pub calibration: Option<Calibration>,
}

/// One collective of one size.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Call {
    /// E.g. `all_reduce sum`.
    pub operation: String,
    /// E.g. `bf16`.
    pub types: String,
    /// Bytes of the whole buffer.
    pub bytes: usize,
    /// The path that programs take here, after the calibration: `symmetric`, or `plain: ` and why.
    pub path: String,
    /// Its kernels, by name; empty where the backend has none, or the driver does not tell.
    pub kernels: Vec<String>,
}

/// What `Group::calibrate` found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Calibration {
    /// By operation, types and size.
    pub points: Vec<Point>,
    /// Repeats differ too much to be kept.
    pub noisy: bool,
    /// Kept for the next start.
    pub cached: bool,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// E.g. `all_reduce`.
    pub operation: String,
    /// E.g. `f16,bf16`.
    pub types: String,
    /// Bytes of the whole buffer.
    pub bytes: u64,
    /// Microseconds of one call on windows: the slowest rank's median.
    pub windowed_us: f64,
    /// The same on the twin.
    pub twin_us: f64,
    /// How far the middle half of the repeats spreads, as a part of their median.
    pub spread: f64,
    /// Such calls take the twin from now on.
    pub twin: bool,
}

/// What a backend tells about its kernels.
pub(super) trait Kernels: Backend {
    /// The kernels that `call` enqueues, without running them.
    fn names(world: &World<Self>, call: &mut dyn FnMut() -> Result<Path>) -> Vec<String>;
}

impl Kernels for symm_core::Host {
    fn names(_: &World<Self>, _: &mut dyn FnMut() -> Result<Path>) -> Vec<String> {
        Vec::new()
    }
}

#[cfg(feature = "cuda")]
impl Kernels for symm_core::Cuda {
    fn names(world: &World<Self>, call: &mut dyn FnMut() -> Result<Path>) -> Vec<String> {
        let names = symm_core::cuda::kernel_names(world.stream(), || call().map(drop));
        names.unwrap_or_default() // an old driver does not tell
    }
}

/// Runs all collectives, calibrates, and runs them again. What is found is told at once.
pub(super) fn run<B: Kernels>(
    config: &Config<B>,
    ranks: usize,
    sizes: &[usize],
    calibrate: bool,
    emit: &dyn Emit<Collectives>,
) -> Result<()> {
    let found = Mutex::new(Collectives::default());
    let tell = |group: &Group<All, B>, change: &dyn Fn(&mut Collectives)| {
        if group.rank() == 0 {
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut found);
            emit.found(&found);
        }
    };
    let outcome = config.run(ranks, |world| {
        let all = world.split::<All>(0, 0)?;
        let calls = sweep(&world, &all, sizes)?;
        tell(&all, &|found| found.calls = calls.clone());
        if calibrate && all.size() > 1 {
            let measured = all.calibrate()?;
            tell(&all, &|found| found.calibration = Some((&measured).into()));
            let calls = sweep(&world, &all, sizes)?;
            tell(&all, &|found| found.calls = calls.clone());
        }
        Ok(())
    });
    outcome.map(drop)
}

/// All calls once, with their kernels' names.
fn sweep<B: Kernels>(world: &World<B>, all: &Group<All, B>, sizes: &[usize]) -> Result<Vec<Call>> {
    let calls = RefCell::new(Vec::new());
    for &bytes in sizes {
        let sweep = Sweep {
            world,
            all,
            bytes,
            calls: &calls,
        };
        sweep.of_type::<bf16>("bf16", true)?;
        sweep.of_type::<f32>("f32", true)?;
        sweep.of_type::<f64>("f64", false)?;
        sweep.others()?;
    }
    let mut calls = calls.into_inner();
    // By operation and types in the order in which they were called, then by size.
    let of_one_size = calls.len() / sizes.len().max(1);
    let mut by_size: Vec<_> = calls.drain(..).enumerate().collect();
    by_size.sort_by_key(|(at, _)| (at % of_one_size.max(1), at / of_one_size.max(1)));
    Ok(by_size.into_iter().map(|(_, call)| call).collect())
}

/// The calls of one size.
struct Sweep<'a, B: Backend> {
    world: &'a World<B>,
    all: &'a Group<All, B>,
    bytes: usize,
    calls: &'a RefCell<Vec<Call>>,
}

impl<B: Kernels> Sweep<'_, B> {
    /// A whole buffer, and one for a part of each rank.
    fn buffers<T: Element>(&self) -> Result<[SymmBuf<T, All, B>; 3]> {
        let part = (self.bytes / size_of::<T>() / self.all.size()).max(1);
        symm!(group = self.all, {
            let whole = part * self.all.size();
            [
                self.all.zeros(whole)?,
                self.all.zeros(whole)?,
                self.all.zeros(part)?,
            ]
        })
    }

    /// Runs a call; then looks at its kernels, once NCCL has connected the ranks.
    fn note(
        &self,
        operation: &str,
        types: &str,
        mut call: impl FnMut() -> Result<Path>,
    ) -> Result<()> {
        let path = call()?;
        self.world.synchronize()?;
        let kernels = B::names(self.world, &mut call);
        self.calls.borrow_mut().push(Call {
            operation: operation.into(),
            types: types.into(),
            bytes: self.bytes,
            path: path.to_string(),
            kernels,
        });
        Ok(())
    }

    fn of_type<T: Element>(&self, types: &str, scatters: bool) -> Result<()> {
        let (all, [x, mut y, mut part]) = (self.all, self.buffers::<T>()?);
        self.note("all_reduce sum", types, || {
            all.all_reduce(&x, &mut y, ReduceOp::Sum)
        })?;
        if scatters {
            self.note("reduce_scatter sum", types, || {
                all.reduce_scatter(&x, &mut part, ReduceOp::Sum)
            })?;
        }
        Ok(())
    }

    fn others(&self) -> Result<()> {
        let (all, [x, mut y, part]) = (self.all, self.buffers::<bf16>()?);
        self.note("all_gather", "any", || all.all_gather(&part, &mut y))?;
        self.note("all_reduce max", "bf16", || {
            all.all_reduce(&x, &mut y, ReduceOp::Max)
        })?;
        self.note("all_reduce avg", "bf16", || {
            all.all_reduce(&x, &mut y, ReduceOp::Avg)
        })?;
        self.note("broadcast", "any", || all.broadcast(&x, &mut y, 0))?;
        self.note("all_to_all", "any", || all.all_to_all(&x, &mut y))?;
        let (next, last) = (all.rank() + 1, all.rank() + all.size() - 1);
        let (next, last) = (next % all.size(), last % all.size());
        let mut sent = symm!(group = all, { all.zeros::<bf16>(part.len())? })?;
        self.note("send and recv", "any", || {
            let mut ring = all.batch();
            ring.send(&part, next).recv(&mut sent, last);
            let paths = ring.launch()?;
            Ok(paths.first().copied().unwrap_or(Path::Plain(Reason::Empty)))
        })
    }
}

impl From<&symm_core::Calibration> for Calibration {
    fn from(measured: &symm_core::Calibration) -> Self {
        let points = measured.points.iter().map(|point| Point {
            operation: point.operation.into(),
            types: point.types.into(),
            bytes: point.bytes,
            windowed_us: point.windowed.as_secs_f64() * 1e6,
            twin_us: point.twin.as_secs_f64() * 1e6,
            spread: point.spread,
            twin: point.path != Path::Symmetric,
        });
        Self {
            points: points.collect(),
            noisy: measured.noisy,
            cached: measured.cached,
        }
    }
}
