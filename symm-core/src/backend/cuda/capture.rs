//! Stream captures: calling NCCL inside one, and asking one which kernels it holds.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem;
use std::ptr;
use std::sync::{Arc, OnceLock};

use cudarc::driver::{CudaStream, result, sys};

use super::collective;
use super::comm::Comm;
use super::device::{BIND, Device, rank_of, stream_error};
use super::libcuda;
use super::memory::Segment;
use crate::backend::call::{Call, Op, ReduceOp};
use crate::element::Dtype;
use crate::error::{Error, Result};

const RELAXED: sys::CUstreamCaptureMode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;

/// Lets this thread make calls that a capture on it would refuse (mapping memory, waiting on
/// streams outside the capture), until dropped.
#[must_use]
pub(super) struct Relaxed(sys::CUstreamCaptureMode);

impl Relaxed {
    pub(super) fn enter(device: &Device) -> Result<Self> {
        let mut mode = RELAXED;
        // SAFETY: the pointer is to a live variable, which gets the thread's former mode.
        let exchanged = unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) };
        exchanged
            .result()
            .map_err(|error| device.error("cuThreadExchangeStreamCaptureMode", error))?;
        Ok(Self(mode))
    }
}

impl Drop for Relaxed {
    fn drop(&mut self) {
        // SAFETY: as above. It fails only when the process is exiting.
        let _ = unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut self.0) };
    }
}

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
    let names = Names::get().ok_or(Error::Unsupported {
        what: "naming kernels",
        why: "it needs a driver of CUDA 12.3 or later".into(),
    })?;
    let capture = Capture::begin(stream)?;
    let enqueued = enqueue();
    // In either case: a stream that is left capturing is of no use to anyone.
    let graph = capture.end();
    enqueued?;
    Ok(graph?.kernels(names)?)
}

/// Whether NCCL takes a symmetric kernel for an all_reduce in place at the start of the segment,
/// which is registered with `comm`. All other conditions of NCCL (all pairs by NVLink, windows
/// switched off, its own choice) show in this one answer.
pub(super) fn symmetric_kernels(device: &Device, comm: &Comm, segment: &Segment) -> Result<bool> {
    if comm.size() == 1 {
        return Ok(false); // a copy, no kernel
    }
    if Names::get().is_none() {
        return Ok(true); // a driver that cannot name kernels: windows are there for symmetric kernels
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

/// A stream that is capturing; ends it, and throws away what it captured, when dropped.
struct Capture<'a> {
    stream: &'a Arc<CudaStream>,
    tracking: bool,
    open: bool,
}

impl<'a> Capture<'a> {
    /// Relaxed: nothing is going to run, so there is nothing to protect, and what the closure does
    /// besides is its own affair.
    fn begin(stream: &'a Arc<CudaStream>) -> Result<Self> {
        let context = stream.context();
        stream
            .begin_capture(RELAXED)
            .map_err(|error| stream_error(stream, "cuStreamBeginCapture", error))?;
        let tracking = context.is_event_tracking();
        // SAFETY: a captured stream can neither wait for events from before the capture nor leave
        // events behind, and nothing of it runs, so there is nothing to order.
        unsafe { context.disable_event_tracking() };
        Ok(Self {
            stream,
            tracking,
            open: true,
        })
    }

    fn end(mut self) -> Result<Graph<'a>> {
        self.stream
            .context()
            .bind_to_thread()
            .map_err(|error| stream_error(self.stream, BIND, error))?;
        self.open = false;
        // SAFETY: the stream is alive and capturing.
        let graph = unsafe { result::stream::end_capture(self.stream.cu_stream()) };
        graph
            .map(|graph| Graph {
                graph,
                stream: self.stream,
            })
            .map_err(|error| stream_error(self.stream, "cuStreamEndCapture", error))
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if self.open {
            // SAFETY: as in `end`; reached when the closure panicked.
            let graph = unsafe { result::stream::end_capture(self.stream.cu_stream()) };
            drop(graph.map(|graph| Graph {
                graph,
                stream: self.stream,
            }));
        }
        if self.tracking {
            // SAFETY: slices made during the capture without events were used in it alone, where
            // nothing ran.
            unsafe { self.stream.context().enable_event_tracking() };
        }
    }
}

/// What was captured; NULL when the capture had failed.
struct Graph<'a> {
    graph: sys::CUgraph,
    stream: &'a Arc<CudaStream>,
}

