//! The strict backend without a GPU: ranks are threads or processes, memory is host memory, and
//! what NCCL does silently wrong is an error.
//!
//! - Each rank's device has one engine thread that does all its work. Streams are queues, run as
//!   late as possible and in an order that a seed chooses, so an event that is missing shows as
//!   wrong data.
//! - Addresses are virtual: they differ from rank to rank and are never used twice, so an overrun
//!   or a use after free is an error at the first byte.
//! - Collectives move real data through the world's rendezvous, compare what all ranks called, and
//!   hold to NCCL's rules for windows.
//! - A capture records the work of its streams, and a graph replays it with new places in the
//!   communicators' order. What CUDA refuses in a capture is an error with its reason, and what it
//!   lets pass (a window, a communicator or memory that is gone at the replay) is one too.
//! - An error of queued work ends the device, as on a GPU: the next calls return it, and the peers
//!   are told.
//! - The failure of a peer ends nothing by itself: collectives wait on, until their communicator is
//!   revoked: then they leave garbage and succeed, as NCCL's do. Where nobody revokes it within two
//!   seconds, they fail.
//! - [`Options`] choose the seed, the memory, the NCCL version whose rules hold, and faults.

mod clock;
mod collective;
mod comm;
mod count;
mod device;
mod engine;
mod fault;
mod fault_text;
mod graph;
mod header;
mod kernel;
mod members;
mod memory;
mod options;
mod plan;
mod queue;
mod record;
mod reduce;
mod step;
mod stream;
#[cfg(test)]
mod tests;
mod window;

use std::ffi::c_void;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use clock::Launched;
pub use count::calls;
pub use fault::{At, CallKind, Fault, What};
pub use kernel::launch;
use memory::Memory;
pub use options::Options;
pub use stream::HostStream;

use super::Backend;
use super::call::Call;
use super::driver::{Access, Driver, Releases, Seat, Split, Sweep};
use crate::capture::CaptureMode;
use crate::error::{Error, Result};
use crate::scope::routing::Routing;
use comm::Comm;
use device::{Device, Shared};
use fault::Outcome;
use graph::{Graph, Recording};
use step::Step;
use stream::{Fence, Plain};
use window::{Segment, Window};

/// Ranks without GPUs: the same programs, and errors where NCCL is silent. What users test their
/// own layers with.
///
/// ```
/// use symm_core::{Host, World};
///
/// let ranks = World::<Host>::run(4, |world| Ok(world.rank()))?;
/// assert_eq!(ranks, [0, 1, 2, 3]);
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host;

impl Backend for Host {}

thread_local! {
    static ROUTING: Routing<Host> = const { Routing::new() };
}

#[diagnostic::do_not_recommend]
impl Driver for Host {
    const NAME: &'static str = "host";

    type Options = Options;
    type Device = Device;
    type Stream = HostStream;
    type Segment = Segment;
    type Plain = Plain;
    type Comm = Comm;
    type Window = Window;
    type Fence = Fence;
    type Recording = Recording;
    type Graph = Graph;

    #[inline]
    fn routing<R>(f: impl FnOnce(&Routing<Self>) -> R) -> Option<R> {
        ROUTING.try_with(f).ok()
    }

    fn open(seat: &Seat, options: &Options) -> Result<Device> {
        Device::open(seat, options)
    }

    fn describe(device: &Device) -> String {
        format!("host:{}", device.shared().rank())
    }

    fn new_stream(device: &Device) -> Result<HostStream> {
        enter(device, CallKind::NewStream)?;
        HostStream::new(device.shared())
    }

    #[inline]
    fn same_stream(a: &HostStream, b: &HostStream) -> bool {
        a.same(b)
    }

    fn stream_on(device: &Device, stream: &HostStream) -> bool {
        Arc::ptr_eq(device.shared(), stream.device())
    }

    fn wait_stream(stream: &HostStream, on: &HostStream) -> Result<()> {
        enter_on(stream, CallKind::WaitStream)?;
        stream.wait_stream(on)
    }

    fn synchronize(stream: &HostStream) -> Result<()> {
        enter_on(stream, CallKind::Synchronize)?;
        stream.synchronize()
    }

    fn alloc_segment(device: &Device, bytes: u64) -> Result<Segment> {
        enter(device, CallKind::AllocSegment)?;
        Segment::new(device.shared(), bytes)
    }

