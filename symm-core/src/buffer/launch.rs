//! Operands on their way to the device: checked, ordered with their other uses, turned into
//! addresses, and enqueued.

use std::sync::Arc;

use super::operand::Operand;
use crate::backend::Backend;
use crate::backend::call::{Call, Op};
use crate::backend::driver::Access;
use crate::element::Dtype;
use crate::error::{Error, Result};
use crate::group::core::{GroupCore, mismatch};
use crate::group::link::Link;
use crate::group::path::{Choice, Path};

/// A call with its operands, as a collective's method hands it in.
#[derive(Debug)]
pub(crate) struct Prepared<'a, B: Backend> {
    pub(crate) op: Op,
    pub(crate) dtype: Dtype,
    /// Elements, in NCCL's sense for `op`.
    pub(crate) count: usize,
    pub(crate) send: Send<'a, B>,
    pub(crate) recv: Option<Operand<'a, B>>,
    /// See [`Call::avoid_windows`].
    avoid_windows: bool,
}

/// What a call reads.
#[derive(Debug)]
pub(crate) enum Send<'a, B: Backend> {
    Nothing,
    From(Operand<'a, B>),
    /// The destination's buffer, from so many elements after the destination on: NCCL's in-place
    /// form.
    InPlace(isize),
}

impl<'a, B: Backend> Prepared<'a, B> {
    /// Bytes of the call in NCCL's sense: of the buffer, or of one rank's part.
    pub(crate) fn bytes(&self) -> u64 {
        (self.count * self.dtype.bytes()) as u64
    }

    pub(crate) fn new(
        op: Op,
        dtype: Dtype,
        count: usize,
        send: Send<'a, B>,
        recv: Option<Operand<'a, B>>,
    ) -> Self {
        Self {
            op,
            dtype,
            count,
            send,
            recv,
            avoid_windows: false,
        }
    }
}

/// Calls whose operands were found on the group's device, as long as the calls need them.
#[derive(Debug)]
pub(crate) struct Checked<'c, 'a, B: Backend> {
    group: &'c GroupCore<B>,
    calls: &'c mut [Prepared<'a, B>],
    /// They run on the twin communicator.
    on_twin: bool,
}

impl<'c, 'a, B: Backend> Checked<'c, 'a, B> {
    pub(crate) fn new(
        group: &'c Arc<GroupCore<B>>,
        calls: &'c mut [Prepared<'a, B>],
    ) -> Result<Self> {
        calls.iter().try_for_each(|call| check(group, call))?;
        Ok(Self {
            group,
            calls,
            on_twin: false,
        })
    }

    /// Decides for each call how it goes: its path, and whether it has to be kept from windows.
    pub(crate) fn choose(&mut self, choose: impl Fn(&Prepared<'a, B>) -> Choice) -> Vec<Path> {
        let decide = |call: &mut Prepared<'a, B>| {
            let choice = choose(call);
            call.avoid_windows = choice.avoid_windows;
            choice.path
        };
        let paths: Vec<Path> = self.calls.iter_mut().map(decide).collect();
        self.on_twin = paths.iter().any(|path| path.is_on_twin());
        paths
    }

    /// Whether the calls run on the twin communicator.
    pub(crate) fn is_on_twin(&self) -> bool {
        self.on_twin
    }

    /// The calls, in order.
    pub(crate) fn calls(&self) -> impl ExactSizeIterator<Item = &Prepared<'a, B>> {
        self.calls.iter()
    }

    /// Enqueues the calls on `stream`, as one NCCL group if there are several. What moves nothing
    /// is left out.
    pub(crate) fn launch(self, link: &Link<B>, stream: &B::Stream) -> Result<()> {
        {
            let mut addressed = Vec::with_capacity(self.calls.len());
            let mut held = Vec::new();
            for call in self.calls.iter_mut().filter(|call| call.count > 0) {
                let mut recv = 0;
                if let Some(operand) = &mut call.recv {
                    let (addr, guard) = operand.enter(stream, Access::Write)?;
                    held.extend(guard);
                    recv = addr;
                }
                let width = call.dtype.bytes() as i64;
                let send = match &mut call.send {
                    Send::Nothing => 0,
                    Send::InPlace(start) => recv.wrapping_add_signed(*start as i64 * width),
                    Send::From(operand) => {
                        let (addr, guard) = operand.enter(stream, Access::Read)?;
                        held.extend(guard);
                        addr
                    }
                };
                let (op, dtype, count, avoid_windows) =
                    (call.op, call.dtype, call.count, call.avoid_windows);
                addressed.push(Call {
                    op,
                    dtype,
                    count,
                    send,
                    recv,
                    avoid_windows,
                });
            }
            if addressed.is_empty() {
                return Ok(());
            }
            let device = &self.group.world.device;
            let comm = match self.on_twin {
                true => link.twin_comm()?,
                false => link.comm()?,
            };
            let _calling = link.calling();
            let _launching = self.group.world.vitals.launching()?;
            // SAFETY: `check` found place and lengths; buffers give their memory back behind the
            // stream, because `enter` and `leave` order it with their own.
            unsafe { B::launch(device, comm, stream, &addressed) }?;
        }
        for call in self.calls.iter().filter(|call| call.count > 0) {
            if let Some(recv) = &call.recv {
                recv.leave(stream, Access::Write)?;
            }
            if let Send::From(send) = &call.send {
                send.leave(stream, Access::Read)?;
            }
        }
        Ok(())
    }
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
        && from.overlaps(to)
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
    let owner = operand.group();
    if operand.of_group && !owner.is_some_and(|owner| Arc::ptr_eq(owner, group)) {
        let what = format!("{operation}, {what}");
        return Err(mismatch(what, owner, group.label()));
    }
    operand.admit(&group.world, || {
        format!("{operation} on {}: {what}", group.label())
    })
}
