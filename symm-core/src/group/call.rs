//! One collective from its operands to its launch: check, register what is pending, choose the
//! path, order, enqueue.

use std::sync::Arc;

use super::agree;
use super::core::GroupCore;
use super::link::Link;
use super::path::{Choice, Facts, Path, Reason, Spot, choose};
use super::twin::Lane;
use crate::agreement::fingerprint;
use crate::agreement::record::{self, ArenaMark, Record, Stated, What, Words};
use crate::backend::Backend;
use crate::backend::call::Op;
use crate::buffer::launch::{Checked, Prepared, Send};
use crate::buffer::operand::Operand;
use crate::capture::{CapturedCall, active};
use crate::error::{Error, Result};
use crate::pool::placement::Position;
use crate::pool::usage::Claim;
use crate::registration::ledger::Standing;
use crate::registration::round::{self, Due};
use crate::scope::routing::{self, Entry};
use crate::site::Site;

/// Runs the calls as one NCCL group if there are several, and says which way each went.
pub(crate) fn run<B: Backend>(
    group: &Arc<GroupCore<B>>,
    site: Site,
    calls: &mut [Prepared<'_, B>],
) -> Result<Vec<Path>> {
    group.world.check()?;
    let _entry = Entry::new(group, Claim::Call, site)?;
    let mut checked = Checked::new(group, calls)?;
    round::settle(group, site, Due::Call)?;
    let link = group.link();
    link.check()?;
    // What was measured is one call at a time.
    let alone = checked.calls().len() == 1;
    let paths = checked.choose(|call| choice(group, &link, call, alone));
    let stream = routing::stream(&group.world);
    group.arena.note_stream(&stream);
    let pass = active::on_this_thread(&group.world);
    let captured = pass.as_ref().is_some_and(|pass| pass.is_capture());
    // What is captured is compared when the capture ends.
    if !captured {
        state(group, &link, checked.calls(), &paths, site)?;
    }
    for (call, &path) in checked.calls().zip(&paths) {
        if let Some(reason) = group.strictness.refuses(path) {
            return Err(Error::NotSymmetric {
                operation: call.op.name(),
                group: group.label().into(),
                reason,
                site,
            });
        }
    }
    if !captured && paths.contains(&Path::Symmetric) {
        agree::all_first(group, &link)?;
    }
    for (call, &path) in checked.calls().zip(&paths) {
        group.counts.add(call.op, path, call.bytes());
        if let Some(pass) = &pass {
            pass.called(group, called(group, call, path));
        }
    }
    let lane = Lane::of(checked.is_on_twin());
    let ordered = match pass.as_deref().filter(|_| captured) {
        Some(capture) => capture.order_lanes(group, lane, &stream),
        None => link.order_lanes(lane, &stream),
    };
    match ordered.and_then(|()| checked.launch(&link, &stream)) {
        Ok(()) => Ok(paths),
        Err(error) if captured => Err(error),
        // The peers passed this point too, and wait for this rank.
        Err(error) => {
            let vitals = &group.world.vitals;
            Err(vitals.first(vitals.explained(error)))
        }
    }
}

/// States the calls: collectives as one point of the group, messages to their peers.
fn state<'c, 'a: 'c, B: Backend>(
    group: &GroupCore<B>,
    link: &Link<B>,
    calls: impl Iterator<Item = &'c Prepared<'a, B>>,
    paths: &[Path],
    site: Site,
) -> Result<()> {
    let Some(agreement) = &link.agreement else {
        return Ok(());
    };
    let mut point: Option<(Words, u64)> = None;
    let mut more = 0;
    for (call, &path) in calls.zip(paths) {
        if let Op::Send { peer } | Op::Recv { peer } = call.op {
            let sends = matches!(call.op, Op::Send { .. });
            if !agreement.message(peer, sends, call.bytes(), call.dtype) {
                return Err(agree::message_differs(group, call.op, call.bytes(), site));
            }
            continue;
        }
        let (window, other) = positions(call, path);
        let stated = Stated {
            op: call.op,
            dtype: call.dtype,
            bytes: call.bytes(),
            path,
            twin: path.is_on_twin(),
            window,
            more: 0,
        };
        // What an arena that the call does not use went through says nothing about the call.
        let arena = match uses_arena(group, call) {
            true => agree::history(group),
            false => ArenaMark::default(),
        };
        let words = Record::new(What::Call(stated), arena, site).words();
        let other = other.map_or(0, |at| (at.segment as u64 + 1) << 48 ^ at.offset);
        let fingerprint = fingerprint::join(fingerprint::of(&words), other);
        point = Some(match point {
            None => (words, fingerprint),
            Some((first, all)) => {
                more += 1;
                (first, fingerprint::join(all, fingerprint))
            }
        });
    }
    match point {
        None => Ok(()),
        Some((words, fingerprint)) if more == 0 => {
            agree::step_words(group, link, &words, fingerprint)
        }
        Some((first, fingerprint)) => {
            let words = record::with_more(&first, more);
            agree::step_words(group, link, &words, fingerprint)
        }
    }
}

