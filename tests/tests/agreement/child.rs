//! Ranks that are processes: this binary again, with a program's name in its environment.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use libtest_mimic::Failed;
use rustix::process::{Pid, Signal, kill_process};

use crate::{faults, hosts, joining, kills};

const PROGRAM: &str = "SYMM_AGREEMENT_PROGRAM";
/// A rank that is still there then hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs the program that the environment names, if it does; returns the status of the process.
pub(crate) fn run() -> Option<i32> {
    let name = env::var(PROGRAM).ok()?;
    let program = match &*name {
        "joins" => joining::rank,
        "strict" => joining::strict_rank,
        "lives" => kills::rank,
        "spans" => hosts::rank,
        "faults" => faults::exhaust,
        other => panic!("no program {other:?}"),
    };
    // On a thread that ends: a world's end waits for what it gives back.
    let outcome = thread::spawn(program).join();
    let (word, text, status) = match outcome {
        Ok(Ok(text)) => ("ok", text, 0),
        Ok(Err(text)) => ("error", text, 1),
        Err(_) => ("error", "it panicked".to_owned(), 2),
    };
    println!("end {word} {text}");
    Some(status)
}

/// What the environment says of a number.
pub(crate) fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// This binary, as a program.
pub(crate) fn command(program: &str) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.env(PROGRAM, program);
    Ok(command)
}

/// Where the ranks of a new world meet.
pub(crate) fn meeting() -> io::Result<Vec<(String, String)>> {
    static WORLDS: AtomicU64 = AtomicU64::new(0);
    // Free now; nobody else on the machine is expected to take it before rank 0 does.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let world = WORLDS.fetch_add(1, Ordering::Relaxed);
    let token = format!("{}-{world}", std::process::id());
    let vars = [
        ("MASTER_ADDR", "127.0.0.1".to_owned()),
        ("MASTER_PORT", port.to_string()),
        ("SYMM_TOKEN", token),
    ];
    Ok(vars.map(|(name, value)| (name.to_owned(), value)).into())
}

/// A process that is running.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<(Instant, String)>,
    /// The last of its lines that begins with `end`, and when it came.
    pub(crate) said: Option<(Instant, String)>,
    pub(crate) all: Vec<String>,
    begun: Instant,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> io::Result<Self> {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let (tell, lines) = channel();
        if let Some(out) = child.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    if tell.send((Instant::now(), line)).is_err() {
                        break;
                    }
                }
            });
        }
        Ok(Self {
            child,
            lines,
            said: None,
            all: Vec::new(),
            begun: Instant::now(),
        })
    }

    /// One rank of a world of processes.
    pub(crate) fn rank(
        program: &str,
        rank: usize,
        ranks: usize,
        vars: &[(String, String)],
    ) -> io::Result<Self> {
        let mut command = command(program)?;
        command
            .env("RANK", rank.to_string())
            .env("LOCAL_RANK", rank.to_string())
            .env("WORLD_SIZE", ranks.to_string())
            .envs(vars.iter().cloned());
        Self::start(command)
    }

    /// Waits until it says how it ended, or its output ends; false if it does neither in time.
    pub(crate) fn listen(&mut self, until: Instant) -> bool {
        while self.said.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok((at, line)) => {
                    if line.starts_with("end ") {
                        self.said = Some((at, line.clone()));
                    }
                    self.all.push(line);
                }
                Err(RecvTimeoutError::Timeout) => return false,
                Err(RecvTimeoutError::Disconnected) => return true,
            }
        }
        true
    }

    /// What it said at its end; empty if it was killed.
    pub(crate) fn end(&self) -> &str {
        self.said.as_ref().map_or("", |(_, text)| text)
    }

    /// Waits for its end; an error if it hangs. Returns its signal, if it was killed.
    pub(crate) fn join(&mut self) -> Result<Option<i32>, Failed> {
        let until = self.begun + LIMIT;
        if !self.listen(until) {
            return Err(format!("process {} hangs: {:?}", self.child.id(), self.all).into());
        }
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(std::os::unix::process::ExitStatusExt::signal(&status));
            }
            if Instant::now() > until {
                return Err(format!("a process does not end after {:?}", self.end()).into());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether a signal stopped it.
    pub(crate) fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.unwrap_or_default();
        let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
        state.is_some_and(|state| state.starts_with('T'))
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) -> Result<(), Failed> {
        let pid = Pid::from_child(&self.child);
        Ok(kill_process(pid, Signal::CONT)?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Of what ended this does nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
