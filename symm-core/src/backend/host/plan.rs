//! Calls of a communicator, checked and looked up in its windows: all that an enqueued or recorded
//! collective needs but its place among the others.

use std::sync::Arc;

use super::collective::{Collective, Part};
use super::comm::{Core, State};
use super::header::{Header, Place};
use super::window::InUse;
use crate::backend::call::{Call, Op};
use crate::error::{Error, Result, Rule};

/// What a channel of a communicator is for.
const COLLECTIVES: u64 = 1;
const MESSAGES: u64 = 2;

/// Calls that are launched together, any number of times.
#[derive(Debug)]
pub(crate) struct Plan {
    comm: Arc<Core>,
    calls: Vec<Planned>,
}

#[derive(Debug)]
struct Planned {
    header: Header,
    /// Source and target of a message.
    pair: Option<(usize, usize)>,
    send: Operand,
    recv: Operand,
}

/// Memory of a call, and where the communicator's windows have it.
#[derive(Clone, Copy, Debug)]
struct Operand {
    address: u64,
    bytes: u64,
    place: Option<Place>,
}

impl Plan {
    pub(super) fn new(comm: &Arc<Core>, calls: &[Call]) -> Result<Self> {
        let state = comm.state();
        let calls = calls
            .iter()
            .map(|call| Planned::new(comm, &state, call))
            .collect::<Result<_>>()?;
        Ok(Self {
            comm: Arc::clone(comm),
            calls,
        })
    }

    /// The calls at the next places in the communicator's order.
    pub(super) fn number(&self) -> Collective {
        let mut state = self.comm.state();
        let parts = self
            .calls
            .iter()
            .map(|call| call.number(&self.comm, &mut state))
            .collect();
        Collective::new(&self.comm.members, parts)
    }

    /// An error if the communicator was revoked.
    pub(super) fn check_usable(&self) -> Result<()> {
        self.comm.check_usable(
            self.calls
                .first()
                .map_or("nothing", |call| call.header.op.name()),
        )
    }

    /// An error if an operand no longer lies where it did: a graph goes on with the windows that
    /// NCCL found when it was captured.
    pub(super) fn check_windows(&self) -> Result<()> {
        let state = self.comm.state();
        for call in &self.calls {
            let name = call.header.op.name();
            for operand in call.operands().filter(|operand| operand.place.is_some()) {
                let found = place(&self.comm, &state, name, operand.address, operand.bytes);
                if !matches!(found, Ok(place) if place == operand.place) {
                    let detail = format!(
                        "a graph holds {name} at {:#x}, whose window was deregistered since",
                        operand.address
                    );
                    return Err(self.comm.violation(Rule::StaleWindow, detail));
                }
            }
        }
        Ok(())
    }

    /// Lets the communicator know that a graph holds the plan, as long as it does.
    pub(super) fn bind(self: &Arc<Self>) {
        self.comm.state().bind(self);
    }

    /// Whether an operand lies in the window.
    pub(super) fn is_in(&self, window: u64) -> bool {
        let mut operands = self.calls.iter().flat_map(Planned::operands);
        operands.any(|operand| operand.place.is_some_and(|place| place.window == window))
    }

    /// The calls' names, and whether NCCL's kernels would use windows.
    pub(super) fn labels(&self) -> impl Iterator<Item = String> {
        self.calls.iter().map(|Planned { header, .. }| {
            let path = if header.symmetric {
                "symmetric"
            } else {
                "plain"
            };
            format!("{path} {}", header.op.name())
        })
    }
}

impl Planned {
    fn new(comm: &Core, state: &State, call: &Call) -> Result<Self> {
        let (rank, ranks) = (comm.members.rank, comm.members.world.len());
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
                group: comm.members.name.clone(),
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
        let operand = |address, elements: usize| -> Result<Operand> {
            let bytes = (elements * bytes_each) as u64;
            let place = place(comm, state, call.op.name(), address, bytes)?;
            Ok(Operand {
                address,
                bytes,
                place,
            })
        };
        let (send, recv) = (operand(call.send, send)?, operand(call.recv, recv)?);
        let header = Header::new(call, ranks, comm.version, send.place, recv.place);
        let in_windows = send.place.is_some() || recv.place.is_some();
        header.check_defects(comm.version, in_windows)?;
        Ok(Self {
            header,
            pair,
            send,
            recv,
        })
    }

    fn operands(&self) -> impl Iterator<Item = Operand> {
        [self.send, self.recv].into_iter()
    }

    fn number(&self, comm: &Core, state: &mut State) -> Part {
        let (members, world) = (&comm.members, &comm.members.world);
        let (topic, meeting) = match self.pair {
            None => {
                let topic = members.topic(&[COLLECTIVES], state.next_collective());
                (topic, Arc::clone(world))
            }
            Some((source, target)) => {
                let step = match self.header.op {
                    Op::Send { .. } => state.next_message(true, target),
                    _ => state.next_message(false, source),
                };
                let meeting = if source == target {
                    [world[source]][..].into()
                } else {
                    [world[source], world[target]][..].into()
                };
                let channel = [MESSAGES, source as u64, target as u64];
                (members.topic(&channel, step), meeting)
            }
        };
        Part {
            header: self.header,
            topic,
            members: meeting,
            send: (self.send.address, self.send.bytes),
            recv: (self.recv.address, self.recv.bytes),
            _windows: self
                .operands()
                .filter(|operand| operand.place.is_some())
                .filter_map(|operand| state.window_at(operand.address).map(InUse::of))
                .collect(),
            values: None,
        }
    }
}

/// The window in which an operand starts, as NCCL looks it up; it must also end there.
fn place(
    comm: &Core,
    state: &State,
    operation: &str,
    address: u64,
    bytes: u64,
) -> Result<Option<Place>> {
    let Some(window) = state.window_at(address).filter(|_| bytes > 0) else {
        return Ok(None);
    };
    let offset = address - window.base;
    if bytes > window.bytes - offset {
        let detail = format!(
            "{operation} of {bytes} bytes at offset {offset} of a window of {}",
            window.bytes
        );
        return Err(comm.violation(Rule::Overrun, detail));
    }
    Ok(Some(Place {
        window: window.ordinal,
        offset,
    }))
}
