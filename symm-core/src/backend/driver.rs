//! The calls that a backend provides. Everything above is written against these, so that the host
//! backend tests what runs on GPUs.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use super::call::Call;
use crate::capture::CaptureMode;
use crate::error::Result;
use crate::launch::Launcher;
use crate::rendezvous::Rendezvous;
use crate::scope::routing::Routing;

/// Where a rank sits in its world, and how it reaches its peers.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub struct Seat {
    /// Who started the ranks.
    pub launcher: Launcher,
    /// Rank in the world.
    pub rank: usize,
    /// Ranks of the world.
    pub ranks: usize,
    /// Rank on this host: which device to take.
    pub local_rank: usize,
    /// Ranks on this host.
    pub local_ranks: usize,
    /// Whether each rank is a process of its own.
    pub processes: bool,
    /// Where the ranks meet.
    pub rendezvous: Arc<Rendezvous>,
    /// How long a rank waits for live peers.
    pub deadline: Duration,
}

/// One communicator cut out of the world's. Every rank of the world makes the same split at the
/// same point.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub struct Split {
    /// Equal on all members, distinct for every communicator of the world.
    pub id: u64,
    /// The members' common color, not negative.
    pub color: i32,
    /// World ranks of the members, by their rank in the new communicator.
    pub members: Arc<[usize]>,
    /// This rank's rank in the new communicator.
    pub rank: usize,
}

/// What a revoke can end (`ncclCommRevoke`).
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Releases {
    /// Every kernel and call: NCCL 2.29.7 and later.
    All,
    /// Everything but kernels on windows, which test no abort flag: 2.28.7 to 2.29.6.
    AllButSymmetric,
    /// Nothing: there is no `ncclCommRevoke`.
    Nothing,
}

impl Releases {
    /// What NCCL of this version, as NCCL writes it, can end.
    pub(crate) fn of(version: u32) -> Self {
        match version {
            22_907.. => Self::All,
            22_807.. => Self::AllButSymmetric,
            _ => Self::Nothing,
        }
    }
}

impl Split {
    /// The world itself: all ranks, number 1.
    pub(crate) fn world(seat: &Seat) -> Self {
        Self {
            id: 1,
            color: 0,
            members: (0..seat.ranks).collect(),
            rank: seat.rank,
        }
    }
}

/// How a buffer is used on a stream.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// How far a calibration goes on a backend.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// The largest buffer, in bytes: a power of 2.
    pub largest: u64,
    /// How often each graph is timed.
    pub repeats: usize,
    /// Collectives of a graph, for buffers of so many bytes.
    pub calls: fn(u64) -> usize,
}

/// The calls of a backend. Not for users: reached through [`Backend`](super::Backend) alone.
///
/// Addresses are `u64` on the rank's device, sizes are bytes. Work is enqueued on streams; only
/// calls that say so wait. Every function may be called from any thread, also while another thread
/// is inside another function; the crate serialises calls on one communicator.
#[doc(hidden)]
pub trait Driver: Sized {
    /// `"cuda"` or `"host"`.
    const NAME: &'static str;

    /// Settings of the backend itself.
    type Options: Clone + Debug + Default + Send + Sync;
    /// The rank's device.
    type Device: Debug + Send + Sync + 'static;
    /// A queue of work on a device; a cheap handle.
    type Stream: Clone + Debug + Send + Sync + 'static;
    /// Memory that can become a window: one `ncclMemAlloc`.
    type Segment: Debug + Send + Sync + 'static;
    /// Ordinary device memory, freed behind the work of its stream when dropped.
    type Plain: Debug + Send + 'static;
    /// A communicator.
    type Comm: Debug + Send + Sync + 'static;
    /// A registered segment.
    type Window: Clone + Debug + Send + Sync + 'static;
    /// Orders the uses of one buffer on several streams.
    type Fence: Debug + 'static;
    /// A stream that records its work; dropping it ends that and throws the record away.
    type Recording: Debug;
    /// What was recorded, ready to be launched any number of times. Given back by `destroy_graph`.
    type Graph: Debug + Send + 'static;

    /// This thread's routing for the backend (a thread-local of its own, so that nothing is
    /// erased).
    ///
    /// `None` while the thread is being torn down.
    fn routing<R>(f: impl FnOnce(&Routing<Self>) -> R) -> Option<R>
    where
        Self: super::Backend;

    /// Opens this rank's device. Fails with `Unavailable` or `TooFewDevices` where it cannot run.
    fn open(seat: &Seat, options: &Self::Options) -> Result<Self::Device>;
    /// What names the device in messages, e.g. `cuda:3`.
    fn describe(device: &Self::Device) -> String;
    /// Makes the device usable again after a failure, once all of its work has ended.
    fn recover(device: &Self::Device) -> Result<()>;
    /// What has to be equal on all ranks, as (name, value): NCCL's version and file, the driver,
    /// settings.
    fn facts(device: &Self::Device) -> Vec<(String, String)>;

