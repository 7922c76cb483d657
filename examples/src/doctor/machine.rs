//! What the machine is, as far as files say it: nothing here needs a driver.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// The host.
#[derive(Debug, Default, Serialize)]
pub struct Machine {
    /// NVIDIA's GPUs on the PCI bus, whether or not there is a driver.
    pub nvidia_on_pci: usize,
    /// How many files a process may have open: windows are exchanged through file descriptors.
    pub open_files: Option<u64>,
    /// Why ranks that are processes cannot share memory, if they cannot.
    pub shared_memory: Option<String>,
    /// NCCL's and this crate's variables, `NAME=value`.
    pub variables: Vec<String>,
}

/// The prefixes of variables that change what NCCL or this crate does.
const PREFIXES: [&str; 3] = ["NCCL_", "SYMM_", "CUDA_"];

impl Machine {
    pub(super) fn look() -> Self {
        let named = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
            let of_interest = PREFIXES.iter().any(|prefix| name.starts_with(prefix));
            of_interest.then(|| format!("{name}={value}"))
        };
        let mut variables: Vec<String> = std::env::vars_os().filter_map(named).collect();
        variables.sort();
        Self {
            nvidia_on_pci: gpus_on(Path::new("/sys/bus/pci/devices")),
            open_files: fs::read_to_string("/proc/self/limits")
                .ok()
                .and_then(|limits| open_files(&limits)),
            shared_memory: shared_memory().err().map(|error| error.to_string()),
            variables,
        }
    }

    /// The value of a variable.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        let of = |variable: &'_ String| variable.split_once('=').is_some_and(|(n, _)| n == name);
        let found = self.variables.iter().find(|variable| of(variable))?;
        found.split_once('=').map(|(_, value)| value)
    }
}

/// Displays and 3D controllers of NVIDIA.
fn gpus_on(bus: &Path) -> usize {
    let Ok(devices) = fs::read_dir(bus) else {
        return 0;
    };
    let read = |device: &fs::DirEntry, name| fs::read_to_string(device.path().join(name));
    let is_gpu = |device: &fs::DirEntry| {
        let is = |name, starts: &[&str]| {
            let text = read(device, name).unwrap_or_default();
            starts.iter().any(|start| text.starts_with(start))
        };
        is("vendor", &["0x10de"]) && is("class", &["0x0300", "0x0302"])
    };
    devices.flatten().filter(is_gpu).count()
}

/// The soft limit.
fn open_files(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Ranks that are processes of one host compare what they do in shared memory.
fn shared_memory() -> std::io::Result<()> {
    let file = format!("/dev/shm/symm-doctor-{}", std::process::id());
    let written = fs::write(&file, [1; 1 << 16]);
    // The first error says what is wrong.
    let _ = fs::remove_file(&file);
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        let limits = "Limit   Soft Limit  Hard Limit  Units\nMax open files            1024     524288   files\n";
        assert_eq!(open_files(limits), Some(1024));
        assert_eq!(
            open_files("Max open files  unlimited unlimited files"),
            None
        );
        assert_eq!(open_files(""), None);
    }

    #[test]
    fn gpus_are_told_from_other_devices() -> std::io::Result<()> {
        let bus = std::env::temp_dir().join(format!("symm-doctor-pci-{}", std::process::id()));
        let devices = [
            ("gpu", "0x10de", "0x030200"),
            ("audio", "0x10de", "0x040300"),
            ("other", "0x1002", "0x030000"),
        ];
        for (name, vendor, class) in devices {
            let folder = bus.join(name);
            fs::create_dir_all(&folder)?;
            fs::write(folder.join("vendor"), format!("{vendor}\n"))?;
            fs::write(folder.join("class"), format!("{class}\n"))?;
        }
        assert_eq!(gpus_on(&bus), 1);
        fs::remove_dir_all(&bus)?;
        assert_eq!(gpus_on(&bus), 0);
        Ok(())
    }
}
