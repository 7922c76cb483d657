//! Ranks on NVIDIA GPUs.
//!
//! # What it needs
//! - NVIDIA's driver for CUDA 12.0 or later, and a GPU for each rank.
//! - NCCL 2.27 or later; 2.29.7 or later is recommended (before, a stuck symmetric kernel cannot be
//!   stopped).
//!
//! Nothing of this is linked. Driver and NCCL are loaded when they are first used, so the same
//! program runs where there is neither, and [`Cuda::probe`] says what is missing.
//!
//! # Environment
//! | variable | meaning |
//! |---|---|
//! | `SYMM_NCCL_PATH` | NCCL's library, or the folder of `libnccl.so.2` (or `libnccl.so`); else the loader looks for these names |
//! | `NCCL_DEBUG=WARN` | NCCL says what went wrong: it tells programs a code and little more |
//! | `NCCL_CUMEM_ENABLE=0`, `NCCL_WIN_ENABLE=0` | switch symmetric memory off; the first makes allocations fail, the second all paths plain |
//! | `NCCL_MULTI_RANK_GPU_ENABLE=1` | from NCCL 2.30.3 on: several ranks may share a GPU, for tests |
//! | `CUDA_VISIBLE_DEVICES` | the GPUs that ranks take, in this order, by their rank on the host |
//!
//! NCCL's own variables must be equal on all ranks.
//!
//! # With cudarc
//! [`cudarc`](https://docs.rs/cudarc) is re-exported. `World::<Cuda>::stream` is its `Arc<CudaStream>`, and this crate's
//! buffers and views are arguments of its kernels, copies and libraries, ordered with the streams
//! that use them: they implement `DevicePtr`, `DevicePtrMut`, `DeviceSlice` and `PushKernelArg`.
//!
//! In a capture cudarc's event tracking is off, on the device's whole context: kernels and copies
//! of several streams are ordered by `CudaStream::join` and `wait` alone. Do these before it:
//! - copies from or to the host, also of pinned memory: a graph uses that memory at every launch,
//! - allocating slices, and dropping them: a graph does so at every launch.

use crate::backend::Backend;

mod probe;

#[cfg(not(feature = "cuda"))]
mod absent;
#[cfg(feature = "cuda")]
mod capture;
#[cfg(feature = "cuda")]
mod collective;
#[cfg(feature = "cuda")]
mod comm;
#[cfg(feature = "cuda")]
mod device;
#[cfg(feature = "cuda")]
mod driver;
#[cfg(feature = "cuda")]
mod facts;
#[cfg(feature = "cuda")]
mod fence;
#[cfg(feature = "cuda")]
mod foreign;
#[cfg(feature = "cuda")]
mod graph;
#[cfg(feature = "cuda")]
mod interop;
#[cfg(feature = "cuda")]
mod kernels;
#[cfg(feature = "cuda")]
mod libcuda;
#[cfg(feature = "cuda")]
mod memory;
#[cfg(feature = "cuda")]
mod mode;
#[cfg(feature = "cuda")]
mod nccl_sys;
#[cfg(feature = "cuda")]
mod nodes;
#[cfg(feature = "cuda")]
mod raw;
#[cfg(feature = "cuda")]
mod timing;
#[cfg(feature = "cuda")]
mod tracking;

pub use super::defects::Defect as NcclDefect;
#[cfg(feature = "cuda")]
pub use ::cudarc;
#[cfg(feature = "cuda")]
pub use kernels::kernel_names;
pub use probe::{DeviceInfo, DriverInfo, NcclInfo, Probe};

#[cfg(not(feature = "cuda"))]
use absent as found;
#[cfg(feature = "cuda")]
use device as found;

const NAME: &str = "cuda";

/// The backend of NVIDIA GPUs: NCCL for memory and collectives, [`cudarc`](https://docs.rs/cudarc)
/// for streams and kernels.
///
/// Without the feature `cuda` it is a name that cannot run, so that types with this default mean
/// the same in every build.
///
/// ```
/// # use symm_core::{Cuda, World};
/// // On a machine without GPUs it says so.
/// match World::<Cuda>::run(1, |world| Ok(world.device())) {
///     Ok(devices) => assert_eq!(devices, ["cuda:0"]),
///     Err(error) => assert!(error.is_unavailable(), "{error}"),
/// }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cuda;

impl Backend for Cuda {}

impl Cuda {
    /// What this machine has of what the backend needs, or why not. Loads driver and NCCL, makes
    /// nothing on a device.
    ///
    /// ```
    /// let probe = symm_core::Cuda::probe();
    /// println!("{probe}");
    /// if let Err(why) = probe.usable() {
    ///     assert!(why.is_unavailable());
    /// }
    /// ```
    pub fn probe() -> Probe {
        found::probe()
    }
}
