//! Operands on their way to the device: checked, ordered with their other uses, turned into
//! addresses, and enqueued.

use std::sync::Arc;

use super::operand::{Held, Operand};
use crate::backend::Backend;
use crate::backend::call::{Call, Op};
use crate::backend::driver::Access;
use crate::element::Dtype;
use crate::error::{Error, Result};
use crate::group::core::{GroupCore, mismatch};
use crate::group::link::Link;
use crate::group::path::{Choice, Path, Reason};

/// A call with its operands, as a collective's method hands it in.
#[derive(Debug)]
pub(crate) struct Prepared<'a, B: Backend> {
    pub(crate) op: Op,
    pub(crate) dtype: Dtype,
    /// Elements, in NCCL's sense for `op`.
    pub(crate) count: usize,
    pub(crate) send: Send<'a, B>,
    pub(crate) recv: Option<Operand<'a, B>>,
    /// Which way it goes, once that is decided.
    pub(crate) choice: Choice,
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
            choice: Choice::plain(Reason::Empty),
        }
    }
}

/// Calls whose operands were found on the group's device, as long as the calls need them.
#[derive(Debug)]
pub(crate) struct Checked<'c, 'a, B: Backend> {
    group: &'c GroupCore<B>,
    pub(crate) calls: &'c mut [Prepared<'a, B>],
}

impl<'c, 'a, B: Backend> Checked<'c, 'a, B> {
    #[inline]
    pub(crate) fn new(
        group: &'c Arc<GroupCore<B>>,
        calls: &'c mut [Prepared<'a, B>],
    ) -> Result<Self> {
        calls.iter().try_for_each(|call| check(group, call))?;
        Ok(Self { group, calls })
    }

    /// Whether a call takes this path.
    #[inline]
    pub(crate) fn has(&self, wanted: Path) -> bool {
        self.calls.iter().any(|call| call.choice.path == wanted)
    }

    /// Whether the calls run on the twin communicator.
    #[inline]
    pub(crate) fn is_on_twin(&self) -> bool {
        self.calls.iter().any(|call| call.choice.on_twin)
    }

    /// Enqueues the calls on `stream`, as one NCCL group if there are several. What moves nothing
    /// is left out.
    pub(crate) fn launch(self, link: &Link<B>, stream: &B::Stream) -> Result<()> {
        let on_twin = self.is_on_twin();
        let (group, calls) = (self.group, self.calls);
        match &mut *calls {
            // Most calls are alone, and need no list.
            [call] => {
                if call.count > 0 {
                    let (call, _held) = addressed(call, stream)?;
                    enqueue(group, link, on_twin, stream, &[call])?;
                }
            }
            calls => {
                let calls = calls.iter_mut().filter(|call| call.count > 0);
                let addressed = calls.map(|call| addressed(call, stream));
                let (calls, _held): (Vec<_>, Vec<_>) =
                    addressed.collect::<Result<Vec<_>>>()?.into_iter().unzip();
                if !calls.is_empty() {
                    enqueue(group, link, on_twin, stream, &calls)?;
                }
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
}

/// What lasts until a call is enqueued.
type Guards<'s> = [Option<Box<dyn Held + 's>>; 2];

/// The call by addresses, with `stream` made to wait for earlier uses of its operands.
#[inline]
fn addressed<'s, B: Backend>(
    call: &'s mut Prepared<'_, B>,
    stream: &'s B::Stream,
) -> Result<(Call, Guards<'s>)> {
    let (mut recv, mut held) = (0, [None, None]);
    if let Some(operand) = &mut call.recv {
        (recv, held[0]) = operand.enter(stream, Access::Write)?;
    }
    let width = call.dtype.bytes() as i64;
    let send = match &mut call.send {
        Send::Nothing => 0,
        Send::InPlace(start) => recv.wrapping_add_signed(*start as i64 * width),
        Send::From(operand) => {
            let (addr, guard) = operand.enter(stream, Access::Read)?;
            held[1] = guard;
            addr
        }
    };
    let call = Call {
        op: call.op,
        dtype: call.dtype,
        count: call.count,
        send,
        recv,
        avoid_windows: call.choice.avoid_windows,
    };
    Ok((call, held))
}

fn enqueue<B: Backend>(
    group: &GroupCore<B>,
    link: &Link<B>,
    on_twin: bool,
    stream: &B::Stream,
    calls: &[Call],
) -> Result<()> {
    let comm = match on_twin {
        true => link.twin_comm()?,
        false => link.comm()?,
    };
    let _calling = link.calling();
    let _launching = group.world.vitals.launching()?;
    // SAFETY: `check` found place and lengths; buffers give their memory back behind the stream,
    // because `enter` and `leave` order it with their own.
    unsafe { B::launch(&group.world.device, comm, stream, calls) }
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
