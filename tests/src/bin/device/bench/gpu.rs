//! Raw NCCL beside ours, on communicators of its own in the same process.

use std::ffi::c_void;
use std::sync::Arc;
use std::time::{Duration, Instant};

use symm_core::cuda::cudarc::driver::{CudaStream, result};
use symm_core::{Cuda, Group, Path, Reason, World, bf16, plain_mut};
use symm_tests::suite::{Failure, Outcome};

use super::Tp;
use super::gate::Gate;
use super::nccl::{BF16, Comm, Nccl, SUM, UniqueId, Window, check};
use super::options::Operation;
use super::ours::{Ours, Sample, Ways};
use super::start::Timed;

const NAMES: [&str; 4] = ["ours", "windowed", "twin", "cudaMalloc"];
const WINDOWED: usize = 1;
const TWIN: usize = 2;
const CUDA_MALLOC: usize = 3;

/// A raw communicator of the group's ranks. Its unique id travels by the group.
fn connected(nccl: &Nccl, world: &World<Cuda>, tp: &Group<Tp, Cuda>) -> Outcome<Comm> {
    let id = match tp.rank() {
        0 => nccl.unique_id()?,
        _ => UniqueId([0; 128]),
    };
    let mut shared = world.pool().from_slice(&id.0)?;
    tp.broadcast_in_place(plain_mut(&mut shared), 0)?;
    let shared = shared.to_vec()?;
    let bytes = shared.try_into();
    let id = bytes.map_err(|_| Failure::new("a unique id has 128 bytes"))?;
    world.stream().context().bind_to_thread()?;
    nccl.connect(tp.size(), UniqueId(id), tp.rank())
}

/// The calls of a row.
#[derive(Clone, Copy)]
struct Row {
    operation: Operation,
    /// What NCCL calls so.
    count: usize,
    /// From the start of the memory to the target, which lies behind the source as ours does.
    target: u64,
}

/// Ours and three raw ways: memory with a window, the same memory through a communicator without
/// windows, and memory of `cudaMalloc` through that.
pub(super) struct OnGpu<'w> {
    ours: Ours<'w, Cuda>,
    nccl: Nccl,
    stream: Arc<CudaStream>,
    gate: Gate,
    windowed: Comm,
    twin: Comm,
    window: Window,
    /// Memory with the window, and memory of `cudaMalloc`.
    symmetric: u64,
    plain: u64,
    row: Row,
    ranks: usize,
}

impl<'w> OnGpu<'w> {
    pub(super) fn new(
        world: &'w World<Cuda>,
        tp: &'w Group<Tp, Cuda>,
        most: usize,
    ) -> Outcome<Self> {
        let ours = Ours::new(world, tp, most)?;
        let nccl = Nccl::loaded()?;
        let stream = Arc::clone(world.stream());
        let windowed = connected(&nccl, world, tp)?;
        let twin = nccl.split(windowed, tp.rank())?;
        let bytes = 2 * most.next_multiple_of(2 << 20);
        let symmetric = nccl.alloc(bytes)?;
        let window = nccl.register(windowed, symmetric, bytes)?;
        // SAFETY: the context is current since `connected`; both are as long as is written, and the
        // stream is done before either is given back.
        let plain = unsafe {
            let plain = result::malloc_sync(bytes)?;
            for base in [symmetric, plain] {
                result::memset_d8_async(base, 0, bytes, stream.cu_stream())?;
            }
            plain
        };
        world.synchronize()?;
        Ok(Self {
            gate: Gate::new(&stream)?,
            ours,
            nccl,
            stream,
            windowed,
            twin,
            window,
            symmetric,
            plain,
            row: Row {
                operation: Operation::AllReduce,
                count: 0,
                target: 0,
            },
            ranks: tp.size(),
        })
    }

    /// What enqueues the row's call by a raw way.
    fn raw(&self, way: usize) -> impl FnMut() -> Outcome + use<> {
        let comm = if way == WINDOWED {
            self.windowed
        } else {
            self.twin
        };
        let base = if way == CUDA_MALLOC {
            self.plain
        } else {
            self.symmetric
        };
        let Row {
            operation,
            count,
            target,
        } = self.row;
        let src = base as *const c_void;
        let dst = (base + target) as *mut c_void;
        let stream: *mut c_void = self.stream.cu_stream().cast();
        let (all_reduce, all_gather, reduce_scatter) = (
            self.nccl.ncclAllReduce,
            self.nccl.ncclAllGather,
            self.nccl.ncclReduceScatter,
        );
        move || {
            // SAFETY: operands, communicator and stream are alive while `self` is, in whose methods
            // alone this is called; the operands are as long as `new` was told, and no row is larger.
            let (name, code) = unsafe {
                match operation {
                    Operation::AllReduce => (
                        "ncclAllReduce",
                        all_reduce(src, dst, count, BF16, SUM, comm, stream),
                    ),
                    Operation::AllGather => (
                        "ncclAllGather",
                        all_gather(src, dst, count, BF16, comm, stream),
                    ),
                    Operation::ReduceScatter => (
                        "ncclReduceScatter",
                        reduce_scatter(src, dst, count, BF16, SUM, comm, stream),
                    ),
                }
            };
            check(name, code)
        }
    }
}

