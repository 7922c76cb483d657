//! What graphs cost, beside CUDA's own: time of a launch, and time and memory of captures.
//!
//! Nothing here is a test: the figures are printed, and those of raw work against raw work beside
//! them say how much is noise.

use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use symm_core::cuda::cudarc::driver::{CudaGraph, CudaStream, sys};
use symm_core::{
    Buf, Config, Cuda, Error, GraphOptions, GraphPool, Group, Path, ReduceOp, Result, SymmBuf,
    World, groups, plain, symm,
};
use symm_tests::suite::{Failure, Outcome};

groups! { Tp = "tp"; }

/// Collectives of the graph that is launched, and bytes of each: about a step of decoding.
const CALLS: usize = 20;
const CALL_BYTES: usize = 16 << 10;
/// Launches whose time on the host is taken.
const LAUNCHES: usize = 1000;
/// Launches between two events, and how often.
const BURST: usize = 100;
const BURSTS: usize = 15;

/// Bucket sizes that are captured: 1, 2, .. times this many bytes.
const BUCKETS: usize = 20;
const BUCKET_BYTES: usize = 64 << 10;
/// Layers of the step that is captured, and elements of what it returns.
const LAYERS: usize = 4;
const OUTPUT: usize = 1024;

/// Segments no larger than they have to be, so that reserved bytes say something.
const FIRST_SEGMENT: u64 = 2 << 20;

/// Prints what graphs cost on so many ranks, by what rank 0 sees.
pub(crate) fn run(ranks: usize) -> ExitCode {
    let config = Config::<Cuda>::default().first_segment(FIRST_SEGMENT);
    let measured = config.run(ranks, |world| {
        let figures = replay(&world).and_then(|replay| Ok((replay, captures(&world)?)));
        figures.map_err(Error::from)
    });
    match measured {
        Ok(figures) => {
            println!("{}\n{ranks} ranks as threads", Cuda::probe());
            if let Some((replay, captures)) = figures.first() {
                print!("\n{replay}\n{captures}");
            }
            ExitCode::SUCCESS
        }
        Err(why) if why.is_unavailable() => {
            println!("SKIP: {why}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("FAIL  {error}");
            ExitCode::FAILURE
        }
    }
}

/// The ways to launch the same work.
const WAYS: [&str; 3] = ["cuGraphLaunch", "cuGraphLaunch again", "Graph::launch"];

/// Microseconds a launch, for each way.
struct Replay {
    paths: [Vec<Path>; 3],
    host: [f64; 3],
    device: [f64; 3],
}

fn replay(world: &World<Cuda>) -> Outcome<Replay> {
    let tp = world.split::<Tp>(0, 0)?;
    let stream = world.stream();
    let mut x = symm!(group = tp, { tp.zeros::<f32>(CALL_BYTES / 4)? })?;
    warm_up(world, || tp.all_reduce_in_place(&mut x, ReduceOp::Sum))?;
    let mut step = || -> Result<Vec<Path>> {
        let call = |_| tp.all_reduce_in_place(&mut x, ReduceOp::Sum);
        (0..CALLS).map(call).collect()
    };
    // Raw first: then nothing of ours is known of the buffer.
    let (raw, raw_paths) = capture_raw(stream, &mut step)?;
    let (again, again_paths) = capture_raw(stream, &mut step)?;
    // On the path of the raw captures with every NCCL.
    let options = GraphOptions::default().early_reads(true);
    let graphs = GraphPool::with(world.pool(), options)?;
    let mut ours = graphs.capture(stream, |_| step())?;
    let paths = [raw_paths, again_paths, ours.output().clone()];

    let mut launches: [&mut dyn FnMut() -> Outcome; 3] = [
        &mut || Ok(raw.launch()?),
        &mut || Ok(again.launch()?),
        &mut || Ok(ours.launch()?),
    ];
    let mut host = [const { Vec::new() }; 3];
    for round in 0..LAUNCHES {
        for turn in 0..WAYS.len() {
            // Each comes behind each other as often.
            let way = (round + turn) % WAYS.len();
            stream.synchronize()?;
            let started = Instant::now();
            launches[way]()?;
            host[way].push(micros(started.elapsed()));
        }
    }
    let mut device = [const { Vec::new() }; 3];
    for _ in 0..BURSTS {
        for (launch, times) in launches.iter_mut().zip(&mut device) {
            stream.synchronize()?;
            let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
            let started = stream.record_event(timed)?;
            (0..BURST).try_for_each(|_| launch())?;
            let ended = stream.record_event(timed)?;
            let milliseconds = started.elapsed_ms(&ended)?;
            times.push(f64::from(milliseconds) * 1e3 / BURST as f64);
        }
    }
    Ok(Replay {
        paths,
        host: host.map(median),
        device: device.map(median),
    })
}

/// Captures the step as cudarc does it.
fn capture_raw(
    stream: &Arc<CudaStream>,
    step: impl FnOnce() -> Result<Vec<Path>>,
) -> Outcome<(CudaGraph, Vec<Path>)> {
    let context = stream.context();
    let tracked = context.is_event_tracking();
    // SAFETY: all is on one stream, and no slice is made or dropped meanwhile.
    unsafe { context.disable_event_tracking() };
    let captured = (|| {
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED)?;
        let paths = step();
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0));
        let (paths, graph) = (paths?, graph?);
        let graph = graph.ok_or_else(|| Failure::new("nothing was captured"))?;
        graph.upload()?;
        Ok((graph, paths))
    })();
    if tracked {
        // SAFETY: as it was.
        unsafe { context.enable_event_tracking() };
    }
    captured
}

