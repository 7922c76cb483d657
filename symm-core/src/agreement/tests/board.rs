use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{FlockOperation, flock};

use super::{SOON, TOPIC, each, with_board};
use crate::agreement::board::Board;
use crate::agreement::file;
use crate::error::Error;
use crate::rendezvous::Rendezvous;

/// A folder of this test's own, gone at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("symm-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).expect("a folder");
        entries
            .map(|entry| {
                let name = entry.expect("an entry").file_name();
                name.to_str().expect("a name").to_owned()
            })
            .collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn meet_all(ranks: usize, directory: &Path, bytes: usize) -> Vec<Result<Board, Error>> {
    let here: Arc<[usize]> = (0..ranks).collect();
    each(ranks, |end| {
        Board::meet_in(directory, &end, &here, TOPIC, bytes, SOON)
    })
}

/// What one rank adds to a word all see, and it is aligned and zero at first.
fn is_one_memory(boards: &[Board], bytes: usize) {
    for board in boards {
        let words = board.words();
        assert_eq!(words.len() * 8, bytes.next_multiple_of(64));
        assert_eq!(words.as_ptr() as usize % 64, 0);
        words[1].fetch_add(3, Ordering::Relaxed);
    }
    for board in boards {
        assert_eq!(
            board.words()[1].load(Ordering::Relaxed),
            3 * boards.len() as u64
        );
        assert_eq!(board.words()[0].load(Ordering::Relaxed), 0);
    }
}

#[test]
fn threads_share_memory_that_has_no_name_any_more() {
    let folder = Folder::new("shared");
    for (ranks, bytes) in [(1, 8), (2, 64), (4, 100_000)] {
        let boards = meet_all(ranks, &folder.0, bytes).into_iter();
        let boards: Vec<_> = boards.map(|board| board.expect("a board")).collect();
        assert_eq!(folder.names(), [""; 0]);
        is_one_memory(&boards, bytes);
    }
}

#[test]
fn without_a_directory_memory_has_no_file() {
    for directory in ["/no/such/directory", "/proc/version/x"] {
        let boards = meet_all(3, Path::new(directory), 4096).into_iter();
        let boards: Vec<_> = boards.map(|board| board.expect("a board")).collect();
        is_one_memory(&boards, 4096);
    }
}

#[test]
fn too_little_memory_is_an_error_on_all_ranks() {
    let folder = Folder::new("full");
    let boards = meet_all(3, &folder.0, 1 << 50);
    assert_eq!(folder.names(), [""; 0]);
    for (rank, board) in boards.into_iter().enumerate() {
        let told = match board.expect_err("a petabyte") {
            Error::Rendezvous { rank: 0, why } if rank == 0 => why,
            Error::PeerFailed { rank: 0, cause } if rank > 0 => cause,
            other => panic!("{other}"),
        };
        assert!(told.contains("cannot make"), "{told}");
    }
}

#[test]
fn ranks_that_ask_for_another_size_are_all_refused() {
    let folder = Folder::new("sizes");
    let here: Arc<[usize]> = (0..3).collect();
    let boards = each(3, |end| {
        let bytes = if end.rank() == 2 { 128 } else { 64 };
        Board::meet_in(&folder.0, &end, &here, TOPIC, bytes, SOON)
    });
    for board in &boards {
        let told = board.as_ref().expect_err("a difference").to_string();
        assert!(told.contains("bytes, not"), "{told}");
    }
    assert!(matches!(boards[0], Err(Error::PeerFailed { rank: 2, .. })));
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn what_is_not_a_board_is_not_opened() {
    let folder = Folder::new("foreign");
    let path = folder.0.join("file");
    let name = path.to_str().expect("a name");
    std::fs::write(&path, [0; 64]).expect("a file");
    let made = file::create(&folder.0, 64).expect("a file");
    std::os::unix::fs::symlink(made.path(), folder.0.join("link")).expect("a link");
    let link = folder.0.join("link");
    assert!(file::open(&made.path(), 64).is_ok());
    for (path, bytes, says) in [
        (made.path().as_str(), 128, "has 64 bytes"),
        (name, 64, "its mode is"),
        (link.to_str().expect("a name"), 64, "cannot open"),
        ("/dev/null", 64, "it is no file"),
        ("/dev/shm/symm-core.none", 64, "No such file"),
    ] {
        let refusal = file::open(path, bytes).expect_err("no board");
        assert!(refusal.contains(says), "{refusal}");
    }
}

#[test]
fn what_dead_processes_left_is_swept_away() {
    let folder = Folder::new("swept");
    let leftover = format!("symm-core.{:032x}", 7);
    let in_use = format!("symm-core.{:032x}", 8);
    for name in [&leftover, &in_use, "symm-core.notes", "other"] {
        std::fs::write(folder.0.join(name), b"").expect("a file");
    }
    let held = std::fs::File::open(folder.0.join(&in_use)).expect("a file");
    flock(&held, FlockOperation::LockShared).expect("a lock");
    let made = file::create(&folder.0, 64).expect("a file");

    file::sweep(&folder.0);
    assert!(Path::new(&made.path()).exists() && folder.0.join(&in_use).exists());
    assert!(!folder.0.join(&leftover).exists());
    drop(made);
    assert_eq!(folder.names().len(), 3);
    file::sweep(Path::new("/no/such/directory"));
}

#[test]
fn boards_lie_in_the_default_place_until_the_last_rank_drops_them() {
    let sums = with_board(3, 64, |rank, board| {
        let words = board.words();
        words[0].fetch_add(rank as u64 + 1, Ordering::Relaxed);
        while words[0].load(Ordering::Relaxed) < 6 {
            std::thread::yield_now();
        }
        words[0].load(Ordering::Relaxed)
    });
    assert_eq!(sums, [6; 3]);
}

const PORT: &str = "SYMM_BOARD_TEST_PORT";

fn process(rank: usize, port: u16) -> u64 {
    let end = Rendezvous::connect(rank, 2, "127.0.0.1", port, SOON).expect("a rendezvous");
    let here: Arc<[usize]> = [0, 1].into();
    let mut sum = 0;
    // By a name, then without one.
    for (step, directory) in [(0, file::DIRECTORY), (2, "/no/such/directory")] {
        let topic = crate::rendezvous::Topic { step, ..TOPIC };
        let board = Board::meet_in(Path::new(directory), &end, &here, topic, 64, SOON);
        let board = board.expect("a board");
        board.words()[0].fetch_add(rank as u64 + 1, Ordering::Relaxed);
        let done = crate::rendezvous::Topic {
            channel: 1,
            ..topic
        };
        end.exchange(done, &here, Vec::new(), "the end", SOON)
            .expect("both");
        sum += board.words()[0].load(Ordering::Relaxed);
    }
    sum
}

/// Rank 1 of the next test, in a process of its own.
#[test]
fn second_process() {
    if let Ok(port) = std::env::var(PORT) {
        assert_eq!(process(1, port.parse().expect("a port")), 6);
    }
}

#[test]
fn processes_share_memory() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = listener.local_addr().expect("bound").port();
    drop(listener);
    let mut peer = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "agreement::tests::board::second_process"])
        .env(PORT, port.to_string())
        .spawn()
        .expect("a process");
    assert_eq!(process(0, port), 6);
    assert!(peer.wait().expect("its end").success());
}
