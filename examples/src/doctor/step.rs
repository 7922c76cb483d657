//! A step that may fail, crash or hang: it tells what it found as it finds it, on GPUs from a process
//! of its own.

use std::io::{BufRead, BufReader, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, io, process, thread};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Starts the lines by which a child speaks: NCCL writes to standard output too.
const MARK: &str = "@doctor ";
/// Warnings of NCCL that are shown.
const WARNINGS: usize = 5;

/// What a step found, however it ended.
#[derive(Debug, Default, Serialize)]
pub struct Step<T> {
    /// All that was found before the end, or before the error.
    #[serde(flatten)]
    pub found: T,
    /// Why it did not come to its end.
    pub error: Option<String>,
    /// What NCCL warned of meanwhile.
    pub nccl_warnings: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// Where a step tells what it has found so far.
pub(super) trait Emit<T>: Sync {
    fn found(&self, found: &T);
}

/// What a child says.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word<T> {
    Found(T),
    Failed(String),
}

fn say<T: Serialize>(word: &Word<T>) {
    if let Ok(text) = serde_json::to_string(word) {
        // The parent may be gone.
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{MARK}{text}").and_then(|()| out.flush());
    }
}

/// Tells the parent.
struct Aloud;

impl<T: Serialize + Clone> Emit<T> for Aloud {
    fn found(&self, found: &T) {
        say(&Word::Found(found.clone()));
    }
}

/// Keeps it.
struct Kept<T>(Mutex<T>);

impl<T: Clone + Send> Emit<T> for Kept<T> {
    fn found(&self, found: &T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = found.clone();
    }
}

/// Runs a step's work; a panic is an error of it.
fn attempt<T, E: ToString>(
    work: impl FnOnce(&dyn Emit<T>) -> Result<(), E>,
    emit: &dyn Emit<T>,
) -> Option<String> {
    let ended = catch_unwind(AssertUnwindSafe(|| work(emit)));
    match ended {
        Ok(ended) => ended.err().map(|error| error.to_string()),
        Err(_) => Some("it panicked; the message is above".into()),
    }
}

/// In a child: runs the work and tells the parent. Whether it came to its end.
pub(super) fn aloud<T: Serialize + Clone, E: ToString>(
    work: impl FnOnce(&dyn Emit<T>) -> Result<(), E>,
) -> bool {
    let error = attempt(work, &Aloud);
    let ended = error.is_none();
    if let Some(error) = error {
        say::<T>(&Word::Failed(error));
    }
    ended
}

impl<T: Default + Clone + Send> Step<T> {
    /// Runs the work here.
    pub(super) fn here<E: ToString>(work: impl FnOnce(&dyn Emit<T>) -> Result<(), E>) -> Self {
        let began = Instant::now();
        let kept = Kept(Mutex::new(T::default()));
        let error = attempt(work, &kept);
        Self {
            found: kept.0.into_inner().unwrap_or_else(PoisonError::into_inner),
            error,
            nccl_warnings: Vec::new(),
            seconds: began.elapsed().as_secs_f64(),
        }
    }
}