impl Graph<'_> {
    fn kernels(&self, names: &Names) -> Result<Vec<String>> {
        let check = |call, code: c_int| match code {
            0 => Ok(()),
            code => Err(libcuda::code_error(
                rank_of(self.stream.context()),
                call,
                code,
            )),
        };
        let graph = self.graph.cast::<c_void>();
        let mut count = 0;
        // SAFETY: without a list the call only counts.
        check("cuGraphGetNodes", unsafe {
            (names.nodes)(graph, ptr::null_mut(), &mut count)
        })?;
        if count == 0 {
            return Ok(Vec::new()); // the driver takes no empty list
        }
        let mut nodes = vec![ptr::null_mut(); count];
        // SAFETY: the list has room for `count` nodes.
        check("cuGraphGetNodes", unsafe {
            (names.nodes)(graph, nodes.as_mut_ptr(), &mut count)
        })?;

        let mut kernels = Vec::new();
        for node in nodes {
            let mut kind = 0;
            // SAFETY: the node is of the live graph.
            check("cuGraphNodeGetType", unsafe {
                (names.kind)(node, &mut kind)
            })?;
            if kind != KERNEL_NODE {
                continue;
            }
            // SAFETY: zero is a value of each of its fields.
            let mut kernel: KernelNode = unsafe { mem::zeroed() };
            // SAFETY: the node is a kernel's, and the structure is large enough for version 2 of
            // its description.
            check("cuGraphKernelNodeGetParams", unsafe {
                (names.kernel)(node, &mut kernel)
            })?;
            let mut name = ptr::null();
            // SAFETY: the driver fills one of the two handles, depending on how the kernel was
            // loaded.
            check("cuFuncGetName", unsafe {
                match kernel.function.is_null() {
                    true => (names.kernel_name)(&mut name, kernel.kernel),
                    false => (names.function_name)(&mut name, kernel.function),
                }
            })?;
            // SAFETY: the driver keeps the string as long as the kernel is loaded.
            let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
            kernels.push(unmangled(&name).to_owned());
        }
        Ok(kernels)
    }
}

/// The function's own name in a C++ symbol, `f` of `_Z1fPfi`; other names as they are.
fn unmangled(symbol: &str) -> &str {
    let found = symbol.strip_prefix("_Z").and_then(|rest| {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let length = rest[..digits].parse::<usize>().ok()?;
        rest[digits..].get(..length)
    });
    found.unwrap_or(symbol)
}

impl Drop for Graph<'_> {
    fn drop(&mut self) {
        if !self.graph.is_null() {
            // SAFETY: owned, never instantiated, destroyed once. NCCL waits for it before it
            // destroys a communicator that was captured.
            let destroyed = unsafe { result::graph::destroy(self.graph) };
            self.stream.context().record_err(destroyed);
        }
    }
}

/// `CU_GRAPH_NODE_TYPE_KERNEL`.
const KERNEL_NODE: c_int = 0;

/// `CUDA_KERNEL_NODE_PARAMS_v2`.
#[repr(C)]
struct KernelNode {
    function: *mut c_void,
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared_bytes: c_uint,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
    kernel: *mut c_void,
    context: *mut c_void,
}

/// The driver's functions for looking into a graph, in a table of our own: cudarc binds two of them
/// for some versions of CUDA only, panics where a driver lacks one, and has node types as an
/// `enum`, which a newer driver may overrun.
struct Names {
    nodes: unsafe extern "C" fn(*mut c_void, *mut *mut c_void, *mut usize) -> c_int,
    kind: unsafe extern "C" fn(*mut c_void, *mut c_int) -> c_int,
    kernel: unsafe extern "C" fn(*mut c_void, *mut KernelNode) -> c_int,
    function_name: unsafe extern "C" fn(*mut *const c_char, *mut c_void) -> c_int,
    kernel_name: unsafe extern "C" fn(*mut *const c_char, *mut c_void) -> c_int,
}

impl Names {
    fn get() -> Option<&'static Self> {
        static NAMES: OnceLock<Option<Names>> = OnceLock::new();
        let look_up = || {
            // SAFETY: the types are those of cuda.h.
            unsafe {
                Some(Names {
                    nodes: *libcuda::symbol("cuGraphGetNodes")?,
                    kind: *libcuda::symbol("cuGraphNodeGetType")?,
                    kernel: *libcuda::symbol("cuGraphKernelNodeGetParams_v2")?,
                    function_name: *libcuda::symbol("cuFuncGetName")?,
                    kernel_name: *libcuda::symbol("cuKernelGetName")?,
                })
            }
        };
        NAMES.get_or_init(look_up).as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::unmangled;

    #[test]
    fn symbols_are_named_as_people_name_them() {
        assert_eq!(
            unmangled("_Z43ncclSymkDevKernel_AllReduce_AGxLL_R_sum_f3221ncclSymkDevWorkArgs4K"),
            "ncclSymkDevKernel_AllReduce_AGxLL_R_sum_f32"
        );
        for other in ["plain", "_Zsomething", "_Z99short", "_ZN4cute3addE", ""] {
            assert_eq!(unmangled(other), other);
        }
    }
}
