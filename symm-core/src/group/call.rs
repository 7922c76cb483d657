//! One collective from its operands to its launch: check, register what is pending, choose the
//! path, compare with the peers, order, enqueue.

use std::sync::Arc;

use super::agree;
use super::core::GroupCore;
use super::link::Link;
use super::path::{Choice, Facts, Path, Reason, Spot, choose};
use super::twin::Lane;
use crate::agreement::fingerprint;
use crate::agreement::group::Agreement;
use crate::agreement::record::{ArenaMark, Record, Stated, What, Words};
use crate::backend::Backend;
use crate::backend::call::Op;
use crate::buffer::launch::{Checked, Prepared, Send};
use crate::buffer::operand::Located;
use crate::capture::{CapturedCall, active};
use crate::error::{Error, Result};
use crate::pool::placement::Position;
use crate::pool::usage::Claim;
use crate::range;
use crate::registration::ledger::Standing;
use crate::registration::round::{self, Due};
use crate::scope::routing::{self, Inside};
use crate::site::Site;
use crate::trace;

/// Runs the calls as one NCCL group if there are several. Each of them says afterwards which way it
/// went.
pub(crate) fn run<B: Backend>(
    group: &Arc<GroupCore<B>>,
    site: Site,
    calls: &mut [Prepared<'_, B>],
) -> Result<()> {
    let world = &group.world;
    world.check()?;
    let _inside = Inside::new(group, Claim::Call, site)?;
    let checked = Checked::new(group, calls)?;
    let _range = range::local!(
        checked.calls.iter().map(Prepared::bytes).sum(),
        "{} of {}",
        checked
            .calls
            .first()
            .map_or("nothing", |call| call.op.name()),
        group.name()
    );
    if round::is_due(group) {
        round::settle(group, site, Due::Call)?;
    }
    let link = group.borrow_link();
    link.check()?;
    let pushed = routing::pushed_stream(world);
    let stream = pushed.as_ref().unwrap_or(&world.stream);
    let history = group.arena.note_stream(stream);
    let pass = active::on_this_thread(world);
    let capture = pass.as_deref().filter(|pass| pass.is_capture());
    // What is captured is compared when the capture ends.
    let agreement = link.agreement.as_deref().filter(|_| capture.is_none());

    let facts = Facts {
        version: link.version,
        ranks: group.size(),
        kernels: link.kernels(),
        reads_early: capture.is_some_and(|capture| capture.reads_early(link.version)),
    };
    let exchanges_apart = link.exchanges_apart();
    // What was measured is one call at a time. Where exchanges are captured on the twin, collectives
    // are not.
    let has_twin =
        checked.calls.len() == 1 && link.has_twin() && !(exchanges_apart && capture.is_some());
    let apart = exchanges_apart && checked.calls.iter().any(|call| call.op.is_exchange());
    let mut point = Point::default();
    for call in &mut *checked.calls {
        let at = Whereabouts::of(group, call);
        call.choice = choice(group, &link, call, &at, facts, has_twin);
        if apart {
            call.choice = call.choice.apart();
        }
        if agreement.is_some() && !is_message(call.op) {
            point.add(group, call, &at, history, site);
        }
    }
    if let Some(agreement) = agreement {
        state_messages(group, agreement, checked.calls, site)?;
        if point.calls > 0 {
            point.state(group, &link)?;
        }
    }

    for call in &*checked.calls {
        let path = call.choice.path;
        if let Some(reason) = group.strictness.refuses(path) {
            return Err(Error::NotSymmetric {
                operation: call.op.name(),
                group: group.label().into(),
                reason,
                site,
            });
        }
    }
    if capture.is_none() && checked.has(Path::Symmetric) {
        agree::all_first(group, &link)?;
    }
    for call in &*checked.calls {
        let path = call.choice.path;
        if group.counts.add(call.op, path, call.bytes()) {
            trace::path(group, call.op, path, call.bytes(), site);
        }
        if let Some(pass) = &pass {
            pass.called(group, called(group, call));
        }
    }
    let lane = Lane::of(checked.is_on_twin());
    let ordered = match capture {
        Some(capture) => capture.order_lanes(group, lane, stream),
        None => link.order_lanes(lane, stream),
    };
    match ordered.and_then(|()| checked.launch(&link, stream)) {
        Ok(()) => Ok(()),
        Err(error) if capture.is_some() => Err(error),
        // The peers passed this point too, and wait for this rank.
        Err(error) => {
            let vitals = &world.vitals;
            Err(vitals.first(vitals.explained(error)))
        }
    }
}

fn is_message(op: Op) -> bool {
    matches!(op, Op::Send { .. } | Op::Recv { .. })
}

/// States the messages to their peers.
fn state_messages<B: Backend>(
    group: &GroupCore<B>,
    agreement: &Agreement,
    calls: &[Prepared<'_, B>],
    site: Site,
) -> Result<()> {
    for call in calls {
        if let Op::Send { peer } | Op::Recv { peer } = call.op {
            let sends = matches!(call.op, Op::Send { .. });
            if !agreement.message(peer, sends, call.bytes(), call.dtype) {
                return Err(agree::message_differs(group, call.op, call.bytes(), site));
            }
        }
    }
    Ok(())
}

/// What collectives that run together state, as one point of the group.
#[derive(Default)]
struct Point {
    /// Of the first.
    words: Words,
    /// Of all.
    fingerprint: u64,
    calls: u32,
}

impl Point {
    #[inline]
    fn add<B: Backend>(
        &mut self,
        group: &GroupCore<B>,
        call: &Prepared<'_, B>,
        at: &Whereabouts,
        history: (u64, u64),
        site: Site,
    ) {
        let path = call.choice.path;
        let (window, other) = match path {
            Path::Symmetric => at.compared(call.op),
            Path::Plain(_) => (None, None),
        };
        let stated = Stated {
            op: call.op,
            dtype: call.dtype,
            bytes: call.bytes(),
            path,
            twin: call.choice.on_twin,
            window,
            more: 0,
        };
        let own = |operand: Option<Located>| operand.is_some_and(|at| at.arena == group.arena.id);
        // What an arena that the call does not use went through says nothing about the call.
        let arena = match own(at.recv) || own(at.send) {
            true => ArenaMark::from(history),
            false => ArenaMark::default(),
        };
        let words = Record::new(What::Call(stated), arena, site).words();
        let other = other.map_or(0, |at| (at.segment as u64 + 1) << 48 ^ at.offset);
        let fingerprint = fingerprint::join(fingerprint::of(&words), other);
        if self.calls == 0 {
            (self.words, self.fingerprint) = (words, fingerprint);
        } else {
            self.fingerprint = fingerprint::join(self.fingerprint, fingerprint);
        }
        self.calls += 1;
    }

    #[inline]
    fn state<B: Backend>(mut self, group: &GroupCore<B>, link: &Link<B>) -> Result<()> {
        self.words[Record::MORE] |= u64::from(self.calls - 1);
        agree::step_words(group, link, &self.words, self.fingerprint)
    }
}

/// Where a call's operands lie, if that is in arenas of symmetric memory.
struct Whereabouts {
    send: Option<Located>,
    recv: Option<Located>,
}

impl Whereabouts {
    #[inline]
    fn of<B: Backend>(group: &Arc<GroupCore<B>>, call: &Prepared<'_, B>) -> Self {
        let recv = call.recv.as_ref();
        let recv = recv.and_then(|operand| operand.located(group));
        let send = match &call.send {
            Send::Nothing => None,
            Send::From(operand) => operand.located(group),
            Send::InPlace(start) => recv.map(|recv| Located {
                at: Position {
                    offset: recv
                        .at
                        .offset
                        .wrapping_add_signed(*start as i64 * call.dtype.bytes() as i64),
                    ..recv.at
                },
                ..recv
            }),
        };
        Self { send, recv }
    }

    /// Where the operands of a call on windows lie, as far as it has to be the same on all ranks:
    /// what peers address first (`registrationCheck` in NCCL's argcheck.cc).
    #[inline]
    fn compared(&self, op: Op) -> (Option<Position>, Option<Position>) {
        let [send, recv] = [self.send, self.recv].map(|operand| operand.map(|found| found.at));
        match op {
            Op::AllReduce(_) => (recv, send),
            Op::AllGather => (recv, None),
            Op::ReduceScatter(_) => (send, None),
            _ => (None, None),
        }
    }
}

/// The call as a graph's statistics have it.
fn called<B: Backend>(group: &GroupCore<B>, call: &Prepared<'_, B>) -> CapturedCall {
    CapturedCall {
        operation: call.op.name(),
        group: group.name().into(),
        bytes: call.bytes(),
        path: call.choice.path,
    }
}

#[inline]
fn choice<B: Backend>(
    group: &GroupCore<B>,
    link: &Link<B>,
    call: &Prepared<'_, B>,
    at: &Whereabouts,
    facts: Facts,
    has_twin: bool,
) -> Choice {
    let recv = match &call.recv {
        None => Spot::Absent,
        Some(operand) => spot(link, at.recv, operand.of_group),
    };
    let send = match &call.send {
        Send::Nothing => Spot::Absent,
        Send::From(operand) => spot(link, at.send, operand.of_group),
        // In the destination's window, if that has one.
        Send::InPlace(_) => match (recv, at.send) {
            (Spot::Window(_), Some(send)) => Spot::Window(send.at.offset),
            (outside, _) => outside,
        },
    };
    let bytes = call.bytes();
    let is_faster = || {
        has_twin
            && group
                .table
                .prefers_twin(call.op, call.dtype, bytes, facts.ranks)
    };
    choose(call.op, call.dtype, bytes, send, recv, facts).or_twin(is_faster)
}

/// Where NCCL finds an operand. It goes by addresses alone, and so does this: also a buffer of
/// another group of a shared arena may lie in a window.
#[inline]
fn spot<B: Backend>(link: &Link<B>, found: Option<Located>, of_group: bool) -> Spot {
    match found {
        Some(found) if found.has_window => Spot::Window(found.at.offset),
        Some(Located { arena, at, .. }) => match link.ledger().standing(arena, at.segment) {
            Standing::Window => Spot::Window(at.offset),
            Standing::Refused => Spot::Outside(Reason::Unsupported),
            Standing::None => Spot::Outside(Reason::Foreign),
        },
        None if of_group => Spot::Outside(Reason::Disabled),
        None => Spot::Outside(Reason::Foreign),
    }
}
