//! A rank's device and its streams.

use std::env;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};

use super::libcuda;
use super::nccl_sys::{Nccl, SHARED_DEVICES, SUCCESS, nccl, nccl_candidates};
use super::probe::{DeviceInfo, DriverInfo, NcclInfo, Probe};
use crate::backend::defects::EARLY_READ;
use crate::backend::driver::Seat;
use crate::error::{Error, Result};

/// The device of one rank. Ranks that share a GPU have one of these each.
#[derive(Debug)]
pub struct Device {
    pub(super) rank: usize,
    pub(super) context: Arc<CudaContext>,
    pub(super) nccl: &'static Nccl,
    /// Four bytes to write to, where [`EARLY_READ`] asks for it.
    scratch: Option<sys::CUdeviceptr>,
}

impl Device {
    pub(super) fn open(seat: &Seat) -> Result<Self> {
        libcuda::init()?;
        let nccl = nccl()?;
        nccl.alone()?;
        let fail = |call| move |error| libcuda::error(seat.rank, call, error);
        let devices = CudaContext::device_count()
            .map_err(fail("cuDeviceGetCount"))?
            .unsigned_abs() as usize;
        let shared = nccl.version >= SHARED_DEVICES
            && env::var_os("NCCL_MULTI_RANK_GPU_ENABLE").is_some_and(|value| value == "1");
        // A launcher may show each process its own GPU alone; NCCL refuses two ranks that were
        // shown the same one.
        let own = seat.processes && devices == 1;
        if devices == 0 || (seat.local_ranks > devices && !shared && !own) {
            return Err(Error::TooFewDevices {
                ranks: seat.local_ranks,
                devices,
            });
        }
        let context = CudaContext::new(seat.local_rank % devices)
            .map_err(fail("cuDevicePrimaryCtxRetain"))?;
        note_rank(&context, seat.rank);
        let scratch = EARLY_READ.affects(nccl.version).then(|| {
            // SAFETY: freed once, when the device is dropped.
            unsafe { result::malloc_sync(4) }.map_err(fail("cuMemAlloc"))
        });
        Ok(Self {
            rank: seat.rank,
            context,
            nccl,
            scratch: scratch.transpose()?,
        })
    }

    pub(super) fn error(&self, call: &'static str, error: DriverError) -> Error {
        libcuda::error(self.rank, call, error)
    }

    /// Makes the device current on this thread. The driver and NCCL work on the thread's current
    /// device.
    pub(super) fn bind(&self) -> Result<()> {
        self.context
            .bind_to_thread()
            .map_err(|error| self.error(BIND, error))
    }

    /// The same for calls that give something back: `false` when the process is exiting and nothing
    /// is left to give back.
    pub(super) fn bind_to_release(&self) -> Result<bool> {
        match self.context.bind_to_thread() {
            Ok(()) => Ok(true),
            Err(error) if libcuda::is_gone(error) => Ok(false),
            Err(error) => Err(self.error(BIND, error)),
        }
    }

    /// Nothing has to be mended: an error that a destructor recorded is of the failed world, and is
    /// dropped. Fails where the context is lost, with which every call fails from then on.
    pub(super) fn recover(&self) -> Result<()> {
        let _ = self.context.check_err();
        self.bind()?;
        result::mem_get_info()
            .map(drop)
            .map_err(|error| self.error("cuMemGetInfo", error))
    }

    /// Keeps the next kernel on the stream from starting before the last one is done, where a defect
    /// of NCCL lets it.
    pub(super) fn separate(&self, stream: &CudaStream) -> Result<()> {
        let Some(scratch) = self.scratch else {
            return Ok(());
        };
        // SAFETY: the four bytes are the device's as long as it lives, and nothing reads them.
        unsafe { result::memset_d8_async(scratch, 0, 4, stream.cu_stream()) }
            .map_err(|error| self.error("cuMemsetD8Async", error))
    }

    /// What a call of NCCL returned.
    pub(super) fn check(&self, call: &'static str, code: i32) -> Result<()> {
        match code {
            SUCCESS => Ok(()),
            code => Err(Error::Backend {
                rank: self.rank,
                call,
                code,
                text: self.nccl.explain(code).into(),
            }),
        }
    }

    /// Not `CudaContext::new_stream`: that synchronises the whole context the first time, which
    /// deadlocks where a rank's kernel waits for another rank of the same device.
    pub(super) fn new_stream(&self) -> Result<Arc<CudaStream>> {
        self.context
            .per_thread_stream()
            .fork()
            .map_err(|error| self.error("cuStreamCreate", error))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Dropped behind all groups, which waited for their streams.
        if let Some(scratch) = self.scratch
            && let Ok(true) = self.bind_to_release()
        {
            // SAFETY: allocated in `open`, freed once.
            let freed = unsafe { result::free_sync(scratch) };
            self.context.record_err(freed);
        }
    }
}

