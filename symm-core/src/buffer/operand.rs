//! What collectives read and write.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use super::buf::Buf;
use super::memory::Memory;
use super::plain::{Plain, PlainMut};
use super::shared::{Shared, SharedMut, SharedView};
use super::shared_memory::SharedMemory;
use super::symm::SymmBuf;
use super::view::{SymmView, SymmViewMut};
use crate::backend::Backend;
use crate::backend::driver::Access;
use crate::capture::active;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::group::core::GroupCore;
use crate::group::tag::GroupTag;
use crate::group::world::Rank;
use crate::pool::arena::ArenaId;
use crate::pool::placement::Position;
use crate::scope::routing;

/// One operand of a call: where it is, how long it is, whose it is.
#[derive(Debug)]
pub struct Operand<'a, B: Backend> {
    /// Elements.
    pub(crate) len: usize,
    pub(crate) bytes: u64,
    pub(crate) owner: Owner<'a, B>,
    /// Whether the type of the operand vouches for the group; a `plain` one does not.
    pub(crate) of_group: bool,
}

/// Who owns an operand's memory.
#[derive(Debug)]
pub(crate) enum Owner<'a, B: Backend> {
    /// Ours, from `offset` bytes on.
    Ours { memory: &'a Memory<B>, offset: u64 },
    /// Ours, of a shared buffer.
    Shared {
        memory: &'a Arc<SharedMemory<B>>,
        offset: u64,
    },
    /// Somebody else's, such as a `CudaSlice`.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    // only the Cuda backend has such memory
    Foreign(Box<dyn Foreign<B> + 'a>),
}

/// Where an operand begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located {
    pub(crate) arena: ArenaId,
    pub(crate) at: Position,
    /// It is known to lie in a window of the group; if not, the ledger says whether it does.
    pub(crate) has_window: bool,
}

/// Memory that this crate does not own.
pub(crate) trait Foreign<B: Backend>: std::fmt::Debug {
    /// Where it is, for messages, if it is not on the device.
    fn elsewhere(&self, device: &B::Device) -> Option<String>;
    /// What keeps it allocated, where it can be kept for longer than it is borrowed.
    fn kept(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
    /// Its address, with `stream` made to wait for earlier uses; dropping the guard, after the
    /// launch, notes this use.
    fn enter<'s>(&'s mut self, stream: &'s B::Stream, access: Access) -> (u64, Box<dyn Held + 's>);
}

/// A guard that is only dropped.
pub(crate) trait Held {}

impl<T> Held for T {}

impl<'a, B: Backend> Operand<'a, B> {
    pub(crate) fn ours<T: Element>(
        buf: &'a Buf<T, B>,
        range: Range<usize>,
        of_group: bool,
    ) -> Self {
        let (offset, bytes) = (
            (range.start * size_of::<T>()) as u64,
            (range.len() * size_of::<T>()) as u64,
        );
        Self {
            len: range.len(),
            bytes,
            owner: Owner::Ours {
                memory: &buf.memory,
                offset,
            },
            of_group,
        }
    }

    /// Elements of a shared buffer.
    pub(crate) fn shared<T: Element>(
        memory: &'a Arc<SharedMemory<B>>,
        range: Range<usize>,
        of_group: bool,
    ) -> Self {
        let bytes = |elements: usize| (elements * size_of::<T>()) as u64;
        Self {
            len: range.len(),
            bytes: bytes(range.len()),
            owner: Owner::Shared {
                memory,
                offset: bytes(range.start),
            },
            of_group,
        }
    }

    /// The rank whose memory it is, if it is ours.
    pub(crate) fn rank(&self) -> Option<&Arc<Rank<B>>> {
        match &self.owner {
            Owner::Ours { memory, .. } => Some(memory.rank()),
            Owner::Shared { memory, .. } => Some(memory.rank()),
            Owner::Foreign(_) => None,
        }
    }

    /// The group in whose scope it was allocated.
    pub(crate) fn group(&self) -> Option<&Arc<GroupCore<B>>> {
        match &self.owner {
            Owner::Ours { memory, .. } => memory.group(),
            Owner::Shared { memory, .. } => memory.group(),
            Owner::Foreign(_) => None,
        }
    }

