//! How far a calibration has come, for whoever waits at a terminal.

use std::io::{self, IsTerminal, Write};

use super::core::GroupCore;
use crate::backend::Backend;

/// A line on the terminal of rank 0, if there is one.
pub(super) struct Progress(Option<String>);

impl Progress {
    pub(super) fn of<B: Backend>(group: &GroupCore<B>) -> Self {
        let shows = group.rank == 0 && io::stderr().is_terminal();
        Self(shows.then(|| group.name().to_owned()))
    }

    pub(super) fn show(&self, done: usize, total: usize, operation: &str) {
        const WIDTH: usize = 30;
        let Some(name) = &self.0 else { return };
        let full = WIDTH * done / total.max(1);
        let bar = "#".repeat(full);
        let mut err = io::stderr().lock();
        // Nobody misses a line that cannot be written.
        let _ = write!(
            err,
            "\r{name}: calibrating [{bar:<WIDTH$}] {done}/{total} {operation:<14} "
        );
        let _ = err.flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.0.is_some() {
            let _ = write!(io::stderr().lock(), "\r{:100}\r", "");
        }
    }
}
