//! Segments, ordinary memory, and copies.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DriverError, result, sys};

use super::device::{BIND, Device, out_of_memory, stream_error};
use super::mode::Relaxed;
use super::nccl_sys::UNHANDLED_CUDA_ERROR;
use crate::error::{Error, Result};

/// One `ncclMemAlloc`. Given back by [`free_segment`] alone, because only the pool knows when its
/// last window is gone.
#[derive(Debug)]
pub struct Segment {
    pub(super) base: u64,
    pub(super) bytes: u64,
}

/// Ordinary memory; cudarc frees it behind the work of its stream.
#[derive(Debug)]
pub struct Plain {
    base: u64,
    _memory: CudaSlice<u8>,
}

pub(super) fn alloc_segment(device: &Device, bytes: u64) -> Result<Segment> {
    device.bind()?;
    let _relaxed = Relaxed::enter(device)?;
    let mut base = ptr::null_mut();
    // SAFETY: the pointer is to a live variable.
    let code = unsafe { (device.nccl.ncclMemAlloc)(&mut base, bytes as usize) };
    if code == UNHANDLED_CUDA_ERROR {
        // NCCL keeps the driver's code to itself.
        let (free, _total) = device
            .context
            .mem_get_info()
            .map_err(|error| device.error("cuMemGetInfo", error))?;
        if bytes > free as u64 {
            return Err(Error::OutOfMemory {
                rank: device.rank,
                need: bytes,
                what: "a segment (ncclMemAlloc)".into(),
            });
        }
    }
    device.check("ncclMemAlloc", code)?;
    let segment = Segment {
        base: base as u64,
        bytes,
    };
    if let Err(error) = exportable(base) {
        free_segment(device, segment)?;
        let why = "ncclMemAlloc fell back to cudaMalloc, whose memory no window can cover: unset NCCL_CUMEM_ENABLE=0, and see that the driver has \
                   virtual memory management";
        return Err(match error.0 {
            sys::CUresult::CUDA_ERROR_INVALID_VALUE => Error::Unsupported {
                what: "symmetric memory",
                why: why.into(),
            },
            _ => device.error("cuMemRetainAllocationHandle", error),
        });
    }
    Ok(segment)
}

/// Whether the memory is a mapping of a handle that peers can be given.
fn exportable(base: *mut c_void) -> Result<(), DriverError> {
    let mut handle = Default::default();
    // SAFETY: the pointer is to a live variable; the handle is given back at once.
    unsafe {
        sys::cuMemRetainAllocationHandle(&mut handle, base).result()?;
        sys::cuMemRelease(handle).result()
    }
}

pub(super) fn free_segment(device: &Device, segment: Segment) -> Result<()> {
    if !device.bind_to_release()? {
        return Ok(());
    }
    let _relaxed = Relaxed::enter(device)?;
    // SAFETY: the segment is ncclMemAlloc's, owned and therefore freed once; the caller vouches
    // that nothing uses it.
    device.check("ncclMemFree", unsafe {
        (device.nccl.ncclMemFree)(segment.base as *mut c_void)
    })
}

impl Plain {
    pub(super) fn alloc(stream: &Arc<CudaStream>, bytes: u64) -> Result<Self> {
        // A capture on this thread may refuse it on other streams than its own, too.
        let _relaxed = Relaxed::if_strict_on(stream)?;
        // SAFETY: bytes of any value are valid bytes.
        let memory =
            unsafe { stream.alloc::<u8>(bytes as usize) }.map_err(|error| match error.0 {
                sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                    out_of_memory(stream, bytes, "ordinary memory")
                }
                _ => stream_error(stream, "cuMemAllocAsync", error),
            })?;
        let base = memory.device_ptr(stream).0;
        Ok(Self {
            base,
            _memory: memory,
        })
    }

    /// Memory that cudarc allocated, all of it. It is freed behind the work of the slice's own
    /// stream, as before, and that stream comes to wait for all earlier uses that cudarc's events
    /// know of (not in a capture), so that the new owner has only to order later ones with it.
    pub(crate) fn adopt<T>(slice: CudaSlice<T>) -> Result<Self> {
        let (stream, bytes) = (Arc::clone(slice.stream()), slice.num_bytes());
        // `upgrade_device_ptr` unwraps the events that it makes: let a broken context be an error
        // here, where the slice still frees its memory.
        drop(
            stream
                .context()
                .new_event(None)
                .map_err(|error| stream_error(&stream, "cuEventCreate", error))?,
        );
        let base = slice.leak();
        // SAFETY: the memory is `bytes` long, and nobody else's since the line above. Bytes of any
        // value are valid bytes.
        let memory = unsafe { stream.upgrade_device_ptr::<u8>(base, bytes) };
        // `leak` leaves its errors with the context.
        stream
            .context()
            .check_err()
            .map_err(|error| stream_error(&stream, "cuStreamWaitEvent", error))?;
        Ok(Self {
            base,
            _memory: memory,
        })
    }

    pub(super) fn base(&self) -> u64 {
        self.base
    }
}