    /// Where it begins, if its memory is of an arena of symmetric memory; for a call of the group.
    #[inline]
    pub(crate) fn located(&self, group: &Arc<GroupCore<B>>) -> Option<Located> {
        let (place, offset, has_window) = match &self.owner {
            Owner::Ours { memory, offset } => {
                let place = memory.place()?;
                let own = Arc::ptr_eq(place.group, group);
                (place, offset, own && memory.window(&place).is_some())
            }
            Owner::Shared { memory, offset } => (memory.place()?, offset, false),
            Owner::Foreign(_) => return None,
        };
        let block = place.block.position;
        Some(Located {
            arena: place.arena,
            at: Position {
                offset: block.offset + offset,
                ..block
            },
            has_window,
        })
    }

    /// The addresses it covers, where they are known before the call.
    pub(crate) fn span(&self) -> Option<Range<u64>> {
        let start = match &self.owner {
            Owner::Ours { memory, offset } => memory.addr() + offset,
            Owner::Shared { memory, offset } => memory.addr() + offset,
            Owner::Foreign(_) => return None,
        };
        Some(start..start + self.bytes)
    }

    /// Whether the two share a byte, as far as that is known before the call.
    pub(crate) fn overlaps(&self, other: &Operand<'_, B>) -> bool {
        match (self.span(), other.span()) {
            (Some(a), Some(b)) => a.start < b.end && b.start < a.end,
            _ => false,
        }
    }

    /// Whether a call of the rank can take it: memory of its device, and in a capture memory that the
    /// graph can keep. `what` names the operand in messages.
    pub(crate) fn admit(&self, rank: &Arc<Rank<B>>, what: impl Fn() -> String) -> Result<()> {
        let elsewhere = match &self.owner {
            Owner::Foreign(foreign) => foreign.elsewhere(&rank.device),
            Owner::Ours { .. } | Owner::Shared { .. } => {
                let other = self.rank().filter(|owner| !Arc::ptr_eq(owner, rank));
                other.map(|owner| B::describe(&owner.device))
            }
        };
        if let Some(found) = elsewhere {
            return Err(Error::WrongDevice {
                what: what().into(),
                found: found.into(),
                device: B::describe(&rank.device).into(),
            });
        }
        let Owner::Foreign(foreign) = &self.owner else {
            return Ok(());
        };
        let Some(capture) = active::capture_on_this_thread(rank) else {
            return Ok(());
        };
        match foreign.kept() {
            Some(owner) => {
                capture.keep_value(Box::new(owner));
                Ok(())
            }
            None => {
                let error = Error::CaptureForeign {
                    what: what().into(),
                    site: capture.site,
                };
                capture.fail(&error);
                Err(error)
            }
        }
    }

    /// Makes `stream` wait for the uses of our memory that `access` conflicts with.
    pub(crate) fn order(&self, stream: &B::Stream, access: Access) -> Result<()> {
        match &self.owner {
            Owner::Ours { memory, .. } => memory.before(stream, access),
            Owner::Shared { memory, .. } => memory.before(stream, access),
            Owner::Foreign(_) => Ok(()),
        }
    }

    /// Its address, with `stream` made to wait for the uses that `access` conflicts with. The guard
    /// lasts until the call is enqueued.
    pub(crate) fn enter<'s>(
        &'s mut self,
        stream: &'s B::Stream,
        access: Access,
    ) -> Result<(u64, Option<Box<dyn Held + 's>>)> {
        match &mut self.owner {
            Owner::Ours { memory, offset } => {
                memory.before(stream, access)?;
                Ok((memory.addr() + *offset, None))
            }
            Owner::Shared { memory, offset } => {
                memory.before(stream, access)?;
                Ok((memory.addr() + *offset, None))
            }
            Owner::Foreign(foreign) => {
                let (addr, held) = foreign.enter(stream, access);
                Ok((addr, Some(held)))
            }
        }
    }

    /// Notes the use that was enqueued on `stream`.
    pub(crate) fn leave(&self, stream: &B::Stream, access: Access) -> Result<()> {
        match &self.owner {
            Owner::Ours { memory, .. } => memory.after(stream, access),
            Owner::Shared { memory, .. } => {
                memory.after(stream, access);
                Ok(())
            }
            Owner::Foreign(_) => Ok(()),
        }
    }
}