    fn segment_base(segment: &Segment) -> u64 {
        segment.base()
    }

    fn free_segment(device: &Device, segment: Segment) -> Result<()> {
        enter(device, CallKind::FreeSegment)?;
        segment.free(device.shared())
    }

    fn alloc_plain(stream: &HostStream, bytes: u64) -> Result<Plain> {
        enter_on(stream, CallKind::AllocPlain)?;
        Plain::new(stream, bytes)
    }

    fn plain_base(plain: &Plain) -> u64 {
        plain.base()
    }

    unsafe fn upload(stream: &HostStream, dst: u64, src: &[u8]) -> Result<()> {
        enter_on(stream, CallKind::Upload)?;
        let src = src.to_vec();
        stream.submit(
            "upload",
            Box::new(move |memory| {
                memory
                    .bytes_mut(dst, src.len() as u64)?
                    .copy_from_slice(&src);
                Ok(())
            }),
        )
    }

    unsafe fn download(stream: &HostStream, src: u64, dst: &mut [u8]) -> Result<()> {
        enter_on(stream, CallKind::Download)?;
        let (read, len) = (Arc::new(Mutex::new(Vec::new())), dst.len() as u64);
        let written = Arc::clone(&read);
        stream.submit(
            "download",
            Box::new(move |memory| {
                *written.lock().unwrap_or_else(PoisonError::into_inner) =
                    memory.bytes(src, len)?.to_vec();
                Ok(())
            }),
        )?;
        stream.synchronize()?;
        dst.copy_from_slice(&read.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    unsafe fn copy(stream: &HostStream, dst: u64, src: u64, bytes: u64) -> Result<()> {
        enter_on(stream, CallKind::Copy)?;
        stream.push(Step::Run {
            label: "copy",
            kernel: Arc::new(move |memory| {
                let (from, to) = memory.views(&[(src, bytes)], &[(dst, bytes)])?;
                to.into_iter()
                    .zip(from)
                    .for_each(|(to, from)| to.copy_from_slice(from));
                Ok(())
            }),
        })
    }

    unsafe fn fill(stream: &HostStream, dst: u64, value: u8, bytes: u64) -> Result<()> {
        enter_on(stream, CallKind::Zero)?;
        stream.push(Step::Run {
            label: if value == 0 { "zero" } else { "fill" },
            kernel: Arc::new(move |memory| {
                memory.bytes_mut(dst, bytes)?.fill(value);
                Ok(())
            }),
        })
    }

    unsafe fn fence(owner: &HostStream, _addr: u64, _bytes: u64) -> Result<Fence> {
        enter_on(owner, CallKind::Fence)?;
        Ok(Fence::new(owner))
    }

    fn fence_before(fence: &Fence, stream: &HostStream, access: Access) -> Result<()> {
        enter_on(stream, CallKind::Fence)?;
        fence.before(stream, access)
    }

    fn fence_after(fence: &Fence, stream: &HostStream, access: Access) -> Result<()> {
        enter_on(stream, CallKind::Fence)?;
        fence.after(stream, access);
        Ok(())
    }

    fn connect(device: &Device, seat: &Seat, split: &Split) -> Result<Comm> {
        enter(device, CallKind::Connect)?;
        Comm::connect(device.shared(), seat, split)
    }

    fn split(device: &Device, parent: &Comm, split: &Split) -> Result<Comm> {
        enter(device, CallKind::Split)?;
        parent.split(split)
    }

    fn destroy(device: &Device, comm: Comm) -> Result<()> {
        enter(device, CallKind::Destroy)?;
        comm.destroy()
    }

    fn revoke(device: &Device, comm: &Comm) -> Result<()> {
        enter(device, CallKind::Revoke)?;
        comm.revoke(device.shared())
    }

    fn releases(comm: &Comm) -> Releases {
        comm.releases()
    }

    fn abort(device: &Device, comm: Comm) -> Result<()> {
        enter(device, CallKind::Abort)?;
        comm.abort(device.shared())
    }

    fn can_suspend(comm: &Comm) -> Result<()> {
        comm.can_suspend()
    }

    fn suspend(device: &Device, comm: &Comm) -> Result<u64> {
        enter(device, CallKind::Suspend)?;
        comm.suspend()
    }

    fn resume(device: &Device, comm: &Comm) -> Result<()> {
        enter(device, CallKind::Resume)?;
        comm.resume()
    }

    fn is_done(stream: &HostStream) -> Result<bool> {
        stream.is_done()
    }

    fn recover(device: &Device) -> Result<()> {
        enter(device, CallKind::Recover)?;
        device.shared().recover()
    }

    fn facts(device: &Device) -> Vec<(String, String)> {
        device.shared().options.facts()
    }

    fn version(comm: &Comm) -> u32 {
        comm.version()
    }

    /// Its rules differ by communicator, and nothing is slower for having been captured.
    fn kernels_of_all(_comm: &Comm) -> Option<fn(&Device, &Comm) -> Result<bool>> {
        None
    }

    fn register(device: &Device, comm: &Comm, segment: &Segment) -> Result<Option<Window>> {
        let outcome = enter(device, CallKind::Register)?;
        comm.register(segment, outcome)
    }

    fn deregister(device: &Device, comm: &Comm, window: Window) -> Result<()> {
        enter(device, CallKind::Deregister)?;
        comm.deregister(&window)
    }

    fn symmetric_kernels(device: &Device, comm: &Comm, segment: &Segment) -> Result<bool> {
        enter(device, CallKind::SymmetricKernels)?;
        Ok(comm.has_window(segment))
    }

    fn window_handle(window: &Window) -> *mut c_void {
        window.handle()
    }

    fn peer_address(comm: &Comm, window: &Window, offset: u64, peer: usize) -> Result<Option<u64>> {
        comm.peer_address(window, offset, peer)
    }

    unsafe fn launch(
        device: &Device,
        comm: &Comm,
        stream: &HostStream,
        calls: &[Call],
    ) -> Result<()> {
        enter(device, CallKind::Launch)?;
        same_device(device, stream.device(), "launch: the stream")?;
        comm.launch(stream, calls)
    }

    /// The host has nothing that a mode could keep away.
    fn begin_capture(device: &Device, stream: &HostStream, _: CaptureMode) -> Result<Recording> {
        enter(device, CallKind::BeginCapture)?;
        same_device(device, stream.device(), "begin_capture: the stream")?;
        Recording::begin(stream)
    }

    fn end_capture(device: &Device, recording: Recording) -> Result<Graph> {
        enter(device, CallKind::EndCapture)?;
        recording.end()
    }

    fn graph_nodes(_device: &Device, graph: &Graph) -> Result<Vec<String>> {
        Ok(graph.labels())
    }

    unsafe fn launch_graph(device: &Device, graph: &Graph, stream: &HostStream) -> Result<()> {
        enter(device, CallKind::LaunchGraph)?;
        same_device(device, graph.device(), "launch_graph: the graph")?;
        same_device(device, stream.device(), "launch_graph: the stream")?;
        graph.launch(stream)
    }

    fn destroy_graph(device: &Device, graph: Graph) -> Result<()> {
        enter(device, CallKind::DestroyGraph)?;
        graph.destroy()
    }

    /// Real data moves through the host's memory: no larger than tests have the time for.
    const SWEEP: Sweep = Sweep {
        largest: 64 << 10,
        repeats: 3,
        calls: |_| 2,
    };

    fn model(device: &Device) -> Option<String> {
        let costs = device.shared().options.costs;
        costs.map(|costs| costs.model.to_owned())
    }

    fn timed(
        device: &Device,
        stream: &HostStream,
        work: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Duration> {
        let clock = &device.shared().clock;
        Self::synchronize(stream)?;
        let begun = clock.now();
        work()?;
        Self::synchronize(stream)?;
        Ok(clock.now().saturating_sub(begun))
    }
}

/// An error if what a call was given is another device's.
fn same_device(device: &Device, of: &Shared, what: &str) -> Result<()> {
    if ptr::eq(&**device.shared(), of) {
        return Ok(());
    }
    Err(Error::WrongDevice {
        what: what.into(),
        found: format!("host:{}", of.rank()).into(),
        device: Host::describe(device).into(),
    })
}

/// Counts a call, and lets it fail where a fault says so.
fn enter(device: &Device, kind: CallKind) -> Result<Outcome> {
    device.shared().calls.enter(kind)
}

fn enter_on(stream: &HostStream, kind: CallKind) -> Result<Outcome> {
    stream.device().calls.enter(kind)
}
