//! The process that starts the ranks, listens to them, and ends them.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use symm_core::Cuda;

use crate::plan::{Backing, Launch, Plan};
use crate::worker::{Speaker, Word};

/// A case that takes longer hangs.
const CASE: Duration = Duration::from_secs(60);
/// A world takes a while to come up: driver, NCCL and its connections.
const START: Duration = Duration::from_secs(60);
/// What the other ranks have to say about a failure comes within this.
const GRACE: Duration = Duration::from_secs(2);
/// After so many hangs the machine, or the time on it, is better given up.
const MOST_HANGS: usize = 3;

/// How it went.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
    hung: usize,
}

/// Runs the plan to its end, in as many worlds as that takes: a failure ends one.
pub(crate) fn run(plan: &Plan) -> ExitCode {
    let (titles, beyond): (Vec<_>, Vec<_>) = plan
        .titles()
        .into_iter()
        .partition(|(_, ranks)| *ranks <= plan.ranks);
    for (title, ranks) in &beyond {
        println!("skip  {title}: needs {ranks} ranks");
    }
    let titles: Vec<String> = titles.into_iter().map(|(title, _)| title).collect();
    let mut tally = Tally::default();
    let mut first = 0;
    while first < titles.len() && tally.hung < MOST_HANGS {
        let left = &titles[first..];
        let ended = Session::start(plan, first)
            .map(|session| session.follow(plan.ranks, left, &mut tally.passed));
        let (done, how) = ended.unwrap_or_else(|error| {
            (
                0,
                Ended::Failed(format!("the ranks cannot be started: {error}")),
            )
        });
        let title = left
            .get(done)
            .map_or("the end of the world", String::as_str);
        match how {
            Ended::Well => {}
            Ended::Unavailable(why) if first + done == 0 => {
                println!("SKIP: {why}");
                return ExitCode::SUCCESS;
            }
            Ended::Unavailable(why) | Ended::Failed(why) => {
                println!("FAIL  {title}\n      {why}");
                tally.failed += 1;
            }
            Ended::Hung(why) => {
                println!("HANG  {title}\n      {why}");
                (tally.failed, tally.hung) = (tally.failed + 1, tally.hung + 1);
            }
        }
        first += done + 1;
    }
    println!("{}", place(plan));
    let skipped = beyond.len() + titles.len().saturating_sub(first);
    println!(
        "{} passed, {} failed, {skipped} skipped",
        tally.passed, tally.failed
    );
    match tally {
        Tally { hung: 1.., .. } => ExitCode::from(3),
        Tally { failed: 1.., .. } => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

/// Where it ran.
fn place(plan: &Plan) -> String {
    let ranks = format!("{} ranks as {:?}", plan.ranks, plan.launch).to_lowercase();
    match plan.backing {
        Backing::Host => format!("host backend, {ranks}"),
        Backing::Cuda => format!("{}\n{ranks}", Cuda::probe()),
    }
}

/// How a world ended.
enum Ended {
    Well,
    Failed(String),
    Hung(String),
    Unavailable(String),
}

/// What went wrong, as one of the ranks or processes has it.
struct Complaint {
    /// It repeats what another one says.
    echo: bool,
    text: String,
}

enum Event {
    Line(String),
    /// The process has nothing more to say.
    Closed(usize),
}

/// The processes of one world. Ended when dropped.
struct Session {
    workers: Vec<Child>,
    events: Receiver<Event>,
}

impl Session {
    fn start(plan: &Plan, first: usize) -> io::Result<Self> {
        let (tell, events) = channel();
        let mut session = Self {
            workers: Vec::new(),
            events,
        };
        let processes = if plan.launch == Launch::Threads {
            1
        } else {
            plan.ranks
        };
        // Free now; nobody else on the machine is expected to take it before rank 0 does.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        for rank in 0..processes {
            let mut command = Command::new(env::current_exe()?);
            command
                .args(plan.worker(first))
                .stdin(Stdio::null())
                .stdout(Stdio::piped());
            if plan.launch == Launch::Processes {
                let numbers = [
                    ("RANK", rank),
                    ("LOCAL_RANK", rank),
                    ("WORLD_SIZE", processes),
                    ("LOCAL_WORLD_SIZE", processes),
                ];
                command.envs(numbers.map(|(name, number)| (name, number.to_string())));
                command
                    .env("MASTER_ADDR", "127.0.0.1")
                    .env("MASTER_PORT", port.to_string());
            }
            session.workers.push(command.spawn()?);
            listen(&mut session.workers[rank], rank, tell.clone());
        }
        Ok(session)
    }

    /// Listens until the world ends. Says how many cases are done, and how it ended.
    fn follow(mut self, ranks: usize, titles: &[String], passed: &mut usize) -> (usize, Ended) {
        let mut done = 0;
        let mut through = vec![0; ranks]; // cases that each rank is through with
        let mut began = Instant::now();
        let mut deadline = began + START + CASE;
        let mut complaints: Vec<Complaint> = Vec::new();
        let mut open = self.workers.len();
        while open > 0 {
            let Ok(event) = self
                .events
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            else {
                break;
            };
            let complaint = match event {
                Event::Line(line) => match Word::heard(&line) {
                    Some((Speaker::Rank(rank), Word::Passed)) => {
                        through[rank] += 1;
                        if through.iter().all(|&through| through > done) {
                            println!(
                                "ok    {} ({:.1} s)",
                                titles[done],
                                began.elapsed().as_secs_f32()
                            );
                            *passed += 1;
                            (done, began) = (done + 1, Instant::now());
                            deadline = began + CASE;
                        }
                        None
                    }
                    Some((_, Word::Unavailable(why))) => return (done, Ended::Unavailable(why)),
                    // A world fails because a rank did, if one did.
                    Some((speaker, Word::Failed(text))) => Some(Complaint {
                        echo: speaker == Speaker::World,
                        text: format!("{speaker}: {text}"),
                    }),
                    Some((speaker, Word::Echoed(text))) => Some(Complaint {
                        echo: true,
                        text: format!("{speaker}: {text}"),
                    }),
                    Some((Speaker::World, Word::Passed)) | None => {
                        println!("{line}");
                        None
                    }
                },
                Event::Closed(worker) => {
                    open -= 1;
                    self.ended(worker).map(|how| Complaint {
                        echo: true,
                        text: format!("process {worker}: {how}"),
                    })
                }
            };
            if let Some(complaint) = complaint {
                complaints.push(complaint);
                deadline = deadline.min(Instant::now() + GRACE);
            }
        }
        let late = || {
            (0..ranks)
                .filter(|&rank| through[rank] <= done)
                .collect::<Vec<_>>()
        };
        let how = match (open, done == titles.len()) {
            _ if !complaints.is_empty() => Ended::Failed(told(&complaints)),
            (0, true) => Ended::Well,
            (0, false) => Ended::Failed(format!("ranks {:?} ended without a word", late())),
            _ => Ended::Hung(format!(
                "ranks {:?} did not come back in {} s",
                late(),
                began.elapsed().as_secs()
            )),
        };
        (done, how)
    }

    /// How the process ended, unless well.
    fn ended(&mut self, worker: usize) -> Option<String> {
        match self.workers[worker].wait() {
            Ok(status) if ExitStatus::success(&status) => None,
            Ok(status) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            // Fails where it has ended already.
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

/// The complaints that are news, or all if none is.
fn told(complaints: &[Complaint]) -> String {
    let news = complaints.iter().any(|complaint| !complaint.echo);
    let told: Vec<&str> = complaints
        .iter()
        .filter(|complaint| complaint.echo != news)
        .map(|complaint| complaint.text.as_str())
        .collect();
    told.join("\n      ")
}

/// Passes on what the worker prints.
fn listen(worker: &mut Child, number: usize, tell: Sender<Event>) {
    let Some(output) = worker.stdout.take() else {
        return;
    };
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            // The parent may have stopped listening.
            let _ = tell.send(Event::Line(line));
        }
        let _ = tell.send(Event::Closed(number));
    });
}
