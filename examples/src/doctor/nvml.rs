//! The few answers of NVML that the driver does not give: its number, and NVLinks.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr;

use libloading::{Library, Symbol};

type Device = *mut c_void;

/// `NVML_P2P_CAPS_INDEX_NVLINK`.
const NVLINK: c_int = 2;
/// `NVML_NVLINK_MAX_LINKS`.
const MOST_LINKS: c_uint = 18;

/// NVML, initialised.
pub(super) struct Nvml(Library);

impl Nvml {
    /// `None` where it is not installed, or does not start.
    pub(super) fn open() -> Option<Self> {
        // SAFETY: NVML's initialisers have no preconditions.
        let library = unsafe { Library::new("libnvidia-ml.so.1") }.ok()?;
        let nvml = Self(library);
        // SAFETY: the type is that of nvml.h.
        let init = unsafe { nvml.symbol::<unsafe extern "C" fn() -> c_int>(c"nvmlInit_v2") }?;
        // SAFETY: it has no preconditions.
        (unsafe { init() } == 0).then_some(nvml)
    }

    /// # Safety
    /// `F` is the function's type.
    unsafe fn symbol<F>(&self, name: &CStr) -> Option<Symbol<'_, F>> {
        // SAFETY: the caller vouches for the type.
        unsafe { self.0.get(name.to_bytes_with_nul()) }.ok()
    }

    /// The driver's number.
    pub(super) fn driver(&self) -> Option<String> {
        type Get = unsafe extern "C" fn(*mut c_char, c_uint) -> c_int;
        let mut text: [c_char; 80] = [0; 80];
        // SAFETY: the type is that of nvml.h.
        let get = unsafe { self.symbol::<Get>(c"nvmlSystemGetDriverVersion") }?;
        // SAFETY: as many bytes as are said.
        if unsafe { get(text.as_mut_ptr(), 80) } != 0 {
            return None;
        }
        // SAFETY: it ends with a NUL, which is within the bytes.
        let text = unsafe { CStr::from_ptr(text.as_ptr()) };
        Some(text.to_string_lossy().into_owned())
    }

    /// NVLinks of a GPU that are up.
    pub(super) fn links(&self, pci: &str) -> Option<usize> {
        type Get = unsafe extern "C" fn(Device, c_uint, *mut c_uint) -> c_int;
        let device = self.device(pci)?;
        // SAFETY: the type is that of nvml.h.
        let get = unsafe { self.symbol::<Get>(c"nvmlDeviceGetNvLinkState") }?;
        let is_up = |link: &c_uint| {
            let mut up = 0;
            // SAFETY: a device of NVML, and a place for its answer. A link that is not there is an
            // error.
            unsafe { get(device, *link, &mut up) == 0 && up == 1 }
        };
        Some((0..MOST_LINKS).filter(is_up).count())
    }

    /// Whether a pair talks over NVLink.
    pub(super) fn nvlink(&self, from: &str, to: &str) -> Option<bool> {
        type Get = unsafe extern "C" fn(Device, Device, c_int, *mut c_int) -> c_int;
        let (from, to) = (self.device(from)?, self.device(to)?);
        // SAFETY: the type is that of nvml.h.
        let get = unsafe { self.symbol::<Get>(c"nvmlDeviceGetP2PStatus") }?;
        let mut status = -1;
        // SAFETY: two devices of NVML, and a place for its answer.
        let code = unsafe { get(from, to, NVLINK, &mut status) };
        (code == 0).then_some(status == 0) // NVML_P2P_STATUS_OK
    }

    fn device(&self, pci: &str) -> Option<Device> {
        type Get = unsafe extern "C" fn(*const c_char, *mut Device) -> c_int;
        let pci = CString::new(pci).ok()?;
        let mut device = ptr::null_mut();
        // SAFETY: the type is that of nvml.h.
        let get = unsafe { self.symbol::<Get>(c"nvmlDeviceGetHandleByPciBusId_v2") }?;
        // SAFETY: a C string, and a place for the answer.
        (unsafe { get(pci.as_ptr(), &mut device) } == 0).then_some(device)
    }
}
