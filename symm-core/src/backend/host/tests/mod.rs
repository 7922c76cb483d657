//! The backend through its own calls: what it must get right, and what it must refuse.

mod capture;
mod collectives;
mod faults;
mod graph;
mod processes;
mod release;
mod sleep;
mod streams;
mod windows;

use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::backend::call::{Op, ReduceOp};
use crate::element::Dtype;
use crate::error::Rule;
use crate::rendezvous::Rendezvous;

const MIB: u64 = 1 << 20;

/// One rank with a stream and the world's communicator.
struct Rank {
    rank: usize,
    seat: Seat,
    device: Device,
    stream: HostStream,
    comm: Comm,
}

/// Runs `rank` on every rank, and returns the results by rank.
fn world<R: Send>(
    ranks: usize,
    options: Options,
    rank: impl Fn(&Rank) -> Result<R> + Sync,
) -> Vec<Result<R>> {
    world_within(Duration::from_secs(20), ranks, options, rank)
}

/// As `world`, with this deadline for whatever waits.
fn world_within<R: Send>(
    deadline: Duration,
    ranks: usize,
    options: Options,
    rank: impl Fn(&Rank) -> Result<R> + Sync,
) -> Vec<Result<R>> {
    thread::scope(|scope| {
        let ends = Rendezvous::threads(ranks).into_iter();
        let running: Vec<_> = ends
            .map(|end| scope.spawn(|| live(end, deadline, &options, &rank)))
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// The life of one rank.
fn live<R>(
    end: Rendezvous,
    deadline: Duration,
    options: &Options,
    rank: impl Fn(&Rank) -> Result<R>,
) -> Result<R> {
    let (me, ranks) = (end.rank(), end.ranks());
    let seat = Seat {
        launcher: crate::Launcher::Threads,
        rank: me,
        ranks,
        local_rank: me,
        local_ranks: ranks,
        processes: false,
        rendezvous: Arc::new(end),
        deadline,
    };
    live_at(&seat, options, rank)
}

/// The life of a rank that has its seat.
fn live_at<R>(seat: &Seat, options: &Options, rank: impl Fn(&Rank) -> Result<R>) -> Result<R> {
    let device = Host::open(seat, options)?;
    let comm = Host::connect(&device, seat, &everyone(seat))?;
    let stream = Host::new_stream(&device)?;
    let result = rank(&Rank {
        rank: seat.rank,
        seat: seat.clone(),
        device,
        stream,
        comm,
    });
    if let Err(error) = &result {
        seat.rendezvous.fail(&error.to_string());
    }
    result
}

/// All ranks of the world.
fn everyone(seat: &Seat) -> Split {
    Split {
        id: 1,
        color: 0,
        members: (0..seat.ranks).collect(),
        rank: seat.rank,
    }
}

fn rule<R: std::fmt::Debug>(result: &Result<R>) -> Rule {
    match result {
        Err(Error::Violation { rule, .. }) => *rule,
        other => panic!("{other:?}"),
    }
}

/// The calls' contracts are what these tests break, and the backend checks what it is given:
/// nothing here is unsafe in fact.
impl Rank {
    fn plain(&self, bytes: u64) -> Plain {
        Host::alloc_plain(&self.stream, bytes).unwrap()
    }

    fn write(&self, at: u64, values: &[u8]) -> Result<()> {
        // SAFETY: checked by the backend.
        unsafe { Host::upload(&self.stream, at, values) }
    }

    fn read(&self, stream: &HostStream, at: u64, bytes: usize) -> Result<Vec<u8>> {
        let mut read = vec![0; bytes];
        // SAFETY: checked by the backend.
        unsafe { Host::download(stream, at, &mut read) }?;
        Ok(read)
    }

    fn call(&self, op: Op, count: usize, send: u64, recv: u64) -> Call {
        Call {
            op,
            dtype: Dtype::Bf16,
            count,
            send,
            recv,
            avoid_windows: false,
        }
    }

    fn launch(&self, calls: &[Call]) -> Result<()> {
        // SAFETY: checked by the backend.
        unsafe { Host::launch(&self.device, &self.comm, &self.stream, calls) }
    }

    fn segment(&self) -> Segment {
        Host::alloc_segment(&self.device, 2 * MIB).unwrap()
    }

    fn register(&self, segment: &Segment) -> Result<Option<Window>> {
        Host::register(&self.device, &self.comm, segment)
    }

    fn record(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let mode = CaptureMode::ThreadLocal;
        let recording = Host::begin_capture(&self.device, &self.stream, mode)?;
        work()?;
        Host::end_capture(&self.device, recording)
    }

    fn replay(&self, graph: &Graph) -> Result<()> {
        // SAFETY: checked by the backend.
        unsafe { Host::launch_graph(&self.device, graph, &self.stream) }
    }
}

/// The byte at an address becomes another, through a function.
fn change(stream: &HostStream, at: u64, change: fn(u8) -> u8) -> Result<()> {
    stream.push(Step::Run {
        label: "change",
        kernel: Arc::new(move |memory| {
            let byte = memory.bytes_mut(at, 1)?;
            byte[0] = change(byte[0]);
            Ok(())
        }),
    })
}

fn copy(stream: &HostStream, to: u64, from: u64, bytes: u64) -> Result<()> {
    // SAFETY: checked by the backend.
    unsafe { Host::copy(stream, to, from, bytes) }
}