impl<T: Default + DeserializeOwned + Send + 'static> Step<T> {
    /// Runs this program again with such arguments and variables, and ends it when it takes longer
    /// than that.
    pub(super) fn elsewhere(
        arguments: &[&str],
        variables: &[(&str, &str)],
        most: Duration,
    ) -> Self {
        let began = Instant::now();
        let log = env::temp_dir().join(format!(
            "symm-doctor-{}-{}",
            process::id(),
            arguments.join("")
        ));
        let mut step = match env::current_exe() {
            Ok(program) => {
                let mut command = Command::new(program);
                command.args(arguments).envs(variables.iter().copied());
                // NCCL tells programs a code and little more.
                if env::var_os("NCCL_DEBUG").is_none() {
                    command
                        .env("NCCL_DEBUG", "WARN")
                        .env("NCCL_DEBUG_FILE", &log);
                }
                Self::of(command, most)
            }
            Err(error) => Self {
                error: Some(format!("this program cannot be started again: {error}")),
                ..Self::default()
            },
        };
        step.nccl_warnings = warnings(log);
        step.seconds = began.elapsed().as_secs_f64();
        step
    }

    /// Runs the program, and hears what it says.
    fn of(mut command: Command, most: Duration) -> Self {
        let mut step = Self::default();
        match command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn() {
            Ok(child) => step.hear(child, most),
            Err(error) => step.error = Some(format!("its process cannot be started: {error}")),
        }
        step
    }

    fn hear(&mut self, mut child: Child, most: Duration) {
        let (tell, words) = channel();
        let output = child.stdout.take();
        thread::spawn(move || {
            let lines = output
                .into_iter()
                .flat_map(|out| BufReader::new(out).lines());
            for line in lines.map_while(Result::ok) {
                let said = line.strip_prefix(MARK);
                let word = said.and_then(|said| serde_json::from_str::<Word<T>>(said).ok());
                if word.is_some_and(|word| tell.send(word).is_err()) {
                    break;
                }
            }
        });
        let deadline = Instant::now() + most;
        loop {
            match words.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Word::Found(found)) => self.found = found,
                Ok(Word::Failed(error)) => self.error = Some(error),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let late =
                        format!("it did not end within {} s, and was killed", most.as_secs());
                    self.error.get_or_insert(late);
                    break;
                }
            }
        }
        // It has closed its output, or is late: there is nothing to wait for.
        let ended = self.ended(&mut child);
        if self.error.is_none() {
            self.error = ended;
        }
    }

    /// How the process ended, unless well.
    fn ended(&self, child: &mut Child) -> Option<String> {
        let end = Instant::now() + Duration::from_secs(5);
        while self.error.is_none() && Instant::now() < end {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return None,
                Ok(Some(status)) => return Some(format!("its process ended with {status}")),
                Ok(None) => thread::sleep(Duration::from_millis(10)),
                Err(error) => return Some(error.to_string()),
            }
        }
        // Fails where it has ended already.
        let _ = child.kill();
        let _ = child.wait();
        Some("its process did not end, and was killed".into())
    }
}

/// What NCCL wrote, once each.
fn warnings(log: PathBuf) -> Vec<String> {
    let text = fs::read_to_string(&log).unwrap_or_default();
    // Not there where nothing was written.
    let _ = fs::remove_file(log);
    let mut warnings: Vec<String> = Vec::new();
    for line in text.lines() {
        // `host:pid:tid [device] file:line NCCL WARN what`
        let Some((_, what)) = line.split_once("NCCL WARN ") else {
            continue;
        };
        if warnings.len() < WARNINGS && !warnings.iter().any(|known| known == what) {
            warnings.push(what.into());
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn shell(script: &str, most: Duration) -> Step<Vec<u32>> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Step::of(command, most)
    }

    #[test]
    fn what_was_found_before_a_crash_is_kept() {
        let step = shell(
            "echo '@doctor {\"found\":[1,2]}'; echo noise; kill -9 $$",
            LONG,
        );
        assert_eq!(step.found, [1, 2]);
        assert!(step.error.is_some_and(|error| error.contains("signal: 9")));
    }

    #[test]
    fn a_child_that_hangs_is_ended() {
        let began = Instant::now();
        let step = shell(
            "echo '@doctor {\"found\":[3]}'; exec sleep 60",
            Duration::from_secs(1),
        );
        assert_eq!(step.found, [3]);
        assert!(step.error.is_some_and(|error| error.contains("within 1 s")));
        assert!(began.elapsed() < LONG);
    }

    #[test]
    fn errors_are_told_and_a_good_end_is_none() {
        let step = shell("echo '@doctor {\"failed\":\"no\"}'; exit 1", LONG);
        assert_eq!(step.error.as_deref(), Some("no"));
        let step = shell("echo '@doctor {\"found\":[4]}'", LONG);
        assert_eq!((step.found, step.error), (vec![4], None));
        let step: Step<Vec<u32>> = Step::of(Command::new("/no/such/program"), LONG);
        assert!(step.error.is_some());
    }

    #[test]
    fn a_panic_is_an_error() {
        let step = Step::<Vec<u32>>::here(|emit| {
            emit.found(&vec![5]);
            if emit_is_used() {
                std::panic::resume_unwind(Box::new("boom"));
            }
            Ok::<(), String>(())
        });
        assert_eq!(step.found, [5]);
        assert!(step.error.is_some_and(|error| error.contains("panicked")));
    }

    fn emit_is_used() -> bool {
        true
    }

    #[test]
    fn warnings_are_shown_once() {
        let log = env::temp_dir().join(format!("symm-doctor-log-{}", process::id()));
        let line = "host:1:2 [0] init.cc:7 NCCL WARN no shared memory\n";
        let text = format!("{line}NCCL version 2.30.7\n{line}");
        assert!(fs::write(&log, text).is_ok());
        assert_eq!(warnings(log.clone()), ["no shared memory"]);
        assert!(warnings(log).is_empty());
    }
}