/// Where the operands of a call on windows lie, as far as it has to be the same on all ranks: what
/// peers address first (`registrationCheck` in NCCL's argcheck.cc).
fn positions<B: Backend>(
    call: &Prepared<'_, B>,
    path: Path,
) -> (Option<Position>, Option<Position>) {
    if path != Path::Symmetric {
        return (None, None);
    }
    let recv = call.recv.as_ref().and_then(position);
    let send = match &call.send {
        Send::Nothing => None,
        Send::From(operand) => position(operand),
        Send::InPlace(start) => recv.map(|at| Position {
            offset: at
                .offset
                .wrapping_add_signed(*start as i64 * call.dtype.bytes() as i64),
            ..at
        }),
    };
    match call.op {
        Op::AllReduce(_) => (recv, send),
        Op::AllGather => (recv, None),
        Op::ReduceScatter(_) => (send, None),
        _ => (None, None),
    }
}

/// Whether an operand lies in the group's own arena.
fn uses_arena<B: Backend>(group: &GroupCore<B>, call: &Prepared<'_, B>) -> bool {
    let lies = |operand: &Operand<'_, B>| {
        let place = operand.place();
        place.is_some_and(|(place, _)| place.arena == group.arena.id)
    };
    let sends = matches!(&call.send, Send::From(operand) if lies(operand));
    sends || call.recv.as_ref().is_some_and(lies)
}

fn position<B: Backend>(operand: &Operand<'_, B>) -> Option<Position> {
    let (place, offset) = operand.place()?;
    let at = place.block.position;
    Some(Position {
        offset: at.offset + offset,
        ..at
    })
}

/// The call as a graph's statistics have it.
fn called<B: Backend>(group: &GroupCore<B>, call: &Prepared<'_, B>, path: Path) -> CapturedCall {
    CapturedCall {
        operation: call.op.name(),
        group: group.name().into(),
        bytes: call.bytes(),
        path,
    }
}

fn choice<B: Backend>(
    group: &GroupCore<B>,
    link: &Link<B>,
    call: &Prepared<'_, B>,
    alone: bool,
) -> Choice {
    let recv = call
        .recv
        .as_ref()
        .map_or(Spot::Absent, |operand| spot(link, operand));
    let send = match call.send {
        Send::Nothing => Spot::Absent,
        Send::From(ref operand) => spot(link, operand),
        Send::InPlace(start) => match recv {
            Spot::Window(offset) => {
                Spot::Window(offset.wrapping_add_signed(start as i64 * call.dtype.bytes() as i64))
            }
            outside => outside,
        },
    };
    let facts = Facts {
        version: link.version,
        ranks: group.size(),
        kernels: link.kernels(),
        reads_early: active::reads_early(group),
    };
    let bytes = call.bytes();
    let is_faster = || {
        let table = &group.table;
        alone && link.has_twin() && table.prefers_twin(call.op, call.dtype, bytes, group.size())
    };
    choose(call.op, call.dtype, bytes, send, recv, facts).or_twin(is_faster)
}

/// Where NCCL finds an operand. It goes by addresses alone, and so does this: also a buffer of
/// another group of a shared arena may lie in a window.
fn spot<B: Backend>(link: &Link<B>, operand: &Operand<'_, B>) -> Spot {
    match operand.place() {
        Some((place, offset)) => {
            let position = place.block.position;
            match link.ledger().standing(place.arena, position.segment) {
                Standing::Window => Spot::Window(position.offset + offset),
                Standing::Refused => Spot::Outside(Reason::Unsupported),
                Standing::None => Spot::Outside(Reason::Foreign),
            }
        }
        None if operand.of_group => Spot::Outside(Reason::Disabled),
        None => Spot::Outside(Reason::Foreign),
    }
}
