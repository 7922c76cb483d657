//! A rank's view of a group's board: what it states before every collective, and how far its peers
//! have come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::board::Board;
use super::fingerprint;
use super::layout::Layout;
use super::pairs::PairCursor;
use super::record::{ArenaMark, COMPARED, Record, What, Words};
use super::ring::{OwnCursor, Ring, Step};
use crate::backend::driver::Seat;
use crate::element::Dtype;
use crate::error::{Error, Result};
use crate::rendezvous::Topic;
use crate::site::Site;

/// The channel on which the ranks of a group on one host share its board.
const BOARD: u64 = 0x7269_6e67;

/// The board of a communicator's ranks on this host.
#[derive(Debug)]
pub(crate) struct Agreement {
    /// The group's name.
    pub(crate) name: Box<str>,
    board: Board,
    layout: Layout,
    /// World ranks by their place on the board.
    here: Arc<[usize]>,
    /// Places by rank in the group; `None` for ranks of other hosts.
    places: Box<[Option<usize>]>,
    /// This rank's place.
    me: usize,
    /// A group has one user at a time.
    cursor: OwnCursor,
    /// By place: messages sent and received.
    messages: Mutex<Box<[[PairCursor; 2]]>>,
    lag: Mutex<Box<[Lag]>>,
}

/// For how long a peer has been where it is, while this rank is ahead.
#[derive(Clone, Copy, Debug, Default)]
struct Lag {
    seq: u64,
    since: Option<Instant>,
}

/// A peer that has not come to a point that this rank has passed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behind {
    /// Its rank in the world.
    pub(crate) rank: usize,
    /// The last point that it passed.
    pub(crate) seq: u64,
    /// The last that this rank passed.
    pub(crate) mine: u64,
    /// For how long it has been there; `None` if it left.
    pub(crate) waited: Option<Duration>,
}

/// A scope of this rank: how far the group had come, and how manieth scope it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScopeMark(u64);

impl Agreement {
    /// All ranks `here`, those of the communicator on this host, call it.
    pub(crate) fn meet(
        name: &str,
        seat: &Seat,
        id: u64,
        members: &[usize],
        here: &Arc<[usize]>,
    ) -> Result<Self> {
        let layout = Layout::of(here.len());
        let place = |rank: usize| here.iter().position(|&other| other == rank);
        let topic = Topic {
            channel: Topic::channel(&[BOARD, id, here.first().map_or(0, |&rank| rank as u64)]),
            step: 0,
        };
        let bytes = layout.bytes();
        let board = Board::meet(&seat.rendezvous, here, topic, bytes, seat.deadline)?;
        Ok(Self {
            name: name.into(),
            board,
            layout,
            places: members.iter().map(|&rank| place(rank)).collect(),
            me: place(seat.rank).unwrap_or_default(),
            cursor: OwnCursor::default(),
            messages: Mutex::new(here.iter().map(|_| Default::default()).collect()),
            lag: Mutex::new(vec![Lag::default(); here.len()].into()),
            here: Arc::clone(here),
        })
    }

