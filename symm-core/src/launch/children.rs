//! The processes that a launch started, until all have ended.

use std::ffi::OsString;
use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::processes::variables;
use super::signals::Watch;
use crate::error::{Error, Result};

/// The status of a rank that failed because another one did (`EX_TEMPFAIL`).
pub(super) const ECHO: i32 = 75;
/// How long the others may take to end by themselves, once a rank has failed.
const GRACE: Duration = Duration::from_secs(1);
/// How long ranks may take to end after a signal was handed on.
const FAREWELL: Duration = Duration::from_secs(5);
/// Between two looks at the processes.
const LOOK: Duration = Duration::from_millis(5);

/// All ranks' processes. Those that are still there when it is dropped are killed.
#[derive(Debug)]
pub(super) struct Children {
    running: Vec<(usize, Child)>,
    /// Those that failed, in the order in which that was seen.
    failed: Vec<(usize, ExitStatus)>,
}

impl Children {
    pub(super) fn start(ranks: usize, arguments: &[OsString], call: usize) -> Result<Self> {
        if ranks == 0 {
            return Err(config("a world has at least one rank".into()));
        }
        let program = std::env::current_exe()
            .map_err(|error| config(format!("the current program is not to be found: {error}")))?;
        // Free now; nobody else on this host is expected to take it before rank 0 does.
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free
            .map_err(|error| config(format!("no port is free on 127.0.0.1: {error}")))?
            .port();
        let mut children = Self {
            running: Vec::with_capacity(ranks),
            failed: Vec::new(),
        };
        for rank in 0..ranks {
            let input = match rank {
                0 => Stdio::inherit(),
                _ => Stdio::null(),
            };
            let started = Command::new(&program)
                .args(arguments)
                .envs(variables(rank, ranks, port, call))
                .stdin(input)
                .spawn();
            let child = started.map_err(|error| {
                config(format!(
                    "the process of rank {rank} cannot be started: {error}"
                ))
            })?;
            children.running.push((rank, child));
        }
        Ok(children)
    }

    /// Waits until all have ended.
    pub(super) fn supervise(mut self) -> Result<()> {
        let watch = Watch::begin()?;
        let (mut end, mut ended_by) = (None, None);
        while !self.running.is_empty() {
            if let Some(signal) = watch.taken() {
                ended_by = Some(signal);
                end.get_or_insert_with(|| Instant::now() + FAREWELL);
                self.tell(signal);
            }
            let failures = self.failed.len();
            self.look()?;
            if failures == 0 && !self.failed.is_empty() {
                end.get_or_insert_with(|| Instant::now() + GRACE);
            }
            if end.is_some_and(|end| Instant::now() > end) {
                self.kill();
            }
            thread::sleep(LOOK);
        }
        if let Some(signal) = ended_by {
            // Does not come back where the signal ends a process.
            watch.end_by(signal)?;
            let what = format!("signal {signal} came, and all ranks have ended");
            return Err(config(what));
        }
        self.verdict()
    }

    /// Takes those out that have ended.
    fn look(&mut self) -> Result<()> {
        let mut at = 0;
        while let Some((rank, child)) = self.running.get_mut(at) {
            let ended = child.try_wait().map_err(|error| {
                config(format!(
                    "the process of rank {rank} is not to be seen: {error}"
                ))
            })?;
            match ended {
                None => at += 1,
                Some(status) => {
                    let (rank, _) = self.running.swap_remove(at);
                    if !status.success() {
                        self.failed.push((rank, status));
                    }
                }
            }
        }
        Ok(())
    }

    /// Hands a signal on.
    fn tell(&self, signal: i32) {
        let signal = Signal::from_named_raw(signal).unwrap_or(Signal::TERM);
        for (_, child) in &self.running {
            // One that has ended by now takes none.
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    fn kill(&mut self) {
        for (_, child) in &mut self.running {
            let _ = child.kill();
        }
    }

    /// The first that failed of itself; those that were killed in the end came later.
    fn verdict(&self) -> Result<()> {
        let own = self
            .failed
            .iter()
            .find(|(_, status)| status.code() != Some(ECHO));
        match own.or(self.failed.first()) {
            None => Ok(()),
            Some((rank, status)) => {
                let own = match status.code() {
                    Some(_) => "; what it said is on the standard error",
                    None => "",
                };
                Err(Error::PeerFailed {
                    rank: *rank,
                    cause: format!("its process ended with {status}{own}").into(),
                })
            }
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.kill();
        for (_, child) in &mut self.running {
            // So that no zombie is left; it was killed.
            let _ = child.wait();
        }
    }
}

fn config(what: String) -> Error {
    Error::Config { what: what.into() }
}
