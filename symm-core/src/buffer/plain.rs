//! `plain(..)`: memory of any place in a collective, said explicitly.

use std::marker::PhantomData;
use std::ops::Range;

use super::buf::Buf;
use super::operand::{Operand, Owner};
use super::shared::Shared;
use super::symm::SymmBuf;
use crate::backend::Backend;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::group::tag::GroupTag;

/// Memory of any place, to be read by a collective. Made with [`plain`].
#[derive(Debug)]
#[must_use]
pub struct Plain<'a, T: Element, B: Backend> {
    pub(crate) operand: Operand<'a, B>,
    _elements: PhantomData<&'a [T]>,
}

/// Memory of any place, to be written by a collective. Made with [`plain_mut`].
#[derive(Debug)]
#[must_use]
pub struct PlainMut<'a, T: Element, B: Backend> {
    pub(crate) operand: Operand<'a, B>,
    _elements: PhantomData<&'a mut [T]>,
}

/// What [`plain`] takes: `&Buf`, `&SymmBuf` and `&Shared` of any group, and cudarc's `&CudaSlice`, `&CudaView` and
/// `&Arc<CudaSlice>`, of which a graph keeps a clone. Sealed.
#[diagnostic::on_unimplemented(
    message = "`plain` does not take `{Self}`",
    label = "not a `&Buf`, a `&SymmBuf`, or cudarc's `&CudaSlice` or `&CudaView`"
)]
pub trait PlainSource<'a>: sealed::Sealed {
    /// Its elements.
    type Element: Element;
    /// Where it is.
    type Backend: Backend;

    #[doc(hidden)]
    fn into_plain(self) -> Operand<'a, Self::Backend>;
}

/// What [`plain_mut`] takes: the same, borrowed exclusively. Sealed.
#[diagnostic::on_unimplemented(
    message = "`plain_mut` does not take `{Self}`",
    label = "not a `&mut Buf`, a `&mut SymmBuf`, or cudarc's `&mut CudaSlice` or `&mut CudaViewMut`"
)]
pub trait PlainTarget<'a>: sealed::Sealed {
    /// Its elements.
    type Element: Element;
    /// Where it is.
    type Backend: Backend;

    #[doc(hidden)]
    fn into_plain_mut(self) -> Operand<'a, Self::Backend>;
}

pub(crate) mod sealed {
    pub trait Sealed {}
}

/// Passes memory of any place to a collective as a source: ordinary buffers, buffers of other
/// groups, cudarc's slices.
///
/// Explicit, because it gives up symmetric kernels: the collective reports
/// [`Path::Plain`](crate::Path::Plain). All ranks of the group have to do the same at that call.
///
/// ```
/// use symm_core::{Buf, Host, Path, Reason, World, groups, plain, plain_mut};
/// groups! { pub Tp = "tp"; }
/// World::<Host>::run(2, |world| {
///     let tp = world.split::<Tp>(0, 0)?;
///     let x: Buf<f32, Host> = Buf::from_slice(&[1.0, 2.0])?;
///     let mut sum: Buf<f32, Host> = Buf::empty(2)?;
///     let path = tp.all_reduce(plain(&x), plain_mut(&mut sum), symm_core::ReduceOp::Sum)?;
///     assert_eq!(path, Path::Plain(Reason::Foreign));
///     assert_eq!(sum.to_vec()?, [2.0, 4.0]);
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
pub fn plain<'a, S: PlainSource<'a>>(source: S) -> Plain<'a, S::Element, S::Backend> {
    Plain {
        operand: source.into_plain(),
        _elements: PhantomData,
    }
}

/// Passes memory of any place to a collective as a destination. See [`plain`].
pub fn plain_mut<'a, S: PlainTarget<'a>>(target: S) -> PlainMut<'a, S::Element, S::Backend> {
    PlainMut {
        operand: target.into_plain_mut(),
        _elements: PhantomData,
    }
}

