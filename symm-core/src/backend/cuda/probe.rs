//! What a machine has of what the backend needs.

use std::fmt;
use std::path::PathBuf;

use crate::backend::defects::{self, Defect};
use crate::error::{Error, Result};

/// What [`Cuda::probe`](super::Cuda::probe) found. Printed, it says so in plain words.
///
/// ```
/// # use symm_core::Cuda;
/// let probe = Cuda::probe();
/// match (&probe.driver, &probe.nccl) {
///     (Ok(_), Ok(_)) => assert!(probe.usable().is_ok()),
///     _ => assert!(probe.to_string().contains("not usable: ")),
/// }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Probe {
    /// The driver and its devices, or why there are none.
    pub driver: Result<DriverInfo>,
    /// The NCCL that would be used, or why there is none.
    pub nccl: Result<NcclInfo>,
    /// The files that NCCL is looked for in, in this order: names without a folder are the dynamic
    /// loader's to find.
    pub nccl_candidates: Vec<PathBuf>,
}

/// NVIDIA's driver.
///
/// ```
/// # use symm_core::Cuda;
/// match Cuda::probe().driver {
///     Ok(driver) => assert!(driver.to_string().starts_with("driver: CUDA ")),
///     Err(error) => assert!(error.is_unavailable(), "{error}"),
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DriverInfo {
    /// The CUDA version that it supports, as CUDA writes it: 12.8 is 12080.
    pub version: u32,
    /// Its devices, one at least.
    pub devices: Vec<DeviceInfo>,
}

/// One GPU.
///
/// ```
/// # use symm_core::Cuda;
/// let devices = Cuda::probe().driver.map(|driver| driver.devices);
/// for (number, device) in devices.into_iter().flatten().enumerate() {
///     assert_eq!(device.ordinal, number);
///     assert!(device.to_string().contains(&device.name));
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// Its number among those that this process sees.
    pub ordinal: usize,
    /// Its name, e.g. `NVIDIA H200`.
    pub name: String,
    /// Bytes of its memory.
    pub memory: u64,
    /// Compute capability, e.g. (9, 0).
    pub capability: (u32, u32),
}

/// NCCL.
///
/// ```
/// # use symm_core::Cuda;
/// match Cuda::probe().nccl {
///     Ok(nccl) => assert!(nccl.to_string().ends_with(&*nccl.path.to_string_lossy())),
///     Err(error) => assert!(error.is_unavailable(), "{error}"),
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NcclInfo {
    /// As NCCL writes it: 2.30.7 is 23007.
    pub version: u32,
    /// The file that was loaded.
    pub path: PathBuf,
}

impl NcclInfo {
    /// The known defects of this version, and what this crate does about them.
    ///
    /// ```
    /// if let Ok(nccl) = symm_core::Cuda::probe().nccl {
    ///     for defect in nccl.defects() {
    ///         println!("{}; here {}", defect.what, defect.instead);
    ///     }
    /// }
    /// ```
    pub fn defects(&self) -> Vec<Defect> {
        defects::of(self.version).collect()
    }
}

impl Probe {
    /// Whether the backend can run here.
    ///
    /// ```
    /// # use symm_core::{Cuda, Error};
    /// match Cuda::probe().usable() {
    ///     Ok(()) => println!("ranks can be GPUs"),
    ///     Err(error) => assert!(matches!(error, Error::Unavailable { backend: "cuda", .. })),
    /// }
    /// ```
    ///
    /// # Errors
    /// [`Error::Unavailable`] with what is missing, the driver first.
    pub fn usable(&self) -> Result<()> {
        self.driver.as_ref().map_err(Error::clone)?;
        self.nccl.as_ref().map_err(Error::clone)?;
        Ok(())
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.driver {
            Ok(driver) => write!(f, "{driver}")?,
            Err(error) => write!(f, "driver: not usable: {}", why(error))?,
        }
        match &self.nccl {
            Ok(nccl) => write!(f, "\n{nccl}"),
            Err(error) => write!(f, "\nNCCL: not usable: {}", why(error)),
        }
    }
}

/// The reason alone; that it is this backend's is clear here.
fn why(error: &Error) -> String {
    match error {
        Error::Unavailable { why, .. } => why.to_string(),
        other => other.to_string(),
    }
}

impl fmt::Display for DriverInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "driver: CUDA {}.{}, {} device(s)",
            self.version / 1000,
            self.version % 1000 / 10,
            self.devices.len()
        )?;
        self.devices
            .iter()
            .try_for_each(|device| write!(f, "\n  {device}"))
    }
}

impl fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.capability;
        let gib = self.memory as f64 / (1u64 << 30) as f64;
        write!(
            f,
            "cuda:{}: {}, {gib:.0} GiB, compute capability {major}.{minor}",
            self.ordinal, self.name
        )
    }
}

impl fmt::Display for NcclInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor, patch) = (
            self.version / 10_000,
            self.version % 10_000 / 100,
            self.version % 100,
        );
        write!(f, "NCCL: {major}.{minor}.{patch}, {}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_in_plain_words() {
        let device = DeviceInfo {
            ordinal: 0,
            name: "NVIDIA H200".into(),
            memory: 141 << 30,
            capability: (9, 0),
        };
        let probe = Probe {
            driver: Ok(DriverInfo {
                version: 13_000,
                devices: vec![device],
            }),
            nccl: Ok(NcclInfo {
                version: 23_007,
                path: "/opt/libnccl.so.2".into(),
            }),
            nccl_candidates: vec!["libnccl.so.2".into()],
        };
        assert!(probe.usable().is_ok());
        let text = "driver: CUDA 13.0, 1 device(s)\n  cuda:0: NVIDIA H200, 141 GiB, compute capability 9.0\nNCCL: 2.30.7, /opt/libnccl.so.2";
        assert_eq!(probe.to_string(), text);
        let defects = probe.nccl.map(|nccl| nccl.defects().len());
        assert_eq!(defects.ok(), Some(1));
    }

    #[test]
    fn never_panics_and_says_why() {
        let probe = super::super::Cuda::probe();
        let text = probe.to_string();
        assert!(
            text.starts_with("driver: ") && text.contains("\nNCCL: "),
            "{text}"
        );
        if let Err(error) = probe.usable() {
            assert!(error.is_unavailable(), "{error}");
        }
    }
}
