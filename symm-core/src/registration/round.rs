//! The one place where windows are made.
//!
//! All ranks of the group come here at the same point of their programs with the same segments
//! pending, because placement is the same on all of them. `ncclCommWindowRegister` is collective
//! and waits for ever for a rank that does not come; the host backend says which one that is.

use crate::backend::Backend;
use crate::capture::active;
use crate::error::{Error, Result};
use crate::group::core::GroupCore;
use crate::registration::ledger::Pending;
use crate::site::Site;

/// Registers what is pending in the group. Costs nothing when nothing is.
pub(crate) fn settle<B: Backend>(group: &GroupCore<B>, site: Site) -> Result<()> {
    if group.ledger().is_settled() || group.size() == 1 {
        return Ok(());
    }
    group.world.check()?;
    active::may_register(group)?;
    group.wait_for_closed_books()?;
    let pending = group.ledger().pending();
    let outcome = pending
        .into_iter()
        .try_for_each(|pending| register(group, pending, site));
    if let Err(error) = &outcome {
        // A communicator is not usable after a registration that failed on some of its ranks.
        group.world.poison(error);
    }
    outcome
}

fn register<B: Backend>(group: &GroupCore<B>, pending: Pending<B>, site: Site) -> Result<()> {
    let (device, comm) = (&*group.world.device, group.comm()?);
    let failed = |cause| Error::Registration {
        group: group.label().into(),
        segment: pending.index,
        bytes: pending.segment.bytes(),
        site,
        cause: Box::new(cause),
    };
    let Some(memory) = pending.segment.memory() else {
        return Ok(());
    };
    let _calling = group.calling();
    let window = B::register(device, comm, memory).map_err(failed)?;
    if window.is_some() && group.symmetric_kernels.get().is_none() {
        let found = B::symmetric_kernels(device, comm, memory).map_err(failed)?;
        group.symmetric_kernels.get_or_init(|| found);
    }
    group.ledger().settle(pending, window);
    Ok(())
}
