//! The processes of one scenario: started, listened to, continued, and ended.

use std::io::{self, BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{env, fs};

use rustix::process::{Pid, Signal, kill_process};

use super::scenario::{FAULTY, Scenario};
use super::stopped;
use super::words::{Said, heard, now};
use crate::plan;
use crate::shim_log::{Kind, Line};

/// How a process ended.
#[derive(Debug)]
pub(super) enum End {
    Exited {
        micros: u128,
        #[expect(dead_code, reason = "printed where something is wrong")]
        status: String,
    },
    /// By this program, because it did not end.
    Killed,
}

#[derive(Debug)]
pub(super) struct Life {
    pub(super) said: Vec<Said>,
    pub(super) end: End,
}

/// All that was seen.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) ranks: Vec<Life>,
    /// When the fault came, by the shim's log.
    pub(super) fault: Option<u128>,
    /// When the stopped rank was continued.
    pub(super) continued: Option<u128>,
    /// The shim's logs, by file.
    pub(super) logs: Vec<(String, String)>,
}

impl Seen {
    /// Whether the faulty rank entered the call after the fault.
    pub(super) fn entered_after_fault(&self, call: &str) -> bool {
        let log = self.logs.get(FAULTY).map_or("", |(_, text)| text);
        let lines = log.lines().filter_map(Line::parse);
        let after = lines.skip_while(|line| line.kind != Kind::Fault);
        after
            .into_iter()
            .any(|line| line.kind == Kind::Call && line.name == call)
    }
}

struct Rank {
    child: Child,
    log: PathBuf,
    said: Arc<Mutex<Vec<Said>>>,
    listener: Option<JoinHandle<()>>,
    end: Option<End>,
}

/// Ends what is left of the processes.
struct Ranks(Vec<Rank>);

impl Drop for Ranks {
    fn drop(&mut self) {
        for rank in &mut self.0 {
            // Fails where it has ended already.
            let _ = rank.child.kill();
            let _ = rank.child.wait();
        }
    }
}

/// Runs the scenario to its end.
pub(super) fn run(
    scenario: &Scenario,
    ranks: usize,
    shim: &Path,
    folder: &Path,
) -> io::Result<Seen> {
    // Free now; nobody else on the machine is expected to take it before rank 0 does.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut all = Ranks(Vec::new());
    for rank in 0..ranks {
        all.0
            .push(start(scenario, rank, ranks, port, shim, folder)?);
    }
    let (began, mut fault, mut continued) = (Instant::now(), None, None);
    let mut alone = None;
    while all.0.iter().any(|rank| rank.end.is_none()) && began.elapsed() < scenario.hard_limit() {
        for rank in all.0.iter_mut().filter(|rank| rank.end.is_none()) {
            if let Some(status) = rank.child.try_wait()? {
                let status = status.to_string();
                rank.end = Some(End::Exited {
                    micros: now(),
                    status,
                });
            }
        }
        let faulty = &all.0[FAULTY];
        fault = fault.or_else(|| fault_in(&faulty.log));
        if scenario.what == "stop"
            && continued.is_none()
            && fault.is_some_and(|at| now() > at + stopped().as_micros())
        {
            kill_process(Pid::from_child(&faulty.child), Signal::CONT)?;
            continued = Some(now());
        }
        let mut others = all.0.iter().enumerate();
        if others.all(|(rank, life)| rank == FAULTY || life.end.is_some()) {
            // Counted from its continuation, where it is stopped.
            let stopped = scenario.what == "stop" && continued.is_none() && fault.is_some();
            let since = alone.get_or_insert_with(Instant::now);
            if stopped {
                *since = Instant::now();
            }
            if since.elapsed() > scenario.patience() {
                break;
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
    finish(all, fault, continued)
}

fn start(
    scenario: &Scenario,
    rank: usize,
    ranks: usize,
    port: u16,
    shim: &Path,
    folder: &Path,
) -> io::Result<Rank> {
    let log = folder.join(format!("rank-{rank}.log"));
    // Appended to: a log of an earlier run would be read as well.
    let _ = fs::remove_file(&log);
    let mut command = Command::new(env::current_exe()?);
    command
        .args([plan::FAULT, scenario.program.word()])
        .env("SYMM_NCCL_PATH", shim)
        .env("SYMM_SHIM_LOG", &log)
        .env("SYMM_SHIM_FAULT", scenario.fault())
        .env("MASTER_ADDR", "127.0.0.1")
        .env("MASTER_PORT", port.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if let Some(nccl) = env::var_os("SYMM_NCCL_PATH") {
        command.env("SYMM_SHIM_NCCL", nccl);
    }
    let numbers = [
        ("RANK", rank),
        ("LOCAL_RANK", rank),
        ("WORLD_SIZE", ranks),
        ("LOCAL_WORLD_SIZE", ranks),
    ];
    command.envs(numbers.map(|(name, number)| (name, number.to_string())));
    let mut child = command.spawn()?;
    let said = Arc::new(Mutex::new(Vec::new()));
    let words = Arc::clone(&said);
    let listener = child.stdout.take().map(|output| {
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                match heard(&line) {
                    Some(word) => lock(&words).push(word),
                    None => println!("      rank {rank}: {line}"),
                }
            }
        })
    });
    Ok(Rank {
        child,
        log,
        said,
        listener,
        end: None,
    })
}

fn finish(mut all: Ranks, fault: Option<u128>, continued: Option<u128>) -> io::Result<Seen> {
    let (mut ranks, mut logs) = (Vec::new(), Vec::new());
    for rank in &mut all.0 {
        let end = rank.end.take().unwrap_or(End::Killed);
        let _ = rank.child.kill();
        rank.child.wait()?;
        if let Some(listener) = rank.listener.take() {
            // It cannot panic, and a panic would be printed.
            let _ = listener.join();
        }
        let said = std::mem::take(&mut *lock(&rank.said));
        ranks.push(Life { said, end });
        // Without GPUs there is none.
        let text = fs::read_to_string(&rank.log).unwrap_or_default();
        logs.push((rank.log.display().to_string(), text));
    }
    let fault = fault.or_else(|| all.0.get(FAULTY).and_then(|rank| fault_in(&rank.log)));
    Ok(Seen {
        ranks,
        fault,
        continued,
        logs,
    })
}

/// When the shim's log says that the fault came.
fn fault_in(log: &Path) -> Option<u128> {
    let text = fs::read_to_string(log).ok()?;
    let mut lines = text.lines().filter_map(Line::parse);
    let fault = lines.find(|line| line.kind == Kind::Fault)?;
    Some(fault.micros)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
