//! The part of `nccl.h` that this crate uses, resolved at run time: nothing links NCCL, and one
//! build runs with every version from 2.27 on.
//!
//! Result codes are plain integers: NCCL inserted a code once (2.30), and an `enum` that does not
//! know a code is undefined behaviour.

mod load;
mod maps;
mod table;

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;

pub(super) use load::{Nccl, nccl, nccl_candidates};

/// `ncclComm_t`.
pub(super) type RawComm = *mut c_void;
/// `ncclWindow_t`.
pub(super) type RawWindow = *mut c_void;
/// `cudaStream_t`, which is the driver's `CUstream`.
pub(super) type RawStream = *mut c_void;

/// The first version with symmetric windows.
pub(super) const FLOOR: u32 = 22_700;
/// The first version that lets several ranks share a device (`NCCL_MULTI_RANK_GPU_ENABLE=1`).
pub(super) const SHARED_DEVICES: u32 = 23_003;
/// The first version that registers windows in a capturing thread by itself.
pub(super) const REGISTERS_IN_CAPTURE: u32 = 23_006;

/// `ncclSuccess`.
pub(super) const SUCCESS: c_int = 0;
/// `ncclUnhandledCudaError`.
pub(super) const UNHANDLED_CUDA_ERROR: c_int = 1;
/// `NCCL_REVOKE_DEFAULT`, the only flags there are.
pub(super) const REVOKE_DEFAULT: c_int = 0;
/// `NCCL_SUSPEND_MEM`, the only flag there is.
pub(super) const SUSPEND_MEM: c_int = 1;
/// `ncclStatGpuMemSuspend`: bytes that can be suspended.
pub(super) const STAT_GPU_MEM_SUSPEND: c_int = 0;
/// `ncclScalarHostImmediate`.
pub(super) const SCALAR_HOST_IMMEDIATE: c_int = 1;
/// `NCCL_WIN_COLL_SYMMETRIC`.
pub(super) const WIN_COLL_SYMMETRIC: c_int = 1;

const UNDEFINED: c_int = c_int::MIN;

/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct UniqueId(pub(super) [u8; 128]);

/// `ncclConfig_t` as NCCL 2.25 had it: NCCL copies the bytes that `size` says and fills in what
/// came later.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
    traffic_class: c_int,
}

impl Config {
    /// Blocking, because a non-blocking communicator starts a thread for every call (98 us of host
    /// time against 6.5), and sharing nothing with its parent, so that one can be aborted without
    /// the other.
    pub(super) fn ours() -> Self {
        Self {
            size: size_of::<Self>(),
            magic: 0xcafe_beef,
            version: 22_500,
            blocking: 1,
            cga_cluster_size: UNDEFINED,
            min_ctas: UNDEFINED,
            max_ctas: UNDEFINED,
            net_name: ptr::null(),
            split_share: 0,
            traffic_class: UNDEFINED,
        }
    }
}

impl Nccl {
    /// What NCCL says about a code, with its last warning where there is one.
    pub(super) fn explain(&self, code: c_int) -> String {
        // SAFETY: both take any value and return strings that NCCL never frees, or NULL.
        let (text, last) = unsafe {
            (
                to_string((self.ncclGetErrorString)(code)),
                to_string((self.ncclGetLastError)(ptr::null_mut())),
            )
        };
        let hint = "set NCCL_DEBUG=WARN for more";
        match last.trim() {
            "" => format!("{text} ({hint})"),
            last => format!("{text} ({last}; {hint})"),
        }
    }
}

/// # Safety
/// `text` is NULL or a C string that lives for the call.
unsafe fn to_string(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not NULL, and the caller vouches for the rest.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

/// A version as people write it: 23007 is 2.30.7.
pub(super) fn dotted(version: u32) -> String {
    // Up to 2.8 the code was 1000 * major + 100 * minor + patch.
    let major = if version < 10_000 { 1_000 } else { 10_000 };
    format!(
        "{}.{}.{}",
        version / major,
        version % major / 100,
        version % 100
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_people_write_them() {
        assert_eq!(dotted(23_007), "2.30.7");
        assert_eq!(dotted(22_809), "2.28.9");
        assert_eq!(dotted(2_804), "2.8.4");
    }

    #[test]
    fn the_config_has_no_padding_that_nccl_would_read() {
        assert_eq!(size_of::<Config>(), 48);
    }
}
