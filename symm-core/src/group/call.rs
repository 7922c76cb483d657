//! One collective from its operands to its launch: check, register what is pending, choose the
//! path, order, enqueue.

use std::sync::Arc;

use super::core::GroupCore;
use super::path::{Choice, Facts, Path, Reason, Spot, choose};
use crate::backend::Backend;
use crate::backend::call::{Call, Op};
use crate::backend::driver::Access;
use crate::buffer::operand::{Operand, Owner};
use crate::element::Dtype;
use crate::error::{Error, Result};
use crate::pool::usage::Claim;
use crate::registration::ledger::Standing;
use crate::registration::round;
use crate::scope::routing::{self, Entry};
use crate::site::Site;

/// A call with its operands, as a collective's method hands it in.
#[derive(Debug)]
pub(crate) struct Prepared<'a, B: Backend> {
    pub(crate) op: Op,
    pub(crate) dtype: Dtype,
    /// Elements, in NCCL's sense for `op`.
    pub(crate) count: usize,
    pub(crate) send: Send<'a, B>,
    pub(crate) recv: Option<Operand<'a, B>>,
}

/// What a call reads.
#[derive(Debug)]
pub(crate) enum Send<'a, B: Backend> {
    Nothing,
    From(Operand<'a, B>),
    /// The destination itself, from this many elements on: NCCL's in-place form.
    InPlace(usize),
}

