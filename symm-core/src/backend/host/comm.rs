//! Communicators and their windows, with NCCL's rules: windows are found by address alone, and
//! registered by all ranks in one order.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::collective::{Collective, Part};
use super::fault::Outcome;
use super::header::{Header, Place};
use super::members::Members;
use super::options::Options;
use super::queue::Item;
use super::stream::HostStream;
use super::window::{Segment, Window};
use crate::backend::call::{Call, Op};
use crate::backend::driver::{Seat, Split};
use crate::error::{Error, Result, Rule};
use crate::rendezvous::Rendezvous;

/// The communicator of the whole world.
const WORLD: u64 = 1;
/// What a channel of a communicator is for.
const COLLECTIVES: u64 = 1;
const MESSAGES: u64 = 2;
const WINDOWS: u64 = 3;
const START: u64 = 4;

/// A communicator.
#[derive(Debug)]
pub struct Comm {
    members: Arc<Members>,
    version: u32,
    /// Whether registering gives windows.
    windows: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    collectives: u64,
    /// Messages so far, by direction (whether this rank sends) and peer.
    messages: HashMap<(bool, usize), u64>,
    registrations: u64,
    /// Live windows by their first address.
    windows: BTreeMap<u64, Window>,
}

impl Comm {
    /// The communicator of all ranks.
    pub(super) fn connect(options: &Options, seat: &Seat) -> Result<Self> {
        let split = Split {
            id: WORLD,
            color: 0,
            members: (0..seat.ranks).collect(),
            rank: seat.rank,
        };
        Self::start(
            &seat.rendezvous,
            seat.deadline,
            options.nccl_version,
            options.windows,
            &split,
        )
    }

    /// A communicator of some ranks of this one.
    pub(super) fn split(&self, split: &Split) -> Result<Self> {
        if split
            .members
            .iter()
            .any(|member| !self.members.world.contains(member))
        {
            let what = format!(
                "ranks {:?} are not all in {}",
                split.members, self.members.name
            );
            return Err(Error::Config { what: what.into() });
        }
        Self::start(
            &self.members.rendezvous,
            self.members.deadline,
            self.version,
            self.windows,
            split,
        )
    }

