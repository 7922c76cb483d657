//! Collectives that are run only to see how long they take.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::Backend;
use crate::backend::call::{Call, Op};
use crate::capture::CaptureMode;
use crate::element::Dtype;
use crate::error::{Error, Result};
use crate::group::core::GroupCore;
use crate::group::link::Link;
use crate::pool::segment::Segment;

/// One rank's part are multiples of this, as in most programs.
const ALIGNED: u64 = 16;

/// A stream and a segment of their own, and graphs of the calls that are timed.
#[derive(Debug)]
pub(crate) struct Meter<B: Backend> {
    stream: B::Stream,
    segment: Arc<Segment<B>>,
    graphs: Vec<B::Graph>,
}

impl<B: Backend> Meter<B> {
    /// To be ended, or abandoned, before the segment's window goes.
    pub(crate) fn new(group: &GroupCore<B>, segment: &Arc<Segment<B>>) -> Result<Self> {
        Ok(Self {
            stream: B::new_stream(&group.world.device)?,
            segment: Arc::clone(segment),
            graphs: Vec::new(),
        })
    }

    /// Waits until the work on other streams is done, which would disturb.
    pub(crate) fn start(&self, behind: &[B::Stream]) -> Result<()> {
        for other in behind {
            B::wait_stream(&self.stream, other)?;
        }
        let (base, bytes) = (self.segment.base(), self.segment.bytes());
        // SAFETY: the segment is kept until the stream is done: `end` and `abandoned` wait for it.
        unsafe { B::fill(&self.stream, base, 0, bytes) }?;
        B::synchronize(&self.stream)
    }

    /// The call on buffers of `whole` bytes at the start of the segment's two halves.
    fn call(&self, group: &GroupCore<B>, op: Op, dtype: Dtype, whole: u64) -> Result<Call> {
        let part = match op {
            Op::AllReduce(_) => whole,
            _ => (whole / group.size() as u64).max(ALIGNED) / ALIGNED * ALIGNED,
        };
        let count = part as usize / dtype.bytes();
        let (reads, writes) = op.lengths(count, group.rank, group.size());
        let half = self.segment.bytes() / 2;
        let longest = (reads.max(writes) * dtype.bytes()) as u64;
        if longest > half {
            return Err(Error::TooLarge {
                elements: reads.max(writes),
                bytes_each: dtype.bytes(),
            });
        }
        Ok(Call {
            op,
            dtype,
            count,
            send: self.segment.base(),
            recv: self.segment.base() + half,
            avoid_windows: false,
        })
    }

    fn enqueue(
        &self,
        group: &GroupCore<B>,
        link: &Link<B>,
        comm: &B::Comm,
        call: Call,
    ) -> Result<()> {
        let _calling = link.calling();
        let _launching = group.world.vitals.launching()?;
        // SAFETY: `call` placed the operands in the segment, which is kept until the stream is done.
        unsafe { B::launch(&group.world.device, comm, &self.stream, &[call]) }
    }

    /// Runs the call once on each communicator, so that NCCL connects and CUDA loads what it needs,
    /// then makes a graph of `calls` of them for each.
    pub(crate) fn record(
        &mut self,
        group: &GroupCore<B>,
        link: &Link<B>,
        comms: [&B::Comm; 2],
        (op, dtype, whole): (Op, Dtype, u64),
        calls: usize,
    ) -> Result<()> {
        self.clear(group)?;
        let call = self.call(group, op, dtype, whole)?;
        let device = &group.world.device;
        for comm in comms {
            self.enqueue(group, link, comm, call)?;
            B::synchronize(&self.stream)?;
            group.world.check()?;
            let recording = B::begin_capture(device, &self.stream, CaptureMode::ThreadLocal)?;
            let recorded = (0..calls).try_for_each(|_| self.enqueue(group, link, comm, call));
            let graph = B::end_capture(device, recording);
            match (recorded, graph) {
                (Ok(()), graph) => self.graphs.push(graph?),
                (Err(error), Ok(graph)) => {
                    self.graphs.push(graph);
                    return Err(error);
                }
                (Err(error), Err(_)) => return Err(error),
            }
        }
        Ok(())
    }

    /// How long a replay of the graph of the communicator at this place takes.
    pub(crate) fn time(&self, group: &GroupCore<B>, at: usize) -> Result<Duration> {
        let device = &group.world.device;
        let took = B::timed(device, &self.stream, &mut || {
            let graph = self.graphs.get(at).ok_or_else(|| Error::Config {
                what: "a measurement without a graph: please report this".into(),
            })?;
            let _launching = group.world.vitals.launching()?;
            // SAFETY: as for `enqueue`; the group's link, which the caller holds, keeps the
            // communicators, and the caller the window.
            unsafe { B::launch_graph(device, graph, &self.stream) }
        })?;
        // A wait ends well where it was released.
        group.world.check()?;
        Ok(took)
    }

    /// Gives the graphs back. Nothing of them is under way: `time` waits.
    fn clear(&mut self, group: &GroupCore<B>) -> Result<()> {
        destroy::<B>(&group.world.device, self.graphs.drain(..))
    }

    /// All was measured.
    pub(crate) fn end(mut self, group: &GroupCore<B>) -> Result<()> {
        let ended = B::synchronize(&self.stream);
        ended.and(self.clear(group))
    }

    /// The same after a failure, for the reaper: waits until what may be stuck is released.
    pub(crate) fn abandoned(self, device: &B::Device) -> Result<()> {
        let ended = B::synchronize(&self.stream);
        ended.and(destroy::<B>(device, self.graphs))
    }
}

/// Gives all graphs back, and returns the first error.
fn destroy<B: Backend>(
    device: &B::Device,
    graphs: impl IntoIterator<Item = B::Graph>,
) -> Result<()> {
    let mut outcome = Ok(());
    for graph in graphs {
        outcome = outcome.and(B::destroy_graph(device, graph));
    }
    outcome
}
