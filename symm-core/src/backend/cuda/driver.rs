//! The backend's calls, each to the module that has it.

use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::CudaStream;

use super::capture::Recording;
use super::comm::{Comm, Window};
use super::device::{self, Device};
use super::fence::Fence;
use super::graph::Graph;
use super::memory::{self, Plain, Segment};
use super::{Cuda, NAME, collective, facts, kernels, timing};
use crate::backend::call::Call;
use crate::backend::driver::{Access, Driver, Releases, Seat, Split, Sweep};
use crate::capture::CaptureMode;
use crate::error::Result;
use crate::scope::routing::Routing;

#[diagnostic::do_not_recommend]
impl Driver for Cuda {
    const NAME: &'static str = NAME;

    type Options = ();
    type Device = Device;
    type Stream = Arc<CudaStream>;
    type Segment = Segment;
    type Plain = Plain;
    type Comm = Comm;
    type Window = Window;
    type Fence = Fence;
    type Recording = Recording;
    type Graph = Graph;

    #[inline]
    fn routing<R>(f: impl FnOnce(&Routing<Self>) -> R) -> Option<R> {
        thread_local!(static ROUTING: Routing<Cuda> = const { Routing::new() });
        ROUTING.try_with(f).ok()
    }

    fn open(seat: &Seat, (): &()) -> Result<Device> {
        Device::open(seat)
    }

    fn describe(device: &Device) -> String {
        format!("cuda:{}", device.context.ordinal())
    }

    fn recover(device: &Device) -> Result<()> {
        device.recover()
    }

    fn facts(device: &Device) -> Vec<(String, String)> {
        facts::of(device)
    }

    fn new_stream(device: &Device) -> Result<Self::Stream> {
        device.new_stream()
    }

    fn same_stream(a: &Self::Stream, b: &Self::Stream) -> bool {
        a == b
    }

    fn stream_on(device: &Device, stream: &Self::Stream) -> bool {
        *stream.context() == device.context
    }

    fn wait_stream(stream: &Self::Stream, on: &Self::Stream) -> Result<()> {
        device::wait(stream, on)
    }

    fn synchronize(stream: &Self::Stream) -> Result<()> {
        device::synchronize(stream)
    }

    fn is_done(stream: &Self::Stream) -> Result<bool> {
        device::is_done(stream)
    }

    fn alloc_segment(device: &Device, bytes: u64) -> Result<Segment> {
        memory::alloc_segment(device, bytes)
    }

    fn segment_base(segment: &Segment) -> u64 {
        segment.base
    }

    fn free_segment(device: &Device, segment: Segment) -> Result<()> {
        memory::free_segment(device, segment)
    }

    fn alloc_plain(stream: &Self::Stream, bytes: u64) -> Result<Plain> {
        Plain::alloc(stream, bytes)
    }

    fn plain_base(plain: &Plain) -> u64 {
        plain.base()
    }

    unsafe fn upload(stream: &Self::Stream, dst: u64, src: &[u8]) -> Result<()> {
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { memory::upload(stream, dst, src) }
    }

    unsafe fn download(stream: &Self::Stream, src: u64, dst: &mut [u8]) -> Result<()> {
        // SAFETY: as above.
        unsafe { memory::download(stream, src, dst) }
    }

    unsafe fn copy(stream: &Self::Stream, dst: u64, src: u64, bytes: u64) -> Result<()> {
        // SAFETY: as above.
        unsafe { memory::copy(stream, dst, src, bytes) }
    }

    unsafe fn fill(stream: &Self::Stream, dst: u64, value: u8, bytes: u64) -> Result<()> {
        // SAFETY: as above.
        unsafe { memory::fill(stream, dst, value, bytes) }
    }

    unsafe fn fence(owner: &Self::Stream, addr: u64, bytes: u64) -> Result<Fence> {
        // SAFETY: as above.
        unsafe { Fence::new(owner, addr, bytes) }
    }

    fn fence_before(fence: &Fence, stream: &Self::Stream, _: Access) -> Result<()> {
        fence.before(stream)
    }

    fn fence_after(fence: &Fence, stream: &Self::Stream, _: Access) -> Result<()> {
        fence.after(stream)
    }

    fn connect(device: &Device, seat: &Seat, split: &Split) -> Result<Comm> {
        Comm::connect(device, seat, split)
    }

    fn split(device: &Device, parent: &Comm, split: &Split) -> Result<Comm> {
        Comm::split(device, parent, split)
    }

    fn destroy(device: &Device, comm: Comm) -> Result<()> {
        comm.destroy(device)
    }

    fn revoke(device: &Device, comm: &Comm) -> Result<()> {
        comm.revoke(device)
    }

    fn releases(comm: &Comm) -> Releases {
        comm.releases()
    }

    fn abort(device: &Device, comm: Comm) -> Result<()> {
        comm.abort(device)
    }

    fn can_suspend(comm: &Comm) -> Result<()> {
        comm.can_suspend()
    }

    fn suspend(device: &Device, comm: &Comm) -> Result<u64> {
        comm.suspend(device)
    }

    fn resume(device: &Device, comm: &Comm) -> Result<()> {
        comm.resume(device)
    }

    fn version(comm: &Comm) -> u32 {
        comm.version()
    }

    fn kernels_of_all(comm: &Comm) -> Option<fn(&Device, &Comm) -> Result<bool>> {
        kernels::can_tell_of_all(comm).then_some(kernels::of_all)
    }

    fn register(device: &Device, comm: &Comm, segment: &Segment) -> Result<Option<Window>> {
        comm.register(device, segment)
    }

    fn deregister(device: &Device, comm: &Comm, window: Window) -> Result<()> {
        comm.deregister(device, window)
    }

    fn symmetric_kernels(device: &Device, comm: &Comm, segment: &Segment) -> Result<bool> {
        kernels::symmetric_kernels(device, comm, segment)
    }

    fn window_handle(window: &Window) -> *mut c_void {
        window.as_raw()
    }

    fn peer_address(comm: &Comm, window: &Window, offset: u64, peer: usize) -> Result<Option<u64>> {
        comm.peer_address(window, offset, peer)
    }

    unsafe fn launch(
        device: &Device,
        comm: &Comm,
        stream: &Self::Stream,
        calls: &[Call],
    ) -> Result<()> {
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { collective::launch(device, comm, stream, calls) }
    }

    fn begin_capture(
        device: &Device,
        stream: &Self::Stream,
        mode: CaptureMode,
    ) -> Result<Recording> {
        Recording::begin(stream, &device.context, mode)
    }

    fn end_capture(_: &Device, recording: Recording) -> Result<Graph> {
        recording.finish()
    }

    fn graph_nodes(device: &Device, graph: &Graph) -> Result<Vec<String>> {
        graph.nodes(device)
    }

    unsafe fn launch_graph(device: &Device, graph: &Graph, stream: &Self::Stream) -> Result<()> {
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { graph.launch(device, stream) }
    }

    fn destroy_graph(device: &Device, graph: Graph) -> Result<()> {
        graph.destroy(device)
    }

    const SWEEP: Sweep = timing::SWEEP;

    fn model(device: &Device) -> Option<String> {
        timing::model(device)
    }

    fn timed(
        _: &Device,
        stream: &Self::Stream,
        work: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Duration> {
        timing::timed(stream, work)
    }
}