/// A row of captures.
struct Captures {
    /// What it was.
    name: &'static str,
    /// Milliseconds of each, by size.
    times: Vec<f64>,
    /// Bytes that their pools took from the device.
    reserved: u64,
    /// The most that was in use.
    peak: u64,
}

/// All rows of captures.
struct Table([Captures; 4]);

fn captures(world: &World<Cuda>) -> Outcome<Table> {
    let tp = world.split::<Tp>(0, 0)?;
    let sizes: Vec<usize> = (1..=BUCKETS).map(|size| size * BUCKET_BYTES / 4).collect();
    for len in sizes.iter().copied().chain([OUTPUT]) {
        let mut x = symm!(group = tp, { tp.zeros::<f32>(len)? })?;
        warm_up(world, || tp.all_reduce_in_place(&mut x, ReduceOp::Sum))?;
        let y = symm!(group = tp, { tp.zeros::<f32>(len)? })?;
        warm_up(world, || tp.all_reduce(&y, &mut x, ReduceOp::Sum))?;
    }
    let largest = sizes.iter().rev().copied().take(1);
    let mut apart = Captures {
        name: "each in a pool of its own, together",
        times: Vec::new(),
        reserved: 0,
        peak: 0,
    };
    for len in &sizes {
        let one = in_one_pool("", world, &tp, [*len])?;
        apart.times.extend(one.times);
        apart.reserved += one.reserved;
        apart.peak += one.peak;
    }
    let mut falling = in_one_pool("largest first", world, &tp, sizes.iter().rev().copied())?;
    falling.times.reverse();
    Ok(Table([
        in_one_pool("the largest alone", world, &tp, largest)?,
        falling,
        in_one_pool("smallest first", world, &tp, sizes.iter().copied())?,
        apart,
    ]))
}

/// Captures a step of each size, and keeps all graphs until the last is there.
fn in_one_pool(
    name: &'static str,
    world: &World<Cuda>,
    tp: &Group<Tp, Cuda>,
    sizes: impl IntoIterator<Item = usize>,
) -> Outcome<Captures> {
    let graphs = GraphPool::new(world.pool());
    let (mut times, mut captured) = (Vec::new(), Vec::new());
    for len in sizes {
        world.synchronize()?;
        let started = Instant::now();
        captured.push(graphs.capture(world.stream(), |_| step(tp, len))?);
        times.push(micros(started.elapsed()) / 1e3);
    }
    let stats = graphs.stats();
    Ok(Captures {
        name,
        times,
        reserved: stats.reserved_bytes(),
        peak: stats.arenas.iter().map(|arena| arena.peak_live_bytes).sum(),
    })
}

/// Layers with activations of `len` elements, in ordinary and in symmetric memory.
fn step(tp: &Group<Tp, Cuda>, len: usize) -> Result<SymmBuf<f32, Tp, Cuda>> {
    for _ in 0..LAYERS {
        let hidden: Buf<f32, Cuda> = Buf::zeros(len)?;
        symm!(group = tp, {
            let mut partial = tp.empty::<f32>(len)?;
            partial.copy_from(plain(&hidden))?;
            let mut sum = tp.empty::<f32>(len)?;
            tp.all_reduce(&partial, &mut sum, ReduceOp::Sum)?;
        })?;
    }
    let mut output = symm!(group = tp, { tp.zeros::<f32>(OUTPUT)? })?;
    tp.all_reduce_in_place(&mut output, ReduceOp::Sum)?;
    Ok(output)
}

/// Runs the call alone: the first time CUDA loads its kernel, for which it may wait for the device,
/// with a lock that the other ranks need.
fn warm_up(world: &World<Cuda>, call: impl FnOnce() -> Result<Path>) -> Outcome {
    call()?;
    Ok(world.synchronize()?)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = format!("launch of {CALLS} all_reduces of {CALL_BYTES} B, us");
        writeln!(f, "{title:<50}{:>10}{:>10}", "host", "device")?;
        for (at, way) in WAYS.iter().enumerate() {
            let path = self.paths[at].first().map(ToString::to_string);
            let label = format!("{way}, {}", path.unwrap_or_default());
            let (host, device) = (self.host[at], self.device[at]);
            writeln!(f, "{label:<50}{host:>10.2}{device:>10.2}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = format!("captures of {BUCKETS} sizes, ms each");
        writeln!(f, "{title:<50}{:>10}{:>10}", "median", "longest")?;
        for Captures { name, times, .. } in &self.0 {
            let longest = times.iter().copied().fold(0.0, f64::max);
            writeln!(
                f,
                "{name:<50}{:>10.2}{longest:>10.2}",
                median(times.clone())
            )?;
        }
        for Captures { name, times, .. } in &self.0 {
            let each: Vec<String> = times.iter().map(|time| format!("{time:.1}")).collect();
            writeln!(f, "  {name}, by size: {}", each.join(" "))?;
        }
        writeln!(f, "\n{:<50}{:>10}{:>10}", "their bytes", "reserved", "peak")?;
        self.0.iter().try_for_each(|row| {
            let Captures {
                name,
                reserved,
                peak,
                ..
            } = row;
            writeln!(f, "{name:<50}{reserved:>10}{peak:>10}")
        })
    }
}
