//! Ranks that are processes, and the faults that they get from the environment: this test's program
//! runs itself again, once for each rank.

use std::process::{Child, Command, Output, Stdio};

use super::*;

/// Marks a child, and says where its world meets: rank and port.
const CHILD: &str = "SYMM_TEST_CHILD";
const FAULTS: &str = "SYMM_HOST_FAULTS";

/// Starts the ranks of a world of two.
fn start(faults: &str) -> Vec<Child> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let child = |rank: usize| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture"])
            .arg("backend::host::tests::processes::child")
            .env(CHILD, format!("{rank} {port}"))
            .env(FAULTS, faults)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    (0..2).map(child).collect()
}

fn ends(children: Vec<Child>) -> Vec<Output> {
    let end = |child: Child| child.wait_with_output().unwrap();
    children.into_iter().map(end).collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
#[ignore = "a rank of the tests below"]
fn child() {
    let Ok(place) = std::env::var(CHILD) else {
        return;
    };
    let (rank, port) = place.split_once(' ').unwrap();
    let (rank, soon) = (rank.parse().unwrap(), Duration::from_secs(20));
    let end = Rendezvous::connect(rank, 2, "127.0.0.1", port.parse().unwrap(), soon).unwrap();
    let seat = Seat {
        launcher: crate::Launcher::Threads,
        rank,
        ranks: 2,
        local_rank: rank,
        local_ranks: 2,
        processes: true,
        rendezvous: Arc::new(end),
        deadline: soon,
    };
    let options = Options::default().patience(Duration::from_millis(20));
    let result = live_at(&seat, &options, |rank| {
        let memory = rank.plain(8);
        for _ in 0..4 {
            let at = memory.base();
            rank.launch(&[rank.call(Op::AllReduce(ReduceOp::Sum), 4, at, at)])?;
        }
        Host::synchronize(&rank.stream)
    });
    // The engine ends on its own; the goodbye comes with the last handle.
    let deadline = Instant::now() + soon;
    while Arc::strong_count(&seat.rendezvous) > 1 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
    drop(seat);
    match result {
        Ok(()) => println!("SAID: fine"),
        Err(error) => println!("SAID: {error}"),
    }
}

#[test]
fn a_rank_that_is_killed_is_named() {
    let outputs = ends(start("1:launch:3:kill"));
    assert!(!outputs[1].status.success() && !said(&outputs[1]).contains("SAID"));
    let told = said(&outputs[0]);
    assert!(
        told.contains("SAID: rank 1 failed: its process died"),
        "{told}"
    );
}

#[test]
fn faults_that_cannot_be_read_are_an_error_of_the_environment() {
    for output in ends(start("1:launch:3:explode")) {
        let told = said(&output);
        assert!(
            told.contains("SAID: environment variable SYMM_HOST_FAULTS"),
            "{told}"
        );
    }
}

#[test]
fn threads_cannot_be_killed() {
    let kill = Fault::new(0, At::Nth(1), What::Kill);
    let results = world(2, Options::default().fault(kill), |_| Ok(()));
    assert!(
        results
            .iter()
            .all(|result| matches!(result, Err(Error::Config { .. })))
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_rank_that_stops_waits_for_a_signal_and_goes_on() {
    use rustix::process::{Pid, Signal, kill_process};

    let children = start("1:launch:3:stop=1");
    let id = children[1].id();
    let is_stopped = || {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // Behind the name, which is in brackets.
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('T'))
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_stopped() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    assert!(is_stopped());
    let pid = Pid::from_raw(id as i32).unwrap();
    kill_process(pid, Signal::CONT).unwrap();
    for output in ends(children) {
        assert!(said(&output).contains("SAID: fine"), "{}", said(&output));
    }
}
