//! Who allocated what, and how much was in use when: written down only while a pool records.

use std::collections::{BTreeMap, VecDeque};
use std::panic::Location;
use std::time::Instant;

use parking_lot::Mutex;

use super::arena::ArenaId;
use super::placement::Position;
use super::snapshot::Sample;

/// Changes that a recorder keeps where nothing else is said: some megabytes.
pub(crate) const CHANGES: usize = 1 << 16;

/// Who allocated a piece of memory.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub(crate) bytes: u64,
    pub(crate) group: Option<String>,
    pub(crate) site: &'static Location<'static>,
    /// No two of a pool have the same; ascending in the order of allocation.
    pub(crate) sequence: u64,
    /// Microseconds since the recording began.
    pub(crate) at_us: u64,
}

/// What an allocation says of itself.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) bytes: u64,
    pub(crate) group: Option<String>,
    pub(crate) site: &'static Location<'static>,
    pub(crate) sequence: u64,
}

/// What a pool holds outside the arenas' own accounts, at the moment of a change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Totals {
    pub(crate) reserved: u64,
    pub(crate) plain: u64,
}

/// One recording, from `record(true)` to `record(false)`.
#[derive(Debug)]
pub(crate) struct Recorder {
    began: Instant,
    changes: usize,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) blocks: BTreeMap<(ArenaId, Position), Owner>,
    /// By address.
    pub(crate) plain: BTreeMap<u64, Owner>,
    /// What is live in each arena, as the arena said last: sums of that cannot drift, whatever was
    /// allocated before the recording.
    live: BTreeMap<ArenaId, u64>,
    samples: VecDeque<Sample>,
}

impl Recorder {
    pub(crate) fn new(changes: usize) -> Self {
        Self {
            began: Instant::now(),
            changes: changes.max(1),
            book: Mutex::default(),
        }
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    /// An arena that is there when the recording begins, or is made.
    pub(crate) fn meet(&self, arena: ArenaId, live: u64) {
        // Not over what the arena has said itself meanwhile.
        self.book.lock().live.entry(arena).or_insert(live);
    }

    /// A block was taken, after which `live` bytes of the arena are.
    pub(crate) fn took(
        &self,
        (arena, live): (ArenaId, u64),
        position: Position,
        taken: Taken,
        totals: Totals,
    ) {
        let owner = self.owner(taken);
        let mut book = self.book.lock();
        book.blocks.insert((arena, position), owner);
        book.live.insert(arena, live);
        self.sample(&mut book, totals);
    }

    /// A block was given back.
    pub(crate) fn gave(&self, (arena, live): (ArenaId, u64), position: Position, totals: Totals) {
        let mut book = self.book.lock();
        book.blocks.remove(&(arena, position));
        book.live.insert(arena, live);
        self.sample(&mut book, totals);
    }

    /// The arena is gone with all that lay in it.
    pub(crate) fn forget(&self, arena: ArenaId, totals: Totals) {
        let mut book = self.book.lock();
        book.blocks.retain(|(of, _), _| *of != arena);
        book.live.remove(&arena);
        self.sample(&mut book, totals);
    }

    pub(crate) fn took_plain(&self, addr: u64, taken: Taken, totals: Totals) {
        let owner = self.owner(taken);
        let mut book = self.book.lock();
        book.plain.insert(addr, owner);
        self.sample(&mut book, totals);
    }

    pub(crate) fn gave_plain(&self, addr: u64, totals: Totals) {
        let mut book = self.book.lock();
        book.plain.remove(&addr);
        self.sample(&mut book, totals);
    }

    /// Notes what is in use: the segments changed.
    pub(crate) fn note(&self, totals: Totals) {
        self.sample(&mut self.book.lock(), totals);
    }

    pub(crate) fn look<R>(&self, look: impl FnOnce(&Book) -> R) -> R {
        look(&self.book.lock())
    }

    fn owner(&self, taken: Taken) -> Owner {
        Owner {
            bytes: taken.bytes,
            group: taken.group,
            site: taken.site,
            sequence: taken.sequence,
            at_us: self.now_us(),
        }
    }

    fn sample(&self, book: &mut Book, totals: Totals) {
        if book.samples.len() >= self.changes {
            book.samples.pop_front();
        }
        // The clock is read inside the lock, so that times ascend.
        let sample = Sample {
            at_us: self.now_us(),
            live_bytes: book.live.values().sum(),
            reserved_bytes: totals.reserved,
            plain_bytes: totals.plain,
        };
        book.samples.push_back(sample);
    }
}

impl Book {
    pub(crate) fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter()
    }
}
