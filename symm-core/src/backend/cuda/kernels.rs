//! Which kernels some work takes, found out without running it.

use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::capture::Recording;
use super::collective;
use super::comm::Comm;
use super::device::Device;
use super::memory::{self, Segment};
use super::mode::Relaxed;
use super::nodes::{self, Node};
use crate::backend::call::{Call, Op, ReduceOp};
use crate::capture::CaptureMode;
use crate::element::Dtype;
use crate::error::{Error, Result};
use crate::pool::SEGMENT_GRANULE;

/// The kernels that `enqueue` puts on `stream`, by name, in the order in which the driver lists
/// them. Nothing runs.
///
/// The work is captured into a graph that is thrown away. So what `enqueue` enqueues on `stream`
/// has no effect, and `enqueue` must not wait for it. NCCL's symmetric kernels are called
/// `ncclSymkDevKernel_..` (2.27: `ncclSymDevKernel_..`), its others `ncclDevKernel_..`. Every rank
/// of a communicator whose collectives are asked about makes the same call.
///
/// Memory used in `enqueue` should have been used on `stream` alone before: waiting for work of
/// another stream that is not part of the capture is an error. cudarc's event tracking is off on
/// the stream's context meanwhile.
///
/// ```no_run
/// use symm_core::{Cuda, ReduceOp, World, cuda, groups, symm};
/// groups! { pub Tp = "tp"; }
///
/// World::<Cuda>::run(2, |world| {
///     let tp = world.split::<Tp>(0, 0)?;
///     let mut x = symm!(group = tp, { tp.zeros::<f32>(1024)? })?;
///     let kernels = cuda::kernel_names(world.stream(), || tp.all_reduce_in_place(&mut x, ReduceOp::Sum).map(drop))?;
///     assert!(kernels.iter().any(|name| name.starts_with("ncclSymkDevKernel")), "{kernels:?}");
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
///
/// # Errors
/// Those of `enqueue`; [`Error::Unsupported`] with a driver before CUDA 12.3; [`Error::Backend`].
pub fn kernel_names<E: From<Error>>(
    stream: &Arc<CudaStream>,
    enqueue: impl FnOnce() -> Result<(), E>,
) -> Result<Vec<String>, E> {
    if !nodes::can_name_kernels() {
        return Err(E::from(Error::Unsupported {
            what: "naming kernels",
            why: "it needs a driver of CUDA 12.3 or later".into(),
        }));
    }
    // Relaxed: nothing is going to run, so there is nothing to protect, and what the closure does
    // besides is its own affair.
    let recording = Recording::begin(stream, stream.context(), CaptureMode::Relaxed)?;
    enqueue()?;
    let kernels = recording.end()?.nodes()?.into_iter();
    let name = |node| match node {
        Node::Kernel(name) => name,
        Node::Other(_) => None,
    };
    Ok(kernels.filter_map(name).collect())
}

/// Whether [`of_all`] has an answer for the communicator.
pub(super) fn can_tell_of_all(comm: &Comm) -> bool {
    comm.size() > 1 && nodes::can_name_kernels()
}

/// The same without a segment, for a communicator on which nothing is ever launched.
///
/// Once something was captured on a communicator, NCCL orders each of its launches with graphs, by
/// two calls of the driver: 1.5 us (`everCaptured` in `strongstream.cc`). So the question is asked of
/// the world's communicator, and of a group's own only where the world's answer says nothing.
pub(super) fn of_all(device: &Device, comm: &Comm) -> Result<bool> {
    let segment = memory::alloc_segment(device, SEGMENT_GRANULE)?;
    let found = on_segment(device, comm, &segment);
    let freed = memory::free_segment(device, segment);
    found.and_then(|found| freed.map(|()| found))
}

fn on_segment(device: &Device, comm: &Comm, segment: &Segment) -> Result<bool> {
    let Some(window) = comm.register(device, segment)? else {
        return Ok(false);
    };
    let found = symmetric_kernels(device, comm, segment);
    let gone = comm.deregister(device, window);
    found.and_then(|found| gone.map(|()| found))
}

/// Whether NCCL takes a symmetric kernel for an all_reduce in place at the start of the segment,
/// which is registered with `comm`. All other conditions of NCCL (all pairs by NVLink, windows
/// switched off, its own choice) show in this one answer.
pub(super) fn symmetric_kernels(device: &Device, comm: &Comm, segment: &Segment) -> Result<bool> {
    if comm.size() == 1 {
        return Ok(false); // a copy, no kernel
    }
    if !nodes::can_name_kernels() {
        return Ok(true); // windows are there for symmetric kernels
    }
    let _relaxed = Relaxed::enter(device)?;
    let stream = device.new_stream()?;
    let op = Op::AllReduce(ReduceOp::Sum);
    let call = Call {
        op,
        dtype: Dtype::F32,
        count: 1024,
        send: segment.base,
        recv: segment.base,
        avoid_windows: false,
    };
    // SAFETY: the captured work never runs, so it touches nothing.
    let names = kernel_names(&stream, || unsafe {
        collective::launch(device, comm, &stream, &[call])
    })?;
    Ok(names
        .iter()
        .any(|name| name.starts_with("ncclSymkDevKernel") || name.starts_with("ncclSymDevKernel")))
}