/// Enqueues a copy of `src` to `dst`, which are as long as each other and on one rank.
pub(crate) fn copy<B: Backend>(mut dst: Operand<'_, B>, mut src: Operand<'_, B>) -> Result<()> {
    if dst.len != src.len {
        return Err(Error::CopyLength {
            got: src.len,
            expected: dst.len,
        });
    }
    if src.overlaps(&dst) {
        return Err(Error::Overlap {
            operation: "copy_from",
            group: "one buffer".into(),
        });
    }
    let Some(rank) = dst.rank().map(Arc::clone) else {
        return Ok(());
    };
    rank.check()?;
    src.admit(&rank, || "copy_from: the source".into())?;
    let (stream, bytes) = (routing::stream(&rank), dst.bytes);
    if bytes > 0 {
        let (to, _) = dst.enter(&stream, Access::Write)?;
        let (from, _held) = src.enter(&stream, Access::Read)?;
        // SAFETY: both ranges are as long as `bytes`, on this device and disjoint; their memory is
        // given back behind the stream.
        unsafe { B::copy(&stream, to, from, bytes) }?;
    }
    dst.leave(&stream, Access::Write)?;
    src.leave(&stream, Access::Read)
}

pub(crate) mod sealed {
    use super::{Backend, Operand};

    /// Gives up its borrow for an operand. Sealed: whoever yields an address must own the memory.
    pub trait IntoOperand<B: Backend> {
        fn into_operand<'a>(self) -> Operand<'a, B>
        where
            Self: 'a;
    }
}

use sealed::IntoOperand;

/// What a collective of group `G` reads: `&SymmBuf`, a [`SymmView`], `&Shared`, a
/// [`SharedView`], or [`plain`](crate::plain) memory.
///
/// ```
/// # use symm_core::{Group, Host, ReduceOp, Result, Src, World, groups, plain, symm};
/// # groups! { pub Tp = "tp"; }
/// # World::<Host>::run(2, |world| {
/// # let tp = world.split::<Tp>(0, 0)?;
/// fn summed<S: Src<f32, Tp, Host>>(tp: &Group<Tp, Host>, source: S) -> Result<Vec<f32>> {
///     let mut sum = symm!(group = tp, { tp.empty(2)? })?;
///     tp.all_reduce(source, &mut sum, ReduceOp::Sum)?;
///     sum.to_vec()
/// }
/// let x = symm!(group = tp, { tp.from_slice(&[1.0f32, 2.0])? })?;
/// assert_eq!(summed(&tp, x.view(0..2)?)?, [2.0, 4.0]);
/// assert_eq!(summed(&tp, plain(&x))?, [2.0, 4.0]);
/// # Ok(())
/// # })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
///
/// Sealed. A buffer of another group is not one:
///
/// ```compile_fail,E0277
/// use symm_core::{Group, Host, Result, SymmBuf, groups};
/// groups! { pub Tp = "tp"; pub Cp = "cp"; }
/// fn mixed(tp: &Group<Tp, Host>, x: &SymmBuf<f32, Cp, Host>, y: &mut SymmBuf<f32, Tp, Host>) -> Result<()> {
///     tp.all_gather(x, y)?; // a buffer of `Cp` in a collective of `Tp`
///     Ok(())
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read by a collective of group `{G}`",
    label = "not a `&SymmBuf<{T}, {G}, _>`, a view of one, or `plain(..)`",
    note = "allocate it in a scope of `{G}`, call the collective of its own group, `downcast` it if its group is `Dyn`, or pass it as `plain(&buffer)` to give up symmetric kernels"
)]
pub trait Src<T, G, B: Backend>: IntoOperand<B> {}

