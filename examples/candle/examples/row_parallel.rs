//! An MLP of candle's over several ranks: its first layer is split by outputs, its second by inputs,
//! whose partial sums meet in symmetric memory. Compared with the same MLP on one rank; on GPUs, in a
//! captured graph too.
//!
//! ```sh
//! cargo run -p symm-candle --example row_parallel                                            # without a GPU
//! cargo run --release -p symm-candle --features cuda --example row_parallel -- --backend cuda # where nvcc is
//! ```

use std::process::ExitCode;

use candle_core::{CustomOp1, Device, Result, Tensor};
use clap::{Parser, ValueEnum};
use symm_candle::{Buffers, Place, RowParallel, SumAllReduce};
use symm_core::{Backend, Cuda, Error, Group, Host, PathCount, World, groups};

groups! {
    /// The MLP's inner width is split over it.
    pub Tp = "tp";
}

/// Where nobody says how many.
const RANKS: usize = 4;
const WIDTH: usize = 64;
const INNER: usize = 256;

/// The example's settings.
#[derive(Debug, Parser)]
struct Options {
    /// Where the ranks run
    #[arg(long, value_enum, default_value_t = On::Host)]
    backend: On,
    /// Ranks; by default 4, and at most one a GPU
    #[arg(long)]
    ranks: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum On {
    /// candle's CPU device, ranks as threads
    Host,
    /// A GPU for each rank
    Cuda,
}

struct Mlp<B: Backend> {
    up: Tensor,
    down: RowParallel<Tp, B>,
}

/// The same on all ranks: seeded noise of a generator of our own, since candle's differ by device.
fn noise(seed: u64, rows: usize, columns: usize, device: &Device) -> Result<Tensor> {
    let mut state = seed;
    let number = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let numbers: Vec<f32> = (0..rows * columns).map(number).collect();
    Tensor::from_vec(numbers, (rows, columns), device)
}

impl<B: Backend> Mlp<B>
where
    SumAllReduce<Tp, B>: CustomOp1,
{
    fn new(tp: &Group<Tp, B>, device: &Device) -> Result<Self> {
        let part = INNER / tp.size();
        let up = noise(1, INNER, WIDTH, device)?.narrow(0, tp.rank() * part, part)?;
        Ok(Self {
            up: up.t()?.contiguous()?,
            down: RowParallel::new(tp, &noise(2, WIDTH, INNER, device)?)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.down.forward(&x.matmul(&self.up)?.silu()?)
    }
}

/// The MLP on one rank.
fn alone(x: &Tensor) -> Result<Tensor> {
    let device = x.device();
    let inner = x.matmul(&noise(1, INNER, WIDTH, device)?.t()?)?.silu()?;
    inner.matmul(&noise(2, WIDTH, INNER, device)?.t()?)
}

/// How far two tensors are apart.
fn apart(a: &Tensor, b: &Tensor) -> Result<f32> {
    (a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar()
}

/// Where candle's work can be captured.
trait Captures: Place
where
    SumAllReduce<Tp, Self>: CustomOp1,
{
    /// How far launches of a graph are from one rank; `None` where there are no graphs.
    fn replayed(_: &World<Self>, _: &Device, _: &Mlp<Self>) -> Result<Option<f32>> {
        Ok(None)
    }
}

/// candle's CPU work is no work of a stream.
impl Captures for Host {}

#[cfg(not(feature = "cuda"))]
impl Captures for Cuda {}

#[cfg(feature = "cuda")]
impl Captures for Cuda {
    fn replayed(world: &World<Cuda>, device: &Device, mlp: &Mlp<Cuda>) -> Result<Option<f32>> {
        let x = noise(20, 1, WIDTH, device)?;
        let out = x.zeros_like()?;
        let stream = device.as_cuda_device()?.cuda_stream();
        let graphs = symm_core::GraphPool::new(world.pool());
        // What candle allocates in it is gone at its end: the output goes where it stays.
        let step = || out.slice_set(&mlp.forward(&x)?, 0, 0);
        let graph = graphs.capture(&stream, |_pass| step().map_err(candle));
        let mut graph = graph.map_err(candle_core::Error::wrap)?;
        let mut worst = 0f32;
        for seed in 21..24 {
            x.slice_set(&noise(seed, 1, WIDTH, device)?, 0, 0)?;
            graph.launch().map_err(candle_core::Error::wrap)?;
            worst = worst.max(apart(&out, &alone(&x)?)?);
        }
        Ok(Some(worst))
    }
}

fn candle(error: candle_core::Error) -> Error {
    Error::Config {
        what: error.to_string().into(),
    }
}

/// What a rank found.
struct Found {
    /// How far it is from one rank, at most.
    apart: f32,
    /// The same in a graph.
    replayed: Option<f32>,
    buffers: usize,
    paths: Vec<PathCount>,
}

fn rank<B: Captures>(world: &World<B>, device: &Device) -> Result<Found>
where
    SumAllReduce<Tp, B>: CustomOp1,
{
    let buffers = Buffers::enter(world, device).map_err(candle_core::Error::wrap)?;
    let tp = world.split::<Tp>(0, 0).map_err(candle_core::Error::wrap)?;
    let mlp = Mlp::new(&tp, device)?;
    let mut worst = 0f32;
    for step in 0..3 {
        for rows in [1, 3, 4] {
            let x = noise(10 + step, rows, WIDTH, device)?;
            worst = worst.max(apart(&mlp.forward(&x)?, &alone(&x)?)?);
        }
    }
    Ok(Found {
        apart: worst,
        replayed: B::replayed(world, device, &mlp)?,
        buffers: buffers.count(),
        paths: tp.counts(),
    })
}

fn gpus() -> symm_core::Result<usize> {
    Ok(Cuda::probe().driver?.devices.len())
}

fn run(options: &Options) -> symm_core::Result<Vec<Found>> {
    match options.backend {
        On::Host => World::<Host>::run(options.ranks.unwrap_or(RANKS), |world| {
            rank(&world, &Device::Cpu).map_err(candle)
        }),
        On::Cuda => World::<Cuda>::run(options.ranks.unwrap_or(gpus()?.min(RANKS)), |world| {
            let device = Device::new_cuda_with_stream(world.rank()).map_err(candle)?;
            rank(&world, &device).map_err(candle)
        }),
    }
}

fn main() -> ExitCode {
    let found = match run(&Options::parse()) {
        Ok(found) => found,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let apart = found
        .iter()
        .map(|found| found.apart.max(found.replayed.unwrap_or(0.0)));
    let worst = apart.fold(0.0, f32::max);
    let (ranks, first) = (found.len(), &found[0]);
    println!(
        "{ranks} ranks: {worst:.1e} from one rank at most, {} symmetric buffers",
        first.buffers
    );
    match first.replayed {
        Some(_) => println!("3 launches of a graph among them"),
        None => println!("no graph: candle's work on a CPU cannot be captured"),
    }
    for count in &first.paths {
        println!("{} x {}: {}", count.calls, count.operation, count.path);
    }
    ExitCode::from(u8::from(worst > 1e-4))
}