    fn start(
        rendezvous: &Arc<Rendezvous>,
        deadline: Duration,
        version: u32,
        windows: bool,
        split: &Split,
    ) -> Result<Self> {
        let Split {
            id,
            color,
            members: world,
            rank,
        } = split;
        let name = format!("communicator {id} of ranks {world:?}").into();
        if world.get(*rank) != Some(&rendezvous.rank()) {
            return Err(Error::Config {
                what: format!("rank {} is not number {rank} of {name}", rendezvous.rank()).into(),
            });
        }
        let rendezvous = Arc::clone(rendezvous);
        let members = Members {
            id: *id,
            name,
            rank: *rank,
            world: Arc::clone(world),
            rendezvous,
            deadline,
        };
        let same = [
            u64::from(version),
            u64::from(windows),
            *color as u64,
            world.len() as u64,
        ];
        members.agree(
            members.topic(&[START], 0),
            &same,
            same.len(),
            "its start (NCCL's version, windows, color, ranks)",
        )?;
        Ok(Self {
            members: Arc::new(members),
            version,
            windows,
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn violation(&self, rule: Rule, detail: String) -> Error {
        Error::Violation {
            rank: self.members.rendezvous.rank(),
            rule,
            detail: format!("{}: {detail}", self.members.name).into(),
        }
    }

    pub(super) fn version(&self) -> u32 {
        self.version
    }

    /// An error while collectives of the communicator are queued or under way: NCCL would take
    /// windows and buffers from under them.
    fn check_idle(&self, call: &str) -> Result<()> {
        // Each collective keeps the members until it is done.
        match Arc::strong_count(&self.members) - 1 {
            0 => Ok(()),
            busy => Err(self.violation(
                Rule::StaleWindow,
                format!("{call} while {busy} collectives are under way"),
            )),
        }
    }

    pub(super) fn destroy(self) -> Result<()> {
        self.check_idle("destroyed")?;
        match self.state().windows.len() {
            0 => Ok(()),
            windows => Err(self.violation(
                Rule::StaleWindow,
                format!("destroyed with {windows} windows"),
            )),
        }
    }

    /// Registers the segment on all ranks; `None` where there are no windows, or a fault takes it
    /// away.
    pub(super) fn register(&self, segment: &Segment, outcome: Outcome) -> Result<Option<Window>> {
        let (ordinal, double) = {
            let mut state = self.state();
            (
                next(&mut state.registrations),
                state.windows.contains_key(&segment.base),
            )
        };
        // A rank that may not register says so, or its peers would wait for it.
        let words = [segment.bytes, ordinal, u64::from(double), segment.base];
        let topic = self.members.topic(&[WINDOWS], ordinal);
        let all =
            self.members
                .agree(topic, &words, 2, "registering (bytes, how manieth window)")?;
        if double {
            return Err(self.violation(
                Rule::DoubleRegistration,
                format!("the segment at {:#x} has a window", segment.base),
            ));
        }
        if let Some(other) = all.iter().position(|words| words[2] != 0) {
            let cause = format!("it registered a segment twice with {}", self.members.name).into();
            return Err(Error::PeerFailed {
                rank: self.members.world[other],
                cause,
            });
        }
        if !self.windows || outcome == Outcome::Null {
            return Ok(None);
        }
        let window = Window {
            comm: self.members.id,
            ordinal,
            base: segment.base,
            bytes: segment.bytes,
            bases: all.iter().map(|words| words[3]).collect(),
            on_segment: Arc::clone(&segment.windows),
        };
        segment.windows.fetch_add(1, Ordering::AcqRel);
        self.state().windows.insert(segment.base, window.clone());
        Ok(Some(window))
    }

    pub(super) fn deregister(&self, window: &Window) -> Result<()> {
        self.check_idle("deregistered")?;
        let mut state = self.state();
        if !state.has(window, self.members.id) {
            return Err(self.violation(
                Rule::StaleWindow,
                format!(
                    "window {} is not registered any more, or not here",
                    window.ordinal
                ),
            ));
        }
        state.windows.remove(&window.base);
        window.on_segment.fetch_sub(1, Ordering::AcqRel);
        Ok(())
    }

    /// Whether the segment has a window, which collectives then use.
    pub(super) fn has_window(&self, segment: &Segment) -> bool {
        self.state().windows.contains_key(&segment.base)
    }

    /// Where `peer` has an offset of the window; NCCL says so from 2.29.2 on.
    pub(super) fn peer_address(
        &self,
        window: &Window,
        offset: u64,
        peer: usize,
    ) -> Result<Option<u64>> {
        if !self.state().has(window, self.members.id) {
            return Err(self.violation(
                Rule::StaleWindow,
                format!(
                    "window {} is not registered any more, or not here",
                    window.ordinal
                ),
            ));
        }
        let Some(base) = window.bases.get(peer) else {
            let (group, size) = (self.members.name.clone(), window.bases.len());
            return Err(Error::NoSuchRank {
                operation: "peer_address",
                group,
                rank: peer,
                size,
            });
        };
        if offset >= window.bytes {
            return Err(self.violation(
                Rule::Overrun,
                format!("offset {offset} of a window of {} bytes", window.bytes),
            ));
        }
        Ok((self.version >= 22902).then_some(base + offset))
    }

    /// Enqueues the calls as one group.
    pub(super) fn launch(&self, stream: &HostStream, calls: &[Call]) -> Result<()> {
        if calls.is_empty() {
            return Ok(());
        }
        let mut state = self.state();
        let parts = calls
            .iter()
            .map(|call| self.part(&mut state, call))
            .collect::<Result<Vec<_>>>()?;
        // Under the lock, so that the steps' order is the stream's.
        stream.push(Item::Collective(Box::new(Collective::new(
            &self.members,
            parts,
        ))))
    }

    fn part(&self, state: &mut State, call: &Call) -> Result<Part> {
        let (rank, ranks) = (self.members.rank, self.members.world.len());
        let (other, pair) = match call.op {
            Op::Send { peer } => (peer, Some((rank, peer))),
            Op::Recv { peer } => (peer, Some((peer, rank))),
            Op::Broadcast { root }
            | Op::Reduce { root, .. }
            | Op::Gather { root }
            | Op::Scatter { root } => (root, None),
            Op::AllReduce(_) | Op::AllGather | Op::ReduceScatter(_) | Op::AllToAll => (rank, None),
        };
        if other >= ranks {
            return Err(Error::NoSuchRank {
                operation: call.op.name(),
                group: self.members.name.clone(),
                rank: other,
                size: ranks,
            });
        }
        let bytes_each = call.dtype.bytes();
        if call
            .count
            .checked_mul(ranks)
            .and_then(|all| all.checked_mul(bytes_each))
            .is_none()
        {
            return Err(Error::TooLarge {
                elements: call.count,
                bytes_each,
            });
        }
        let (send, recv) = call.op.lengths(call.count, rank, ranks);
        let (send, recv) = (
            (call.send, (send * bytes_each) as u64),
            (call.recv, (recv * bytes_each) as u64),
        );
        let (sent, received) = (
            self.place(state, call, send)?,
            self.place(state, call, recv)?,
        );
        let header = Header::new(call, ranks, self.version, sent, received);
        header.check_defects(self.version)?;
        let world = &self.members.world;
        let (topic, members) = match pair {
            None => (
                self.members
                    .topic(&[COLLECTIVES], next(&mut state.collectives)),
                Arc::clone(world),
            ),
            Some((source, target)) => {
                let sends = matches!(call.op, Op::Send { .. });
                let step = next(state.messages.entry((sends, other)).or_default());
                let members = if source == target {
                    [world[source]][..].into()
                } else {
                    [world[source], world[target]][..].into()
                };
                (
                    self.members
                        .topic(&[MESSAGES, source as u64, target as u64], step),
                    members,
                )
            }
        };
        Ok(Part {
            header,
            topic,
            members,
            send,
            recv,
            values: None,
        })
    }

    /// The window in which an operand starts, as NCCL looks it up; it must also end there.
    fn place(
        &self,
        state: &State,
        call: &Call,
        (address, bytes): (u64, u64),
    ) -> Result<Option<Place>> {
        let before = state
            .windows
            .range(..=address)
            .next_back()
            .map(|(_, window)| window);
        let Some(window) =
            before.filter(|window| bytes > 0 && address - window.base < window.bytes)
        else {
            return Ok(None);
        };
        let offset = address - window.base;
        if bytes > window.bytes - offset {
            let detail = format!(
                "{} of {bytes} bytes at offset {offset} of a window of {}",
                call.op.name(),
                window.bytes
            );
            return Err(self.violation(Rule::Overrun, detail));
        }
        Ok(Some(Place {
            window: window.ordinal,
            offset,
        }))
    }
}

/// The count before this one.
fn next(count: &mut u64) -> u64 {
    *count += 1;
    *count - 1
}

impl State {
    fn has(&self, window: &Window, comm: u64) -> bool {
        window.comm == comm
            && self
                .windows
                .get(&window.base)
                .is_some_and(|live| live.ordinal == window.ordinal)
    }
}
