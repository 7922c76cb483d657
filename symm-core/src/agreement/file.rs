//! The file behind a board: random name, exclusive creation, owner only, all of it there before
//! anyone maps it, and no name once all have.
//!
//! Other users are kept out. Processes of the same user are not: they could do worse.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FileType, FlockOperation, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::{fs, process, rand};

/// Where boards lie by name.
pub(super) const DIRECTORY: &str = "/dev/shm";
const PREFIX: &str = "symm-core.";
const ATTEMPTS: usize = 8;

/// A file for a board, in the process that made it.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) fd: OwnedFd,
    name: Name,
}

/// How other processes find the file.
#[derive(Debug)]
enum Name {
    /// A file of the directory; unlinked when this is dropped.
    Path(PathBuf),
    /// A file without a name, through the process that made it.
    Descriptor(String),
}

impl Made {
    /// What [`open`] takes.
    pub(super) fn path(&self) -> String {
        match &self.name {
            Name::Path(path) => path.display().to_string(),
            Name::Descriptor(path) => path.clone(),
        }
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if let Name::Path(path) = self {
            // If that fails, a later start sweeps it away.
            let _ = fs::unlink(&*path);
        }
    }
}

/// Makes a file of so many zero bytes, by a name in the directory, or without one where the
/// directory is missing or not for writing.
pub(super) fn create(directory: &Path, bytes: usize) -> Result<Made, String> {
    match named(directory, bytes) {
        Ok(made) => Ok(made),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ROFS | Errno::ACCESS | Errno::PERM) => {
            nameless(bytes).map_err(|error| refusal("memory without a file", bytes, error))
        }
        Err(error) => Err(refusal(&directory.display().to_string(), bytes, error)),
    }
}

fn refusal(place: &str, bytes: usize, error: Errno) -> String {
    let hint = match error {
        Errno::NOSPC | Errno::FBIG => {
            ": it is too small or full; make it larger (docker run --shm-size=1g, or a memory volume there)"
        }
        _ => "",
    };
    format!("cannot make {bytes} bytes of shared memory in {place}: {error}{hint}")
}

fn named(directory: &Path, bytes: usize) -> Result<Made, Errno> {
    for _ in 0..ATTEMPTS {
        let path = directory.join(random_name()?);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let fd = match fs::open(&path, flags, Mode::RUSR | Mode::WUSR) {
            Err(Errno::EXIST) => continue,
            opened => opened?,
        };
        let made = Made {
            fd,
            name: Name::Path(path),
        };
        // Between the two calls somebody's sweep may take the file for a leftover.
        let locked = fs::flock(&made.fd, FlockOperation::NonBlockingLockShared).is_ok();
        if locked && fs::fstat(&made.fd)?.st_nlink > 0 {
            allocate(&made.fd, bytes)?;
            return Ok(made);
        }
    }
    Err(Errno::EXIST)
}

fn nameless(bytes: usize) -> Result<Made, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = fs::memfd_create("symm-core", flags)?;
    fs::fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
    allocate(&fd, bytes)?;
    fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&fd);
    let path = format!("/proc/{}/fd/{number}", std::process::id());
    Ok(Made {
        fd,
        name: Name::Descriptor(path),
    })
}

/// Takes the memory now: with a size alone, a full file system would be a SIGBUS later.
fn allocate(fd: &OwnedFd, bytes: usize) -> Result<(), Errno> {
    retry_on_intr(|| fs::fallocate(fd, FallocateFlags::empty(), 0, bytes as u64))
}

fn random_name() -> Result<String, Errno> {
    let mut bytes = [0u8; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        filled += retry_on_intr(|| rand::getrandom(&mut *rest, rand::GetRandomFlags::empty()))?;
    }
    Ok(format!("{PREFIX}{:032x}", u128::from_le_bytes(bytes)))
}

/// Opens a file that a peer made, and checks that it is that.
pub(super) fn open(path: &str, bytes: usize) -> Result<OwnedFd, String> {
    let by_descriptor = path.starts_with("/proc/");
    let mut flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    if !by_descriptor {
        flags |= OFlags::NOFOLLOW;
    }
    let fd = fs::open(path, flags, Mode::empty()).map_err(|error| {
        format!(
            "cannot open {path}: {error}; ranks of one host share {DIRECTORY} (one container, or --ipc=host), else /proc"
        )
    })?;
    let refuse = |what: String| {
        Err(format!(
            "{path} is not the board that was announced: {what}"
        ))
    };
    let stat = match fs::fstat(&fd) {
        Ok(stat) => stat,
        Err(error) => return refuse(error.to_string()),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return refuse("it is no file".into());
    }
    if stat.st_uid != process::geteuid().as_raw() {
        return refuse(format!("it belongs to user {}", stat.st_uid));
    }
    if stat.st_mode & 0o077 != 0 {
        return refuse(format!("its mode is {:o}", stat.st_mode & 0o777));
    }
    if stat.st_size as u64 != bytes as u64 {
        return refuse(format!("it has {} bytes, not {bytes}", stat.st_size));
    }
    if !by_descriptor && let Err(error) = fs::flock(&fd, FlockOperation::NonBlockingLockShared) {
        return refuse(format!("it is locked ({error})"));
    }
    Ok(fd)
}

/// Removes what processes left that died between making a file and unlinking it: files of our name
/// and user that nobody holds a lock on.
pub(super) fn sweep(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        if is_ours(&entry.file_name()) {
            // What fails here is not a leftover, or somebody else's to remove.
            let _ = sweep_one(&entry.path());
        }
    }
}

fn is_ours(name: &OsStr) -> bool {
    let name = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
    name.is_some_and(|rest| rest.len() == 32 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn sweep_one(path: &Path) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let fd = fs::open(path, flags, Mode::empty())?;
    let stat = fs::fstat(&fd)?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !is_file || stat.st_uid != process::geteuid().as_raw() {
        return Ok(());
    }
    fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
    fs::unlink(path)
}
