//! The log: one write for each line, so that lines of several threads stay whole, and that a process
//! that is killed leaves all of them.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

struct Log {
    file: Option<File>,
    lines: u64,
}

static LOG: LazyLock<Mutex<Log>> = LazyLock::new(|| {
    Mutex::new(Log {
        file: open(),
        lines: 0,
    })
});

fn open() -> Option<File> {
    let path = std::env::var("SYMM_SHIM_LOG")
        .ok()
        .filter(|path| !path.is_empty())?;
    let path = path.replace("%p", &std::process::id().to_string());
    let opened = OpenOptions::new().create(true).append(true).open(&path);
    opened
        .inspect_err(|error| eprintln!("symm-shim: no log at {path}: {error}"))
        .ok()
}

/// Appends a line, and returns its number.
pub(crate) fn line(text: &str) -> u64 {
    let thread = rustix::thread::gettid().as_raw_nonzero();
    let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    let number = log.lines;
    log.lines += 1;
    // Read under the lock, so that times are in the order of the lines.
    let micros = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros());
    if let Some(file) = &mut log.file {
        // Nobody could be told of a failure.
        let _ = file.write_all(format!("{number} {micros} {thread} {text}\n").as_bytes());
    }
    number
}
