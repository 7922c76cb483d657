//! The driver library: whether it is there, and its errors in words.
//!
//! cudarc panics where `libcuda` or a symbol is missing, so nothing of it is called before [`init`]
//! succeeded.

use std::ffi::{CStr, c_char, c_int};
use std::sync::OnceLock;

use cudarc::driver::{DriverError, sys};
use libloading::{Library, Symbol};

use crate::error::{Error, Result};

/// What cudarc needs of the driver is there from CUDA 12.0 on, as is what NCCL needs for windows.
const FLOOR: c_int = 12_000;

type GetInt = unsafe extern "C" fn(*mut c_int) -> c_int;
type GetText = unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int;

/// Names and order are cudarc's, so that both mean one library.
fn library() -> Result<&'static Library> {
    static LIBRARY: OnceLock<Result<Library>> = OnceLock::new();
    let load = || {
        // SAFETY: the driver's initialisers have no preconditions.
        unsafe { Library::new("libcuda.so").or_else(|_| Library::new("libcuda.so.1")) }.map_err(|error| {
            unavailable(format!("NVIDIA's driver could not be loaded ({}): install it, or give the container access to it", loader_says(&error)))
        })
    };
    LIBRARY.get_or_init(load).as_ref().map_err(Error::clone)
}

/// A function of the driver, `None` where this driver is too old for it.
///
/// # Safety
/// `F` is the function's type.
pub(super) unsafe fn symbol<F>(name: &str) -> Option<Symbol<'static, F>> {
    // SAFETY: the caller vouches for the type.
    unsafe { library().ok()?.get(name.as_bytes()) }.ok()
}

/// Initialises the driver and returns its version (12.8 is 12080). After this succeeded cudarc can
/// be called.
pub(super) fn init() -> Result<u32> {
    static VERSION: OnceLock<Result<u32>> = OnceLock::new();
    VERSION.get_or_init(try_init).clone()
}

fn try_init() -> Result<u32> {
    library()?;
    // SAFETY: the types are those of cuda.h.
    let (get_version, init) = unsafe {
        (
            symbol::<GetInt>("cuDriverGetVersion"),
            symbol::<unsafe extern "C" fn(u32) -> c_int>("cuInit"),
        )
    };
    let (Some(get_version), Some(init)) = (get_version, init) else {
        return Err(unavailable(
            "libcuda is there, but is not NVIDIA's driver: cuInit or cuDriverGetVersion is missing"
                .into(),
        ));
    };
    let mut version = 0;
    // SAFETY: the pointer is to a live integer.
    check("cuDriverGetVersion", unsafe { get_version(&mut version) })?;
    if version < FLOOR {
        return Err(unavailable(format!(
            "the driver is for CUDA {}, but 12.0 or later is needed",
            dotted(version.unsigned_abs())
        )));
    }
    // SAFETY: 0 is the only flag that cuInit takes.
    check("cuInit", unsafe { init(0) })?;
    Ok(version.unsigned_abs())
}

fn check(call: &str, code: c_int) -> Result<()> {
    let hint = match code {
        0 => return Ok(()),
        34 => {
            ": this is the stub for linking, not the driver; take the folder `stubs` out of LD_LIBRARY_PATH"
        }
        100 => {
            ": no NVIDIA GPU can be seen; is it passed into the container, and what does CUDA_VISIBLE_DEVICES say?"
        }
        802 | 803 => {
            ": the driver's library and its kernel module do not fit, or the NVSwitch fabric manager does not run"
        }
        _ => "",
    };
    Err(unavailable(format!(
        "{call} failed with code {code}, {}{hint}",
        text_of(code)
    )))
}

/// The driver's own words for a code.
fn text_of(code: c_int) -> String {
    // SAFETY: the type is that of cuda.h.
    let Some(get_text) = (unsafe { symbol::<GetText>("cuGetErrorString") }) else {
        return "unknown".into();
    };
    let mut text = std::ptr::null();
    // SAFETY: the pointer is to a live variable; the string that it gets is never freed.
    if unsafe { get_text(code, &mut text) } != 0 || text.is_null() {
        return "unknown".into();
    }
    // SAFETY: as above.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

/// A CUDA version as people write it: 12080 is 12.8.
pub(super) fn dotted(version: u32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// An error of the driver. Never through `DriverError`'s own formatting, which panics where the
/// driver is absent.
pub(super) fn error(rank: usize, call: &'static str, error: DriverError) -> Error {
    code_error(rank, call, error.0 as c_int)
}

/// The same for a function that was called without cudarc.
pub(super) fn code_error(rank: usize, call: &'static str, code: c_int) -> Error {
    Error::Backend {
        rank,
        call,
        code,
        text: text_of(code).into(),
    }
}

/// Whether the process is exiting: the driver has freed all by itself, and refuses every call.
pub(super) fn is_gone(error: DriverError) -> bool {
    error.0 == sys::CUresult::CUDA_ERROR_DEINITIALIZED
}

/// What the dynamic loader said, which libloading keeps in the cause.
pub(super) fn loader_says(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

pub(super) fn unavailable(why: String) -> Error {
    Error::Unavailable {
        backend: super::NAME,
        why: why.into(),
    }
}