/// Also where an error shows that cudarc recorded earlier, in a destructor.
pub(super) const BIND: &str = "cuCtxSetCurrent (or a call before it)";

/// Which rank opened which context: streams know their context alone, but errors name ranks. Read
/// only when something failed.
static RANKS: Mutex<Vec<(Weak<CudaContext>, usize)>> = Mutex::new(Vec::new());

fn note_rank(context: &Arc<CudaContext>, rank: usize) {
    let mut ranks = RANKS.lock().unwrap_or_else(PoisonError::into_inner);
    ranks.retain(|(context, _)| context.strong_count() > 0);
    ranks.push((Arc::downgrade(context), rank));
}

/// The rank whose context this is; for a stream that a user made elsewhere, a rank of the same
/// device.
pub(super) fn rank_of(context: &Arc<CudaContext>) -> usize {
    let ranks = RANKS.lock().unwrap_or_else(PoisonError::into_inner);
    let same = ranks
        .iter()
        .find(|(known, _)| Weak::as_ptr(known) == Arc::as_ptr(context));
    let alike = || {
        ranks
            .iter()
            .find(|(known, _)| known.upgrade().is_some_and(|known| known == *context))
    };
    same.or_else(alike).map_or(0, |(_, rank)| *rank)
}

/// An error of a call on a stream.
pub(super) fn stream_error(stream: &CudaStream, call: &'static str, error: DriverError) -> Error {
    libcuda::error(rank_of(stream.context()), call, error)
}

/// Memory that the device does not have.
pub(super) fn out_of_memory(stream: &CudaStream, need: u64, what: &str) -> Error {
    Error::OutOfMemory {
        rank: rank_of(stream.context()),
        need,
        what: what.into(),
    }
}

pub(super) fn wait(stream: &CudaStream, on: &CudaStream) -> Result<()> {
    if stream == on {
        return Ok(());
    }
    stream
        .join(on)
        .map_err(|error| stream_error(stream, "cuStreamWaitEvent", error))
}

pub(super) fn synchronize(stream: &CudaStream) -> Result<()> {
    stream
        .synchronize()
        .map_err(|error| stream_error(stream, "cuStreamSynchronize", error))
}

/// A stream that is being captured has no work of its own, and a query would break the capture: it is
/// not done.
pub(super) fn is_done(stream: &CudaStream) -> Result<bool> {
    let error = |call| move |error| stream_error(stream, call, error);
    let capturing = stream
        .capture_status()
        .map_err(error("cuStreamIsCapturing"))?;
    if capturing != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
        return Ok(false);
    }
    // SAFETY: the stream is alive, and its context, which `capture_status` made current, as well.
    match unsafe { sys::cuStreamQuery(stream.cu_stream()) } {
        sys::CUresult::CUDA_SUCCESS => Ok(true),
        sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
        code => Err(error("cuStreamQuery")(DriverError(code))),
    }
}

pub(super) fn probe() -> Probe {
    let driver = libcuda::init().and_then(|version| {
        let devices = devices().map_err(|error| {
            libcuda::unavailable(format!(
                "the devices cannot be listed: {}",
                libcuda::error(0, "cuDevice*", error)
            ))
        })?;
        match devices.is_empty() {
            true => Err(libcuda::unavailable(
                "the driver shows no device: what does CUDA_VISIBLE_DEVICES say?".into(),
            )),
            false => Ok(DriverInfo { version, devices }),
        }
    });
    let nccl = nccl().and_then(|nccl| {
        nccl.alone().map(|()| NcclInfo {
            version: nccl.version,
            path: nccl.path.clone(),
        })
    });
    Probe {
        driver,
        nccl,
        nccl_candidates: nccl_candidates(),
    }
}

fn devices() -> Result<Vec<DeviceInfo>, DriverError> {
    let count = result::device::get_count()?;
    let info = |ordinal| {
        let device = result::device::get(ordinal)?;
        // SAFETY: the device was just given by the driver.
        let attribute =
            |which| unsafe { result::device::get_attribute(device, which) }.map(i32::unsigned_abs);
        Ok(DeviceInfo {
            ordinal: ordinal.unsigned_abs() as usize,
            name: result::device::get_name(device)?,
            // SAFETY: as above.
            memory: unsafe { result::device::total_mem(device) }? as u64,
            capability: (
                attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
        })
    };
    (0..count).map(info).collect()
}