    /// A new stream that is not ordered with any other.
    fn new_stream(device: &Self::Device) -> Result<Self::Stream>;
    /// Whether two handles are the same stream.
    fn same_stream(a: &Self::Stream, b: &Self::Stream) -> bool;
    /// Whether the stream belongs to the device.
    fn stream_on(device: &Self::Device, stream: &Self::Stream) -> bool;
    /// Makes later work on `stream` wait for all that was enqueued on `on` up to now.
    fn wait_stream(stream: &Self::Stream, on: &Self::Stream) -> Result<()>;
    /// Waits until all work enqueued on the stream is done.
    fn synchronize(stream: &Self::Stream) -> Result<()>;
    /// Whether the work enqueued on the stream is done. Does not wait.
    fn is_done(stream: &Self::Stream) -> Result<bool>;

    /// A segment of `bytes` (a multiple of 2 MiB). Fails with `OutOfMemory`.
    fn alloc_segment(device: &Self::Device, bytes: u64) -> Result<Self::Segment>;
    /// First address of the segment.
    fn segment_base(segment: &Self::Segment) -> u64;
    /// Gives the segment back. No work may use it, no window may be on it.
    fn free_segment(device: &Self::Device, segment: Self::Segment) -> Result<()>;
    /// Ordinary memory of `bytes` (more than 0), usable at once on `stream`. Fails with
    /// `OutOfMemory`.
    fn alloc_plain(stream: &Self::Stream, bytes: u64) -> Result<Self::Plain>;
    /// First address of ordinary memory.
    fn plain_base(plain: &Self::Plain) -> u64;

    /// Enqueues a copy to the device; `src` may be changed as soon as this returns.
    ///
    /// # Safety
    /// `dst..dst + src.len()` is memory of the stream's device that stays allocated until the copy
    /// is done.
    unsafe fn upload(stream: &Self::Stream, dst: u64, src: &[u8]) -> Result<()>;
    /// Copies from the device, behind the stream's work, and waits.
    ///
    /// # Safety
    /// `src..src + dst.len()` is allocated memory of the stream's device.
    unsafe fn download(stream: &Self::Stream, src: u64, dst: &mut [u8]) -> Result<()>;
    /// Enqueues a copy on the device.
    ///
    /// # Safety
    /// Both ranges are memory of the stream's device that stays allocated until the copy is done,
    /// and do not overlap.
    unsafe fn copy(stream: &Self::Stream, dst: u64, src: u64, bytes: u64) -> Result<()>;
    /// Enqueues `bytes` bytes of this value.
    ///
    /// # Safety
    /// As for `copy`.
    unsafe fn fill(stream: &Self::Stream, dst: u64, value: u8, bytes: u64) -> Result<()>;

    /// A fence for the buffer at `addr`, behind all work that is on `owner` now.
    ///
    /// # Safety
    /// The buffer is memory of the stream's device and outlives the fence.
    unsafe fn fence(owner: &Self::Stream, addr: u64, bytes: u64) -> Result<Self::Fence>;
    /// Makes later work on `stream` wait for the uses that `access` conflicts with.
    fn fence_before(fence: &Self::Fence, stream: &Self::Stream, access: Access) -> Result<()>;
    /// Notes the work that is on `stream` now as a use.
    fn fence_after(fence: &Self::Fence, stream: &Self::Stream, access: Access) -> Result<()>;

    /// A communicator of `split`'s members, made without a parent. All members call it at the same
    /// point; they meet over the rendezvous. The world's own has id 1 and all ranks.
    fn connect(device: &Self::Device, seat: &Seat, split: &Split) -> Result<Self::Comm>;
    /// A communicator of some of the parent's ranks. Every rank of the parent calls it at the same
    /// point.
    fn split(device: &Self::Device, parent: &Self::Comm, split: &Split) -> Result<Self::Comm>;
    /// Destroys a communicator. Its work is done, its windows are deregistered.
    fn destroy(device: &Self::Device, comm: Self::Comm) -> Result<()>;
    /// Ends every wait inside the communicator, of kernels and of calls on other threads. May take
    /// seconds; called while other threads are inside calls on the communicator. Nothing is launched
    /// on it afterwards. Fails with `Unsupported` where NCCL cannot (before 2.28.7).
    fn revoke(device: &Self::Device, comm: &Self::Comm) -> Result<()>;
    /// What a revoke can end.
    fn releases(comm: &Self::Comm) -> Releases;
    /// Destroys a communicator of a world that failed: without waiting for peers. No work of it is
    /// under way, no graph holds it.
    fn abort(device: &Self::Device, comm: Self::Comm) -> Result<()>;
    /// Fails with `Unsupported` where NCCL cannot suspend communicators (before 2.29.7).
    fn can_suspend(comm: &Self::Comm) -> Result<()>;
    /// Gives back what NCCL holds for the communicator, windows excepted, and says how many bytes of
    /// this device that is. All ranks call it at the same point; none of its work is under way.
    /// Until it is resumed, nothing else is called on the communicator but `revoke` and `abort`.
    fn suspend(device: &Self::Device, comm: &Self::Comm) -> Result<u64>;
    /// Takes back what a suspended communicator needs. All ranks call it at the same point.
    fn resume(device: &Self::Device, comm: &Self::Comm) -> Result<()>;
    /// The version of NCCL whose rules hold for the communicator, as NCCL writes it (2.30.7 is
    /// 23007).
    fn version(comm: &Self::Comm) -> u32;

