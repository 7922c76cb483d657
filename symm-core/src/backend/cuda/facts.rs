//! What has to be equal on all ranks: ranks of two NCCLs, or of other settings, take other
//! algorithms, and wait for each other for ever.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::OnceLock;

use super::device::Device;
use super::libcuda;
use super::nccl_sys::dotted;

/// Variables of NCCL, by their beginnings, that may differ by rank: where it writes, what a host or
/// its network is called there, and what only watches. All others choose algorithms, protocols or
/// channels, so that ranks must agree on them.
const MAY_DIFFER: [&str; 18] = [
    "NCCL_DEBUG",     // also _FILE, _SUBSYS, ..
    "NCCL_COMM_ID",   // unused here: the unique id is handed over
    "NCCL_CONF_FILE", // NCCL puts its contents into the environment
    "NCCL_GRAPH_DUMP_FILE",
    "NCCL_HOSTID",
    "NCCL_IB_ADDR_",
    "NCCL_IB_GID_INDEX",
    "NCCL_IB_HCA",
    "NCCL_IGNORE_CPU_AFFINITY",
    "NCCL_INSPECTOR_",
    "NCCL_OOB_NET_",
    "NCCL_PROFILE", // also _PROFILER_PLUGIN
    "NCCL_RAS_",
    "NCCL_SET_THREAD_NAME",
    "NCCL_SOCKET_IFNAME",
    "NCCL_TOPO_DUMP_FILE",
    "NCCL_TOPO_FILE",
    "NCCL_WARN_",
];

/// How much of each end of a file is read.
const END: u64 = 1 << 20;

/// The facts, as (name, value).
pub(super) fn of(device: &Device) -> Vec<(String, String)> {
    let driver = libcuda::init().map_or_else(|error| error.to_string(), libcuda::dotted);
    let fixed = [
        ("symm-core", env!("CARGO_PKG_VERSION").to_owned()),
        ("NCCL", dotted(device.nccl.version)),
        ("NCCL's file", print_of_library(&device.nccl.path)),
        ("CUDA driver", driver),
    ];
    let fixed = fixed.map(|(name, value)| (name.to_owned(), value));
    let settings = settings(std::env::vars_os().map(|(name, value)| {
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        (text(name), text(value))
    }));
    fixed.into_iter().chain(settings).collect()
}

/// NCCL's variables that have to be equal, by name.
fn settings(all: impl Iterator<Item = (String, String)>) -> Vec<(String, String)> {
    let mut settings: Vec<_> = all
        .filter(|(name, _)| name.starts_with("NCCL_"))
        .filter(|(name, _)| !MAY_DIFFER.iter().any(|start| name.starts_with(start)))
        .collect();
    settings.sort();
    settings
}

/// What tells one build of NCCL from another, read once a process. Not its path, which containers
/// choose as they like.
fn print_of_library(path: &Path) -> String {
    static PRINT: OnceLock<String> = OnceLock::new();
    let print = || fingerprint(path).unwrap_or_else(|error| format!("unreadable: {error}"));
    PRINT.get_or_init(print).clone()
}

/// The file's size and a hash of its ends.
fn fingerprint(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut ends = Vec::new();
    file.by_ref().take(END).read_to_end(&mut ends)?;
    file.seek(SeekFrom::Start(size.saturating_sub(END).max(END.min(size))))?;
    file.take(END).read_to_end(&mut ends)?;
    Ok(format!("{size} bytes, {:016x}", fnv(&ends)))
}

/// FNV-1a: the same in every process, unlike the standard library's.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_must_be_equal_are_named() {
        let all = [
            ("PATH", "/bin"),
            ("NCCL_PROTO", "LL"),
            ("NCCL_DEBUG", "INFO"),
            ("NCCL_DEBUG_FILE", "/tmp/log.3"),
            ("NCCL_HOSTID", "a"),
            ("NCCL_CUMEM_ENABLE", "1"),
        ];
        let all = all.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let names: Vec<_> = settings(all.into_iter())
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["NCCL_CUMEM_ENABLE", "NCCL_PROTO"]);
    }

    #[test]
    fn a_file_is_known_by_its_size_and_ends() {
        let path = std::env::temp_dir().join(format!("symm-facts-{}", std::process::id()));
        let print = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("a file");
            fingerprint(&path).expect("a print")
        };
        let mut bytes = vec![7; 3 << 20];
        let first = print(&bytes);
        assert_eq!(first, print(&bytes));
        bytes[(1 << 20) + 5] = 8; // in the middle, which is not read
        assert_eq!(first, print(&bytes));
        bytes[(2 << 20) + 5] = 8;
        let last = print(&bytes);
        bytes[5] = 8;
        assert!(first != last && last != print(&bytes) && print(b"short") != print(b""));
        let _ = std::fs::remove_file(&path);
    }
}