/// What a collective of group `G` writes: `&mut SymmBuf`, a [`SymmViewMut`], a [`SharedMut`], or
/// [`plain_mut`](crate::plain_mut) memory. Sealed, like [`Src`].
///
/// ```
/// # use symm_core::{Dst, Group, Host, ReduceOp, Result, World, groups, symm};
/// # groups! { pub Tp = "tp"; }
/// # World::<Host>::run(2, |world| {
/// # let tp = world.split::<Tp>(0, 0)?;
/// fn sum_into<D: Dst<f32, Tp, Host>>(tp: &Group<Tp, Host>, to: D) -> Result<()> {
///     let ones = symm!(group = tp, { tp.from_slice(&[1.0f32, 1.0])? })?;
///     tp.all_reduce(&ones, to, ReduceOp::Sum).map(drop)
/// }
/// let mut x = symm!(group = tp, { tp.zeros::<f32>(4)? })?;
/// sum_into(&tp, x.view_mut(2..4)?)?;
/// assert_eq!(x.to_vec()?, [0.0, 0.0, 2.0, 2.0]);
/// # Ok(())
/// # })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be written by a collective of group `{G}`",
    label = "not a `&mut SymmBuf<{T}, {G}, _>`, a mutable view of one, or `plain_mut(..)`",
    note = "allocate it in a scope of `{G}`, call the collective of its own group, `downcast` it if its group is `Dyn`, or pass it as `plain_mut(&mut buffer)` to give up symmetric kernels"
)]
pub trait Dst<T, G, B: Backend>: IntoOperand<B> {}

impl<T: Element, G: GroupTag, B: Backend> IntoOperand<B> for &SymmBuf<T, G, B> {
    fn into_operand<'a>(self) -> Operand<'a, B>
    where
        Self: 'a,
    {
        Operand::ours(&self.buf, 0..self.len(), true)
    }
}

#[diagnostic::do_not_recommend]
impl<T: Element, G: GroupTag, B: Backend> Src<T, G, B> for &SymmBuf<T, G, B> {}

impl<T: Element, G: GroupTag, B: Backend> IntoOperand<B> for &mut SymmBuf<T, G, B> {
    fn into_operand<'a>(self) -> Operand<'a, B>
    where
        Self: 'a,
    {
        Operand::ours(&self.buf, 0..self.len(), true)
    }
}

#[diagnostic::do_not_recommend]
impl<T: Element, G: GroupTag, B: Backend> Dst<T, G, B> for &mut SymmBuf<T, G, B> {}

macro_rules! view_operands {
    ($($type:ty => $role:ident),* $(,)?) => { $(
        impl<T: Element, G: GroupTag, B: Backend> IntoOperand<B> for $type {
            fn into_operand<'a>(self) -> Operand<'a, B>
            where
                Self: 'a,
            {
                let (buf, range) = self.parts();
                Operand::ours(buf, range, true)
            }
        }

        #[diagnostic::do_not_recommend]
        impl<T: Element, G: GroupTag, B: Backend> $role<T, G, B> for $type {}
    )* };
}

view_operands! {
    SymmView<'_, T, G, B> => Src,
    &SymmView<'_, T, G, B> => Src,
    SymmViewMut<'_, T, G, B> => Dst,
    &mut SymmViewMut<'_, T, G, B> => Dst,
}

macro_rules! shared_operands {
    ($($type:ty => $role:ident),* $(,)?) => { $(
        impl<T: Element, G: GroupTag, B: Backend> IntoOperand<B> for $type {
            fn into_operand<'a>(self) -> Operand<'a, B>
            where
                Self: 'a,
            {
                let (memory, range) = self.parts();
                Operand::shared::<T>(memory, range, true)
            }
        }

        #[diagnostic::do_not_recommend]
        impl<T: Element, G: GroupTag, B: Backend> $role<T, G, B> for $type {}
    )* };
}

shared_operands! {
    &Shared<T, G, B> => Src,
    SharedView<'_, T, G, B> => Src,
    &SharedView<'_, T, G, B> => Src,
    SharedMut<'_, T, G, B> => Dst,
    &mut SharedMut<'_, T, G, B> => Dst,
}

impl<T: Element, B: Backend> IntoOperand<B> for Plain<'_, T, B> {
    fn into_operand<'a>(self) -> Operand<'a, B>
    where
        Self: 'a,
    {
        self.operand
    }
}

#[diagnostic::do_not_recommend]
impl<T: Element, G: GroupTag, B: Backend> Src<T, G, B> for Plain<'_, T, B> {}

impl<T: Element, B: Backend> IntoOperand<B> for PlainMut<'_, T, B> {
    fn into_operand<'a>(self) -> Operand<'a, B>
    where
        Self: 'a,
    {
        self.operand
    }
}

#[diagnostic::do_not_recommend]
impl<T: Element, G: GroupTag, B: Backend> Dst<T, G, B> for PlainMut<'_, T, B> {}
