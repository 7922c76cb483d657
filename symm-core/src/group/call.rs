//! One collective from its operands to its launch: check, register what is pending, choose the
//! path, order, enqueue.

use std::sync::Arc;

use super::core::GroupCore;
use super::path::{Choice, Facts, Path, Reason, Spot, choose};
use crate::backend::Backend;
use crate::buffer::launch::{Checked, Prepared, Send};
use crate::buffer::operand::{Operand, Owner};
use crate::capture::{CapturedCall, active};
use crate::error::Result;
use crate::pool::usage::Claim;
use crate::registration::ledger::Standing;
use crate::registration::round;
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
    round::settle(group, site)?;
    let paths = checked.choose(|call| choice(group, call));
    let stream = routing::stream(&group.world);
    group.arena.note_stream(&stream);
    if let Some(pass) = active::on_this_thread(&group.world) {
        for (call, path) in checked.calls().zip(&paths) {
            pass.called(group, called(group, call, *path));
        }
    }
    checked.launch(&stream)?;
    Ok(paths)
}

/// The call as a graph's statistics have it.
fn called<B: Backend>(group: &GroupCore<B>, call: &Prepared<'_, B>, path: Path) -> CapturedCall {
    CapturedCall {
        operation: call.op.name(),
        group: group.name().into(),
        bytes: (call.count * call.dtype.bytes()) as u64,
        path,
    }
}

fn choice<B: Backend>(group: &GroupCore<B>, call: &Prepared<'_, B>) -> Choice {
    let recv = call
        .recv
        .as_ref()
        .map_or(Spot::Absent, |operand| spot(group, operand));
    let send = match call.send {
        Send::Nothing => Spot::Absent,
        Send::From(ref operand) => spot(group, operand),
        Send::InPlace(start) => match recv {
            Spot::Window(offset) => {
                Spot::Window(offset.wrapping_add_signed(start as i64 * call.dtype.bytes() as i64))
            }
            outside => outside,
        },
    };
    let facts = Facts {
        version: group.version,
        ranks: group.size(),
        kernels: group.symmetric_kernels.get().copied(),
        reads_early: active::reads_early(group),
    };
    let bytes = (call.count * call.dtype.bytes()) as u64;
    choose(call.op, call.dtype, bytes, send, recv, facts)
}

/// Where NCCL finds an operand. It goes by addresses alone, and so does this: also a buffer of
/// another group of a shared arena may lie in a window.
fn spot<B: Backend>(group: &GroupCore<B>, operand: &Operand<'_, B>) -> Spot {
    let Owner::Ours { memory, offset } = &operand.owner else {
        return Spot::Outside(Reason::Foreign);
    };
    match memory.place() {
        Some(place) => {
            let position = place.block.position;
            match group.ledger().standing(place.arena, position.segment) {
                Standing::Window => Spot::Window(position.offset + offset),
                Standing::Refused => Spot::Outside(Reason::Unsupported),
                Standing::None => Spot::Outside(Reason::Foreign),
            }
        }
        None if operand.of_group => Spot::Outside(Reason::Disabled),
        None => Spot::Outside(Reason::Foreign),
    }
}
