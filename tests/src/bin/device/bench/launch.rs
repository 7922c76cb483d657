//! The process that starts a process for each rank of a bench, and ends them.

use std::net::TcpListener;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use super::options::Task;

/// The other ranks end within this when one has failed, or are ended: raw calls wait for ever.
const GRACE: Duration = Duration::from_secs(5);

/// Ends what is left of the processes.
struct Ranks(Vec<Child>);

impl Drop for Ranks {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Fails where it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs all ranks of the task, which print for themselves.
pub(super) fn processes(task: &Task) -> ExitCode {
    match start(task).and_then(follow) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("FAIL  the ranks cannot be started: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(task: &Task) -> io::Result<Ranks> {
    // Free now; nobody else on the machine is expected to take it before rank 0 does.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut ranks = Ranks(Vec::new());
    for rank in 0..task.ranks {
        let mut command = Command::new(env::current_exe()?);
        let numbers = [
            ("RANK", rank),
            ("LOCAL_RANK", rank),
            ("WORLD_SIZE", task.ranks),
            ("LOCAL_WORLD_SIZE", task.ranks),
        ];
        command
            .args(task.rank_words())
            .envs(numbers.map(|(name, number)| (name, number.to_string())))
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", port.to_string())
            .stdin(Stdio::null());
        ranks.0.push(command.spawn()?);
    }
    Ok(ranks)
}

/// Waits for all, or, once one has failed, a while for the others. Whether all went well.
fn follow(mut ranks: Ranks) -> io::Result<bool> {
    let (mut well, mut until) = (true, None);
    let mut open: Vec<&mut Child> = ranks.0.iter_mut().collect();
    while !open.is_empty() && until.is_none_or(|until| Instant::now() < until) {
        let mut waiting = Vec::new();
        for child in open {
            match child.try_wait()? {
                None => waiting.push(child),
                Some(status) if status.success() => {}
                Some(_) => {
                    well = false;
                    until.get_or_insert_with(|| Instant::now() + GRACE);
                }
            }
        }
        open = waiting;
        thread::sleep(Duration::from_millis(5));
    }
    Ok(well)
}