impl Ways for OnGpu<'_> {
    fn names(&self) -> &'static [&'static str] {
        &NAMES
    }

    fn like(&self, path: Path) -> usize {
        match path {
            Path::Symmetric => WINDOWED,
            Path::Plain(Reason::Foreign) => CUDA_MALLOC,
            Path::Plain(_) => TWIN,
        }
    }

    fn prepare(&mut self, operation: Operation, len: usize) -> Outcome<Path> {
        let path = self.ours.prepare(operation, len)?;
        let (send, recv) = operation.lengths(len, self.ranks);
        self.row = Row {
            operation,
            count: send.min(recv),
            target: (send * size_of::<bf16>()).next_multiple_of(512) as u64,
        };
        self.stream.context().bind_to_thread()?;
        for way in [WINDOWED, TWIN, CUDA_MALLOC] {
            self.raw(way)()?;
            self.ours.world.synchronize()?;
        }
        Ok(path)
    }

    fn batch(&mut self, way: usize, calls: usize) -> Outcome<Sample> {
        match way {
            0 => self.gate.timed(calls, || self.ours.call().map(drop)),
            raw => {
                let call = self.raw(raw);
                self.gate.timed(calls, call)
            }
        }
    }

    fn end(self: Box<Self>) -> Outcome {
        self.ours.world.synchronize()?;
        self.stream.context().bind_to_thread()?;
        self.nccl.deregister(self.windowed, self.window)?;
        self.nccl.destroy(self.twin)?;
        self.nccl.destroy(self.windowed)?;
        self.nccl.free(self.symmetric)?;
        // SAFETY: allocated in `new`, freed once; the stream is done.
        Ok(unsafe { result::free_sync(self.plain) }?)
    }
}

/// `ncclMemAlloc` and a window in each of two communicators.
pub(super) struct RawStart {
    nccl: Nccl,
    stream: Arc<CudaStream>,
    root: Comm,
    rank: usize,
    pairs: Vec<[Comm; 2]>,
    memory: Option<(u64, [Window; 2])>,
}

impl RawStart {
    pub(super) fn new(world: &World<Cuda>, tp: &Group<Tp, Cuda>) -> Outcome<Self> {
        let nccl = Nccl::loaded()?;
        Ok(Self {
            root: connected(&nccl, world, tp)?,
            nccl,
            stream: Arc::clone(world.stream()),
            rank: tp.rank(),
            pairs: Vec::new(),
            memory: None,
        })
    }

    fn latest(&self) -> Outcome<[Comm; 2]> {
        self.stream.context().bind_to_thread()?;
        let latest = self.pairs.last().copied();
        latest.ok_or_else(|| Failure::new("a start before its communicators were made"))
    }
}

impl Timed for RawStart {
    fn steps(&self) -> &'static [&'static str] {
        &["ncclMemAlloc", "first window", "second window"]
    }

    fn prepare(&mut self) -> Outcome {
        self.stream.context().bind_to_thread()?;
        let child = || self.nccl.split(self.root, self.rank);
        let pair = [child()?, child()?];
        self.pairs.push(pair);
        Ok(())
    }

    fn run(&mut self, bytes: usize) -> Outcome<Vec<Duration>> {
        let [first, second] = self.latest()?;
        let started = Instant::now();
        let base = self.nccl.alloc(bytes)?;
        let allocated = started.elapsed();
        let one = self.nccl.register(first, base, bytes)?;
        let registered = started.elapsed();
        let two = self.nccl.register(second, base, bytes)?;
        let ended = started.elapsed();
        self.memory = Some((base, [one, two]));
        Ok(vec![allocated, registered - allocated, ended - registered])
    }

    fn undo(&mut self) -> Outcome {
        let comms = self.latest()?;
        let Some((base, windows)) = self.memory.take() else {
            return Ok(());
        };
        for (comm, window) in comms.into_iter().zip(windows) {
            self.nccl.deregister(comm, window)?;
        }
        self.nccl.free(base)
    }

    fn end(self: Box<Self>) -> Outcome {
        self.stream.context().bind_to_thread()?;
        let comms = self.pairs.iter().flatten().chain([&self.root]);
        comms.copied().try_for_each(|comm| self.nccl.destroy(comm))
    }
}
