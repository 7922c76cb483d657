//! The GPUs, and how each pair of them is joined. Asked of the driver, and of NVML where it is there.

use serde::Serialize;

use super::report::why;

/// One GPU.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Gpu {
    /// Its number among those that this process sees.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
    /// Bytes of its memory.
    pub memory: u64,
    /// Compute capability, e.g. `9.0`.
    pub capability: String,
    /// Where it sits on the PCI bus.
    pub pci: Option<String>,
    /// The driver maps its memory piece by piece, and hands pieces to other processes: `cuMem`,
    /// without which there are no windows.
    pub cumem: Option<bool>,
    /// NVSwitch can multicast to it (NVLS).
    pub multicast: Option<bool>,
    /// NVLinks that are up; unknown without NVML.
    pub nvlinks: Option<usize>,
}

/// How one GPU reaches another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Over NVLink.
    Nvlink,
    /// Directly, over PCIe.
    Pcie,
    /// Only through the host.
    None,
}

/// A pair of GPUs.
#[derive(Clone, Debug, Serialize)]
pub struct Link {
    /// From this ordinal.
    pub from: usize,
    /// To this one.
    pub to: usize,
    /// How.
    pub way: Way,
}

/// What the driver shows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Gpus {
    /// The CUDA version that the driver supports, e.g. `13.0`.
    pub cuda: Option<String>,
    /// NVIDIA's own number of the driver, e.g. `580.65.06`.
    pub driver: Option<String>,
    /// Why no GPU can be used.
    pub missing: Option<String>,
    /// The GPUs.
    pub gpus: Vec<Gpu>,
    /// All pairs, both ways.
    pub links: Vec<Link>,
}

impl Gpus {
    /// How a pair is joined.
    pub(super) fn way(&self, from: usize, to: usize) -> Option<Way> {
        let of = |link: &&Link| (link.from, link.to) == (from, to);
        self.links.iter().find(of).map(|link| link.way)
    }

    /// Whether each pair is joined by NVLink, as far as is known.
    pub(super) fn all_nvlink(&self) -> bool {
        let is_nvlink = |link: &Link| link.way == Way::Nvlink;
        !self.links.is_empty() && self.links.iter().all(is_nvlink)
    }

    /// What the driver says of its GPUs.
    #[cfg_attr(not(feature = "cuda"), allow(unused_mut))]
    pub(super) fn look(probe: &symm_core::cuda::Probe) -> Self {
        let driver = match &probe.driver {
            Ok(driver) => driver,
            Err(error) => {
                return Self {
                    missing: Some(why(error)),
                    ..Self::default()
                };
            }
        };
        let gpus = driver.devices.iter().map(|device| Gpu {
            ordinal: device.ordinal,
            name: device.name.clone(),
            memory: device.memory,
            capability: format!("{}.{}", device.capability.0, device.capability.1),
            ..Gpu::default()
        });
        let mut found = Self {
            cuda: Some(format!(
                "{}.{}",
                driver.version / 1000,
                driver.version % 1000 / 10
            )),
            driver: std::fs::read_to_string("/sys/module/nvidia/version")
                .ok()
                .map(|version| version.trim().to_owned()),
            gpus: gpus.collect(),
            ..Self::default()
        };
        #[cfg(feature = "cuda")]
        asked::ask(&mut found);
        found
    }
}

/// The driver's own answers.
#[cfg(feature = "cuda")]
mod asked {
    use std::ffi::{CStr, c_char, c_int};

    use cudarc::driver::result::device;
    use cudarc::driver::sys::{
        self, CUdevice, CUdevice_P2PAttribute as Between, CUdevice_attribute as Attribute,
    };

    use super::super::nvml::Nvml;
    use super::{Gpu, Gpus, Link, Way};

    /// Called once the driver has been initialised; what it does not answer stays unknown.
    pub(super) fn ask(found: &mut Gpus) {
        let nvml = Nvml::open();
        if let Some(version) = nvml.as_ref().and_then(Nvml::driver) {
            found.driver = Some(version);
        }
        for gpu in &mut found.gpus {
            ask_one(gpu, nvml.as_ref());
        }
        for from in &found.gpus {
            for to in found.gpus.iter().filter(|to| to.ordinal != from.ordinal) {
                let way = way(from, to, nvml.as_ref());
                let (from, to) = (from.ordinal, to.ordinal);
                found.links.extend(way.map(|way| Link { from, to, way }));
            }
        }
    }

    fn ask_one(gpu: &mut Gpu, nvml: Option<&Nvml>) {
        let Ok(handle) = device::get(gpu.ordinal as c_int) else {
            return;
        };
        let attribute = |which| {
            // SAFETY: the driver just gave the device.
            let value = unsafe { device::get_attribute(handle, which) };
            value.ok().map(|value| value != 0)
        };
        let needed = [
            Attribute::CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
            Attribute::CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED,
        ];
        let needed = needed.map(attribute);
        gpu.cumem = needed.into_iter().reduce(|a, b| Some(a? && b?)).flatten();
        gpu.multicast = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED);
        gpu.pci = bus(handle);
        gpu.nvlinks = gpu.pci.as_deref().and_then(|pci| nvml?.links(pci));
    }

    fn bus(handle: CUdevice) -> Option<String> {
        let mut text: [c_char; 32] = [0; 32];
        // SAFETY: as many bytes as are said, and a device that the driver gave.
        let code = unsafe { sys::cuDeviceGetPCIBusId(text.as_mut_ptr(), 32, handle) };
        code.result().ok()?;
        // SAFETY: it ends with a NUL, which is within the bytes.
        let text = unsafe { CStr::from_ptr(text.as_ptr()) };
        Some(text.to_string_lossy().into_owned())
    }

    /// NVML knows of NVLink itself; without it, atomics that work on a peer's memory show it.
    fn way(from: &Gpu, to: &Gpu, nvml: Option<&Nvml>) -> Option<Way> {
        let a = device::get(from.ordinal as c_int).ok()?;
        let b = device::get(to.ordinal as c_int).ok()?;
        let mut reaches = 0;
        // SAFETY: two devices of the driver, and a place for its answer.
        unsafe { sys::cuDeviceCanAccessPeer(&mut reaches, a, b) }
            .result()
            .ok()?;
        if reaches == 0 {
            return Some(Way::None);
        }
        let pci = from.pci.as_deref().zip(to.pci.as_deref());
        let known = pci.and_then(|(a, b)| nvml?.nvlink(a, b));
        let atomics = || {
            let which = Between::CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED;
            let mut works = 0;
            // SAFETY: as above.
            let code = unsafe { sys::cuDeviceGetP2PAttribute(&mut works, which, a, b) };
            code.result().is_ok() && works != 0
        };
        Some(match known.unwrap_or_else(atomics) {
            true => Way::Nvlink,
            false => Way::Pcie,
        })
    }
}