/// Runs the calls as one NCCL group if there are several, and says which way each went.
pub(crate) fn run<B: Backend>(
    group: &Arc<GroupCore<B>>,
    site: Site,
    calls: &mut [Prepared<'_, B>],
) -> Result<Vec<Path>> {
    group.world.check()?;
    let _entry = Entry::new(group, Claim::Call, site)?;
    calls.iter().try_for_each(|call| check(group, call))?;
    round::settle(group, site)?;
    let choices: Vec<Choice> = calls.iter().map(|call| choice(group, call)).collect();
    let stream = routing::stream(&group.world);
    group.arena.note_stream(&stream);
    enqueue(group, &stream, calls, &choices)?;
    Ok(choices.iter().map(|choice| choice.path).collect())
}

fn enqueue<B: Backend>(
    group: &GroupCore<B>,
    stream: &B::Stream,
    calls: &mut [Prepared<'_, B>],
    choices: &[Choice],
) -> Result<()> {
    {
        let mut launched = Vec::with_capacity(calls.len());
        let mut held = Vec::new();
        for (call, choice) in calls
            .iter_mut()
            .zip(choices)
            .filter(|(call, _)| call.count > 0)
        {
            let width = call.dtype.bytes() as u64;
            let recv = call
                .recv
                .as_mut()
                .map(|recv| recv.enter(stream, Access::Write))
                .transpose()?;
            let recv = recv.map_or(0, |(addr, guard)| {
                held.extend(guard);
                addr
            });
            let send = match &mut call.send {
                Send::Nothing => 0,
                Send::InPlace(start) => recv + *start as u64 * width,
                Send::From(operand) => {
                    let (addr, guard) = operand.enter(stream, Access::Read)?;
                    held.extend(guard);
                    addr
                }
            };
            launched.push(Call {
                op: call.op,
                dtype: call.dtype,
                count: call.count,
                send,
                recv,
                avoid_windows: choice.avoid_windows,
            });
        }
        if !launched.is_empty() {
            // SAFETY: `check` found the operands on this device and as long as the calls need them;
            // buffers give their memory back behind the stream, which `enter` and `leave` order
            // with their own.
            unsafe { B::launch(&group.world.device, group.comm()?, stream, &launched) }?;
        }
    }
    for call in calls.iter().filter(|call| call.count > 0) {
        if let Some(recv) = &call.recv {
            recv.leave(stream, Access::Write)?;
        }
        if let Send::From(send) = &call.send {
            send.leave(stream, Access::Read)?;
        }
    }
    Ok(())
}

/// Everything that can be wrong on this rank alone.
fn check<B: Backend>(group: &Arc<GroupCore<B>>, call: &Prepared<'_, B>) -> Result<()> {
    let operation = call.op.name();
    let named = match call.op {
        Op::Broadcast { root }
        | Op::Reduce { root, .. }
        | Op::Gather { root }
        | Op::Scatter { root } => Some(root),
        Op::Send { peer } | Op::Recv { peer } => Some(peer),
        _ => None,
    };
    if let Some(rank) = named.filter(|rank| *rank >= group.size()) {
        return Err(Error::NoSuchRank {
            operation,
            group: group.label().into(),
            rank,
            size: group.size(),
        });
    }
    let (send, recv) = call.op.lengths(call.count, group.rank, group.size());
    if let Send::From(operand) = &call.send {
        check_operand(group, operation, "the source", operand, send)?;
    }
    if let Some(operand) = &call.recv {
        check_operand(group, operation, "the destination", operand, recv)?;
    }
    if let (Send::From(from), Some(to)) = (&call.send, &call.recv)
        && send > 0
        && recv > 0
        && let (Some(from), Some(to)) = (from.span(), to.span())
        && from.start < to.end
        && to.start < from.end
    {
        return Err(Error::Overlap {
            operation,
            group: group.label().into(),
        });
    }
    Ok(())
}

fn check_operand<B: Backend>(
    group: &Arc<GroupCore<B>>,
    operation: &'static str,
    what: &'static str,
    operand: &Operand<'_, B>,
    expected: usize,
) -> Result<()> {
    // An operand that this rank does not have in the operation (a destination on a rank that is not
    // the root) may have any length.
    if expected > 0 && operand.len != expected {
        let what = format!("{operation}, {what}").into();
        return Err(Error::Length {
            what,
            group: group.label().into(),
            got: operand.len,
            expected,
        });
    }
    let elsewhere = match &operand.owner {
        Owner::Ours { memory, .. } => {
            let owner = memory.group();
            if operand.of_group && !owner.is_some_and(|owner| Arc::ptr_eq(owner, group)) {
                let buffer = owner.map_or_else(|| "no group".into(), |owner| owner.label());
                return Err(Error::GroupMismatch {
                    what: format!("{operation}, {what}").into(),
                    buffer: buffer.into(),
                    group: group.label().into(),
                });
            }
            (!Arc::ptr_eq(memory.rank(), &group.world)).then(|| B::describe(&memory.rank().device))
        }
        Owner::Foreign(foreign) => foreign.elsewhere(&group.world.device),
    };
    match elsewhere {
        None => Ok(()),
        Some(found) => {
            let (what, device) = (
                format!("{operation} on {}: {what}", group.label()),
                B::describe(&group.world.device),
            );
            Err(Error::WrongDevice {
                what: what.into(),
                found: found.into(),
                device: device.into(),
            })
        }
    }
}

fn choice<B: Backend>(group: &GroupCore<B>, call: &Prepared<'_, B>) -> Choice {
    let recv = call
        .recv
        .as_ref()
        .map_or(Spot::Absent, |operand| spot(group, operand));
    let send = match &call.send {
        Send::Nothing => Spot::Absent,
        Send::From(operand) => spot(group, operand),
        Send::InPlace(_) => recv,
    };
    let facts = Facts {
        version: group.version,
        ranks: group.size(),
        kernels: group.symmetric_kernels.get().copied(),
    };
    choose(
        call.op,
        call.dtype,
        (call.count * call.dtype.bytes()) as u64,
        send,
        recv,
        facts,
    )
}

/// Where NCCL finds an operand. It goes by addresses alone, and so does this: also a buffer of
/// another group of a shared arena may lie in a window.
fn spot<B: Backend>(group: &GroupCore<B>, operand: &Operand<'_, B>) -> Spot {
    let Owner::Ours { memory, .. } = &operand.owner else {
        return Spot::Outside(Reason::Foreign);
    };
    match memory.block() {
        Some((owner, block)) if Arc::ptr_eq(&owner.arena, &group.arena) => {
            match group.ledger().standing(block.position.segment) {
                Standing::Window => Spot::Window,
                Standing::Refused => Spot::Outside(Reason::Unsupported),
                Standing::None => Spot::Outside(Reason::Foreign),
            }
        }
        Some(_) => Spot::Outside(Reason::Foreign),
        None if operand.of_group => Spot::Outside(Reason::Disabled),
        None => Spot::Outside(Reason::Foreign),
    }
}