    /// What finds out whether collectives on windows would take symmetric kernels among all ranks of a
    /// communicator on which nothing else is ever launched. All ranks call it at the same point, and it
    /// may wait. `None`, on all ranks alike, where that is found out for each communicator alone, by
    /// [`symmetric_kernels`](Driver::symmetric_kernels).
    fn kernels_of_all(comm: &Self::Comm) -> Option<fn(&Self::Device, &Self::Comm) -> Result<bool>>;
    /// Registers the whole segment as a symmetric window. All ranks of the communicator call it at
    /// the same point, in the same order of segments. `None`: this communicator has no windows
    /// (NCCL says success with a NULL window).
    fn register(
        device: &Self::Device,
        comm: &Self::Comm,
        segment: &Self::Segment,
    ) -> Result<Option<Self::Window>>;
    /// Takes the window away. Local; no work uses it any more.
    fn deregister(device: &Self::Device, comm: &Self::Comm, window: Self::Window) -> Result<()>;
    /// Whether collectives on a registered segment take symmetric kernels on this machine, found
    /// out without launching anything. All ranks call it at the same point, right after the
    /// communicator's first registration.
    fn symmetric_kernels(
        device: &Self::Device,
        comm: &Self::Comm,
        segment: &Self::Segment,
    ) -> Result<bool>;
    /// The window's handle for device code (`ncclWindow_t`).
    fn window_handle(window: &Self::Window) -> *mut std::ffi::c_void;
    /// The address at which this rank's device reaches `offset` of `peer`'s memory in the window,
    /// where the backend gives it.
    fn peer_address(
        comm: &Self::Comm,
        window: &Self::Window,
        offset: u64,
        peer: usize,
    ) -> Result<Option<u64>>;

    /// Enqueues the calls, as one NCCL group if there is more than one.
    ///
    /// # Safety
    /// Operands are memory of the stream's device, of the lengths that the operation needs, and
    /// stay allocated until the work is done.
    unsafe fn launch(
        device: &Self::Device,
        comm: &Self::Comm,
        stream: &Self::Stream,
        calls: &[Call],
    ) -> Result<()>;

    /// Records the work of `stream`, and of the streams that come to wait for it, instead of running
    /// it. Until the record ends, these streams are ordered by waits alone: the framework's own
    /// event tracking is off on the device, and a wait for work that is not part of the record is an
    /// error.
    fn begin_capture(
        device: &Self::Device,
        stream: &Self::Stream,
        mode: CaptureMode,
    ) -> Result<Self::Recording>;
    /// Ends the record. All streams that joined it have been waited for by the first. Whatever
    /// happens, nothing is recorded after this and event tracking is as it was.
    fn end_capture(device: &Self::Device, recording: Self::Recording) -> Result<Self::Graph>;
    /// What the graph holds, node by node: names of kernels, else what the node does.
    fn graph_nodes(device: &Self::Device, graph: &Self::Graph) -> Result<Vec<String>>;
    /// Enqueues the recorded work.
    ///
    /// # Safety
    /// All memory that was recorded is still allocated, and stays so until the work is done; the
    /// communicators are alive, their windows registered.
    unsafe fn launch_graph(
        device: &Self::Device,
        graph: &Self::Graph,
        stream: &Self::Stream,
    ) -> Result<()>;
    /// Gives the graph back. No launch of it is under way.
    fn destroy_graph(device: &Self::Device, graph: Self::Graph) -> Result<()>;

    /// How far a calibration goes.
    const SWEEP: Sweep;
    /// What devices have in common on which collectives are as fast: the GPU's name. `None` where no
    /// measurement is worth keeping. The same on all ranks, or `None` on all.
    fn model(device: &Self::Device) -> Option<String>;
    /// Enqueues `work` on the stream, waits for it, and returns how long it took the device.
    fn timed(
        device: &Self::Device,
        stream: &Self::Stream,
        work: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Duration>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_revoke_ends_follows_the_version() {
        let found = [22_706, 22_803, 22_807, 22_809, 22_903, 22_907, 23_007].map(Releases::of);
        let (nothing, some, all) = (Releases::Nothing, Releases::AllButSymmetric, Releases::All);
        assert_eq!(found, [nothing, nothing, some, some, some, all, all]);
    }
}