/// Runs a call of the driver on the stream, its context current.
fn on(
    stream: &CudaStream,
    call: &'static str,
    run: impl FnOnce() -> Result<(), DriverError>,
) -> Result<()> {
    stream
        .context()
        .bind_to_thread()
        .map_err(|error| stream_error(stream, BIND, error))?;
    run().map_err(|error| stream_error(stream, call, error))
}

/// Refuses a copy from or to the host in a capture: the graph would keep the address of host memory
/// that is borrowed for one call, and use it at every launch.
fn not_capturing(stream: &CudaStream, what: &'static str) -> Result<()> {
    let status = stream
        .capture_status()
        .map_err(|error| stream_error(stream, "cuStreamIsCapturing", error))?;
    match status {
        sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE => Ok(()),
        _ => Err(Error::Unsupported {
            what,
            why: "a graph would use the host's memory at every launch: copy before or after it"
                .into(),
        }),
    }
}

/// # Safety
/// As for `Driver::upload`.
pub(super) unsafe fn upload(stream: &CudaStream, dst: u64, src: &[u8]) -> Result<()> {
    not_capturing(stream, "copying from the host in a capture")?;
    // SAFETY: the caller vouches for `dst`. The driver stages pageable memory before it returns;
    // other memory is waited for below.
    on(stream, "cuMemcpyHtoDAsync", || unsafe {
        result::memcpy_htod_async(dst, src, stream.cu_stream())
    })?;
    match is_pinned(src) {
        true => super::device::synchronize(stream),
        false => Ok(()),
    }
}

/// Whether the driver knows the memory, and would therefore read it after a copy from it returned.
fn is_pinned(src: &[u8]) -> bool {
    let mut kind = 0u32;
    let which = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
    // SAFETY: the attribute is an unsigned integer; any address may be asked about.
    let known =
        unsafe { sys::cuPointerGetAttribute((&raw mut kind).cast(), which, src.as_ptr() as u64) };
    known == sys::CUresult::CUDA_SUCCESS && kind != 0
}

/// # Safety
/// As for `Driver::download`.
pub(super) unsafe fn download(stream: &CudaStream, src: u64, dst: &mut [u8]) -> Result<()> {
    not_capturing(stream, "copying to the host in a capture")?;
    // A copy to pageable memory waits with a lock of the context held; a rank that shares the device
    // may need it to launch what is waited for.
    super::device::synchronize(stream)?;
    // SAFETY: the caller vouches for `src`; `dst` is borrowed until the copy is done.
    on(stream, "cuMemcpyDtoHAsync", || unsafe {
        result::memcpy_dtoh_async(dst, src, stream.cu_stream())
    })?;
    super::device::synchronize(stream)
}

/// # Safety
/// As for `Driver::copy`.
pub(super) unsafe fn copy(stream: &CudaStream, dst: u64, src: u64, bytes: u64) -> Result<()> {
    // SAFETY: the caller vouches for both ranges.
    on(stream, "cuMemcpyDtoDAsync", || unsafe {
        result::memcpy_dtod_async(dst, src, bytes as usize, stream.cu_stream())
    })
}

/// # Safety
/// As for `Driver::fill`.
pub(super) unsafe fn fill(stream: &CudaStream, dst: u64, value: u8, bytes: u64) -> Result<()> {
    // SAFETY: the caller vouches for the range.
    on(stream, "cuMemsetD8Async", || unsafe {
        result::memset_d8_async(dst, value, bytes as usize, stream.cu_stream())
    })
}
