//! Memory that the ranks of one host share: the same for ranks that are threads and for ranks that
//! are processes. There is no lock in it that a dead rank could hold.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mm::{self, MapFlags, ProtFlags};

use super::file::{self, Made};
use super::sync::{AtomicU64, Ordering};
use crate::error::{Error, Result};
use crate::rendezvous::{Rendezvous, Topic};

/// A cache line, in which the header lies: magic, version of the layout, bytes.
const HEADER: usize = 64;
const MAGIC: u64 = u64::from_le_bytes(*b"symmBRD\x01");
/// Counts up when anything on a board moves or changes its meaning.
const VERSION: u64 = 1;

/// Shared words, zero at first.
#[derive(Debug)]
pub(crate) struct Board {
    memory: Mapping,
    /// Holds the shared lock which says that the file is in use.
    _file: Option<OwnedFd>,
}

impl Board {
    /// Makes the board of the world ranks `here`, which are those of this host, this one among them;
    /// all of them call it. The first makes the file and all map it; then its name goes. What fails
    /// on one rank is an error on all of them. Takes two steps of the topic's channel.
    pub(crate) fn meet(
        rendezvous: &Rendezvous,
        here: &Arc<[usize]>,
        topic: Topic,
        bytes: usize,
        deadline: Duration,
    ) -> Result<Board> {
        static SWEPT: Once = Once::new();
        let directory = Path::new(file::DIRECTORY);
        SWEPT.call_once(|| file::sweep(directory));
        Self::meet_in(directory, rendezvous, here, topic, bytes, deadline)
    }

    pub(super) fn meet_in(
        directory: &Path,
        rendezvous: &Rendezvous,
        here: &Arc<[usize]>,
        topic: Topic,
        bytes: usize,
        deadline: Duration,
    ) -> Result<Board> {
        let bytes = HEADER + bytes.next_multiple_of(HEADER);
        let (me, start) = (rendezvous.rank(), Instant::now());
        if here[..] == [me] {
            let memory = Mapping::private(bytes).map_err(|why| refused(me, why))?;
            return Ok(Board {
                memory,
                _file: None,
            });
        }
        let Some(&maker) = here.first() else {
            return Err(refused(me, "a board of no ranks was asked for".into()));
        };
        let made = (me == maker).then(|| make(directory, bytes)).transpose();
        let tells = match &made {
            Ok(Some((made, _))) => Ok(made.path()),
            Ok(None) => Ok(String::new()),
            Err(why) => Err(why.clone()),
        };
        let what = "the board of the ranks on this host";
        let told = rendezvous.exchange(topic, here, encode(&tells), what, deadline)?;
        let path = outcome(here, me, &tells, &told)?;

        // The name goes with `made`, whatever happens.
        let (made, opened) = match made {
            Ok(Some((made, memory))) => (Some(made), Ok((None, memory))),
            _ => (None, open(&path, bytes)),
        };
        let tells = opened.as_ref().map(|_| String::new()).map_err(Clone::clone);
        let mapped = Topic {
            step: topic.step + 1,
            ..topic
        };
        let left = deadline.saturating_sub(start.elapsed());
        let told = rendezvous.exchange(mapped, here, encode(&tells), what, left)?;
        outcome(here, me, &tells, &told)?;
        let (file, memory) = opened.map_err(|why| refused(me, why))?;
        Ok(Board {
            memory,
            _file: file.or(made.map(|made| made.fd)),
        })
    }

    /// The words behind the header; the first is aligned to 64 bytes.
    #[inline]
    pub(crate) fn words(&self) -> &[AtomicU64] {
        &self.memory.words()[HEADER / size_of::<u64>()..]
    }
}

/// Makes the file, and writes its header.
fn make(directory: &Path, bytes: usize) -> Result<(Made, Mapping), String> {
    let made = file::create(directory, bytes)?;
    let memory = Mapping::shared(&made.fd, bytes)?;
    for (word, value) in memory.words().iter().zip([MAGIC, VERSION, bytes as u64]) {
        word.store(value, Ordering::Relaxed);
    }
    Ok((made, memory))
}

/// Opens and maps a peer's file.
fn open(path: &str, bytes: usize) -> Result<(Option<OwnedFd>, Mapping), String> {
    let file = file::open(path, bytes)?;
    let memory = Mapping::shared(&file, bytes)?;
    let header: Vec<u64> = memory.words().iter().take(3).map(load).collect();
    if header[..] != [MAGIC, VERSION, bytes as u64] {
        let why = format!(
            "{path} is another version's board: its header is {header:x?}; do all ranks run one build?"
        );
        return Err(why);
    }
    Ok((Some(file), memory))
}

fn load(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

fn refused(rank: usize, why: String) -> Error {
    Error::Rendezvous {
        rank,
        why: why.into(),
    }
}

/// What a rank tells: a text, or why it has none.
fn encode(tells: &Result<String, String>) -> Vec<u8> {
    let (kind, text) = match tells {
        Ok(text) => (0, text),
        Err(why) => (1, why),
    };
    [kind].into_iter().chain(text.bytes()).collect()
}

/// What the first rank told, unless some rank told of a failure.
fn outcome(
    here: &[usize],
    me: usize,
    mine: &Result<String, String>,
    told: &[Vec<u8>],
) -> Result<String> {
    if let Err(why) = mine {
        return Err(refused(me, why.clone()));
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    for (&rank, told) in here.iter().zip(told) {
        let cause = match told.split_first() {
            Some((0, _)) => continue,
            Some((_, cause)) => text(cause),
            None => "it runs another version of this crate".into(),
        };
        return Err(Error::PeerFailed {
            rank,
            cause: cause.into(),
        });
    }
    let first = told.first().and_then(|told| told.get(1..));
    Ok(text(first.unwrap_or_default()))
}

/// Mapped memory, gone when this is dropped.
#[derive(Debug)]
struct Mapping {
    start: NonNull<c_void>,
    bytes: usize,
}

// SAFETY: the memory is reached through atomics alone, and belongs to no thread.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Memory that all who map the file share. The file has so many bytes.
    fn shared(file: &OwnedFd, bytes: usize) -> Result<Self, String> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses a range that nothing else uses.
        let start = unsafe { mm::mmap(ptr::null_mut(), bytes, access, MapFlags::SHARED, file, 0) };
        Self::of(start, bytes)
    }

    /// Memory of this process alone.
    fn private(bytes: usize) -> Result<Self, String> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses a range that nothing else uses.
        let start =
            unsafe { mm::mmap_anonymous(ptr::null_mut(), bytes, access, MapFlags::PRIVATE) };
        Self::of(start, bytes)
    }

    fn of(start: Result<*mut c_void, Errno>, bytes: usize) -> Result<Self, String> {
        let start = start.map_err(|error| format!("cannot map {bytes} bytes: {error}"))?;
        let start = NonNull::new(start).ok_or("the kernel mapped memory at address 0")?;
        Ok(Self { start, bytes })
    }

    #[inline]
    fn words(&self) -> &[AtomicU64] {
        let words = self.bytes / size_of::<u64>();
        // SAFETY: the range is mapped as long as `self` lives, starts at a page, and is
        // initialised (zero at first). Other processes change it by atomics of the same width, as
        // this one does; any bit pattern is an `AtomicU64`. The file has memory for all of it, so no
        // access faults; nobody shrinks it.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping's own, and no reference into it outlives `self`.
        let unmapped = unsafe { mm::munmap(self.start.as_ptr(), self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}