    #[inline]
    fn ring(&self) -> Ring<'_> {
        self.layout.ring(self.board.words(), self.me)
    }

    /// Points that this rank has passed.
    pub(crate) fn seq(&self) -> u64 {
        self.ring().seq_of(self.me)
    }

    /// Tries to pass the next point; `record` is the first of the words that the fingerprint was
    /// made of. Never waits.
    #[inline]
    pub(crate) fn step(&self, record: &Words, fingerprint: u64) -> Step {
        let words = self.board.words();
        let ring = self.layout.ring(words, self.me);
        self.cursor.with(|cursor| {
            if let Some(behind) = ring.behind(cursor) {
                return Step::Full { behind };
            }
            let details = self.layout.details(words);
            details.write(self.me, cursor.seq + 1, record);
            ring.enter(cursor, fingerprint)
        })
    }

    /// States a message with a peer, by its rank in the group; false if the peer stated another.
    pub(crate) fn message(&self, peer: usize, sends: bool, bytes: u64, dtype: Dtype) -> bool {
        let Some(place) = self.places.get(peer).copied().flatten() else {
            return true;
        };
        let (source, target) = if sends {
            (self.me, place)
        } else {
            (place, self.me)
        };
        let mut messages = self.messages.lock();
        let cursor = &mut messages[place][usize::from(sends)];
        let pairs = self.layout.pairs(self.board.words());
        let fingerprint = fingerprint::of_message(source, target, bytes, dtype);
        pairs.enter(cursor, source, target, fingerprint)
    }

    /// What the ranks stated at the point that this rank could not pass.
    pub(crate) fn difference(&self, mine: &Words) -> String {
        let n = self.seq() + 1;
        let details = self.layout.details(self.board.words());
        let say = |rank: usize, record: &Record| format!("rank {rank} came to {record}");
        let own = Record::of(mine).map(|record| say(self.here[self.me], &record));
        let others = (0..self.here.len()).filter(|&place| place != self.me);
        let others: Vec<_> = others
            .filter_map(|place| Some((place, details.read(place, n)?)))
            .collect();
        let differs =
            |(_, record): &&(usize, Record)| record.words()[..COMPARED] != mine[..COMPARED];
        // All that passed agree with each other, and not with this rank.
        let passed = |(place, _): &&(usize, Record)| self.ring().seq_of(*place) >= n;
        let found = others.iter().find(differs);
        let other = match found.or_else(|| others.iter().find(passed)) {
            Some((place, record)) => {
                let same = Record::of(mine).map(|mine| mine.what == record.what);
                let why = match (found.is_some(), same) {
                    (true, Some(true)) => {
                        ", but the ranks allocated differently in the arena before"
                    }
                    (true, _) => "",
                    (false, _) => {
                        ", but its source lies elsewhere, its batch has other calls, or it differs before"
                    }
                };
                format!("{}{why}", say(self.here[*place], record))
            }
            None => "a peer came to something else".into(),
        };
        format!("{}, {other}", own.unwrap_or_default())
    }

    /// The world rank at a place.
    pub(crate) fn rank_at(&self, place: usize) -> usize {
        self.here.get(place).copied().unwrap_or_default()
    }

    /// A world rank that has not come to the point that this rank passed last.
    pub(crate) fn missing_here(&self) -> Option<usize> {
        let ring = self.ring();
        let mine = ring.seq_of(self.me);
        if ring.all_at(mine) {
            return None;
        }
        let late = (0..self.here.len()).find(|&place| ring.seq_of(place) < mine)?;
        Some(self.here[late])
    }

    /// Notes that this rank left a scope by an error or a panic, for peers that wait where the scope
    /// ends.
    pub(crate) fn leave_scope(&self, scope: ScopeMark, site: Site) {
        let record = Record::new(What::Left, ArenaMark::default(), site);
        let words = self.board.words();
        let details = self.layout.details(words);
        details.write(self.me, self.seq() + 1, &record.words());
        let left = self.layout.left(words, self.me);
        left.store(scope.0, super::sync::Ordering::Release);
    }

    /// A mark for the scope of this number, opened or closed now.
    pub(crate) fn scope(&self, number: u64) -> ScopeMark {
        ScopeMark((self.seq() + 1) << 24 | number & 0xFF_FFFF)
    }

    /// A peer that left the scope at whose end this rank waits.
    pub(crate) fn left_by(&self, scope: ScopeMark) -> Option<Error> {
        let words = self.board.words();
        let left = |&place: &usize| {
            let mark = self.layout.left(words, place);
            mark.load(super::sync::Ordering::Acquire) == scope.0
        };
        let place = (0..self.here.len()).find(left)?;
        let n = (scope.0 >> 24).max(1);
        let record = self.layout.details(words).read(place, n);
        let site = record.map_or_else(String::new, |record| format!(": {record}"));
        Some(Error::PeerFailed {
            rank: self.rank_at(place),
            cause: format!(
                "it left a scope by an error or a panic, and will not register what its peers have pending{site}; handle what fails on one rank outside of scopes"
            )
            .into(),
        })
    }

    /// A peer that is behind and left its world, or has been where it is for longer than the
    /// deadline.
    pub(crate) fn laggard(
        &self,
        deadline: Duration,
        has_left: impl Fn(usize) -> bool,
    ) -> Option<Behind> {
        let ring = self.ring();
        let mine = ring.seq_of(self.me);
        let now = Instant::now();
        let mut lags = self.lag.lock();
        for (place, lag) in lags.iter_mut().enumerate() {
            let seq = ring.seq_of(place);
            if seq >= mine {
                lag.since = None;
                continue;
            }
            let rank = self.here[place];
            if has_left(rank) {
                return Some(Behind {
                    rank,
                    seq,
                    mine,
                    waited: None,
                });
            }
            if lag.seq != seq || lag.since.is_none() {
                *lag = Lag {
                    seq,
                    since: Some(now),
                };
            }
            let waited = lag.since.map_or(Duration::ZERO, |since| now - since);
            if waited >= deadline {
                return Some(Behind {
                    rank,
                    seq,
                    mine,
                    waited: Some(waited),
                });
            }
        }
        None
    }

    /// What a rank, by its number in the world, stated last.
    pub(crate) fn last_of(&self, rank: usize, seq: u64) -> Option<Record> {
        let place = self.here.iter().position(|&here| here == rank)?;
        self.layout.details(self.board.words()).read(place, seq)
    }
}