/// The part `range` of memory that is ours; foreign memory is sliced by its own library.
fn part<'a, T: Element, B: Backend>(
    operand: Operand<'a, B>,
    range: Range<usize>,
) -> Result<Operand<'a, B>> {
    let outside = Error::Range {
        start: range.start,
        end: range.end,
        len: operand.len,
    };
    if range.start > range.end || range.end > operand.len {
        return Err(outside);
    }
    let start = (range.start * size_of::<T>()) as u64;
    let owner = match operand.owner {
        Owner::Ours { memory, offset } => Owner::Ours {
            memory,
            offset: offset + start,
        },
        Owner::Shared { memory, offset } => Owner::Shared {
            memory,
            offset: offset + start,
        },
        Owner::Foreign(_) => return Err(outside),
    };
    Ok(Operand {
        len: range.len(),
        bytes: (range.len() * size_of::<T>()) as u64,
        owner,
        of_group: operand.of_group,
    })
}

impl<T: Element, B: Backend> Plain<'_, T, B> {
    /// The elements `range` of it. Slices of cudarc are sliced before they come here.
    ///
    /// # Errors
    /// [`Error::Range`], also for foreign memory.
    pub fn part(self, range: Range<usize>) -> Result<Self> {
        Ok(Self {
            operand: part::<T, B>(self.operand, range)?,
            _elements: PhantomData,
        })
    }
}

impl<T: Element, B: Backend> PlainMut<'_, T, B> {
    /// The elements `range` of it.
    ///
    /// # Errors
    /// As for [`Plain::part`].
    pub fn part(self, range: Range<usize>) -> Result<Self> {
        Ok(Self {
            operand: part::<T, B>(self.operand, range)?,
            _elements: PhantomData,
        })
    }
}

impl<T: Element, B: Backend> sealed::Sealed for &Buf<T, B> {}
impl<T: Element, B: Backend> sealed::Sealed for &mut Buf<T, B> {}
impl<T: Element, G: GroupTag, B: Backend> sealed::Sealed for &SymmBuf<T, G, B> {}
impl<T: Element, G: GroupTag, B: Backend> sealed::Sealed for &mut SymmBuf<T, G, B> {}
impl<T: Element, G: GroupTag, B: Backend> sealed::Sealed for &Shared<T, G, B> {}

#[diagnostic::do_not_recommend]
impl<'a, T: Element, B: Backend> PlainSource<'a> for &'a Buf<T, B> {
    type Element = T;
    type Backend = B;

    fn into_plain(self) -> Operand<'a, B> {
        Operand::ours(self, 0..self.len(), false)
    }
}

#[diagnostic::do_not_recommend]
impl<'a, T: Element, B: Backend> PlainTarget<'a> for &'a mut Buf<T, B> {
    type Element = T;
    type Backend = B;

    fn into_plain_mut(self) -> Operand<'a, B> {
        Operand::ours(self, 0..self.len(), false)
    }
}

#[diagnostic::do_not_recommend]
impl<'a, T: Element, G: GroupTag, B: Backend> PlainSource<'a> for &'a SymmBuf<T, G, B> {
    type Element = T;
    type Backend = B;

    fn into_plain(self) -> Operand<'a, B> {
        Operand::ours(&self.buf, 0..self.len(), false)
    }
}

#[diagnostic::do_not_recommend]
impl<'a, T: Element, G: GroupTag, B: Backend> PlainSource<'a> for &'a Shared<T, G, B> {
    type Element = T;
    type Backend = B;

    fn into_plain(self) -> Operand<'a, B> {
        let (memory, range) = self.parts();
        Operand::shared::<T>(memory, range, false)
    }
}

#[diagnostic::do_not_recommend]
impl<'a, T: Element, G: GroupTag, B: Backend> PlainTarget<'a> for &'a mut SymmBuf<T, G, B> {
    type Element = T;
    type Backend = B;

    fn into_plain_mut(self) -> Operand<'a, B> {
        Operand::ours(&self.buf, 0..self.len(), false)
    }
}
