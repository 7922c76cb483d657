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
///
/// ```
/// # use symm_core::{Buf, Host, Plain, World, plain};
/// # World::<Host>::run(1, |world| {
/// let source: Buf<f32, Host> = Buf::from_slice(&[1.0, 2.0, 3.0])?;
/// let mut copy: Buf<f32, Host> = Buf::empty(3)?;
/// let all: Plain<'_, f32, Host> = plain(&source);
/// copy.copy_from(all)?;
/// assert_eq!(copy.to_vec()?, [1.0, 2.0, 3.0]);
/// # Ok(())
/// # })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct Plain<'a, T: Element, B: Backend> {
    pub(crate) operand: Operand<'a, B>,
    _elements: PhantomData<&'a [T]>,
}

/// Memory of any place, to be written by a collective. Made with [`plain_mut`].
///
/// ```
/// # use symm_core::{Buf, Host, PlainMut, ReduceOp, World, groups, plain_mut, symm};
/// # groups! { pub Tp = "tp"; }
/// # World::<Host>::run(2, |world| {
/// # let tp = world.split::<Tp>(0, 0)?;
/// let x = symm!(group = tp, { tp.from_slice(&[1.0f32, 2.0])? })?;
/// let mut ordinary: Buf<f32, Host> = Buf::zeros(2)?;
/// let sum: PlainMut<'_, f32, Host> = plain_mut(&mut ordinary);
/// tp.all_reduce(&x, sum, ReduceOp::Sum)?;
/// assert_eq!(ordinary.to_vec()?, [2.0, 4.0]);
/// # Ok(())
/// # })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct PlainMut<'a, T: Element, B: Backend> {
    pub(crate) operand: Operand<'a, B>,
    _elements: PhantomData<&'a mut [T]>,
}

/// What [`plain`] takes: `&Buf`, `&SymmBuf` and `&Shared` of any group, and cudarc's `&CudaSlice`, `&CudaView` and
/// `&Arc<CudaSlice>`, of which a graph keeps a clone. Sealed.
///
/// ```
/// # use symm_core::{Backend, Buf, Host, PlainSource, Result, World, groups, plain, symm};
/// # groups! { pub Tp = "tp"; }
/// # World::<Host>::run(1, |world| {
/// # let tp = world.split::<Tp>(0, 0)?;
/// fn read<'a, S>(source: S, len: usize) -> Result<Vec<f32>>
/// where
///     S: PlainSource<'a, Element = f32, Backend = Host>,
/// {
///     let mut copy: Buf<f32, Host> = Buf::empty(len)?;
///     copy.copy_from(plain(source))?;
///     copy.to_vec()
/// }
/// let symmetric = symm!(group = tp, { tp.from_slice(&[1.0f32])? })?;
/// assert_eq!(read(&symmetric, 1)?, [1.0]);
/// assert_eq!(read(&symmetric.share()?, 1)?, [1.0]);
/// # Ok(())
/// # })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`plain` does not take `{Self}`",
    label = "not a `&Buf`, a `&SymmBuf`, or cudarc's `&CudaSlice` or `&CudaView`"
)]
pub trait PlainSource<'a>: sealed::Sealed {
    /// Its elements.
    ///
    /// ```
    /// # use symm_core::{Buf, Host, PlainSource};
    /// fn element_bytes<'a, S: PlainSource<'a>>() -> usize {
    ///     size_of::<S::Element>()
    /// }
    /// assert_eq!(element_bytes::<&Buf<f64, Host>>(), 8);
    /// ```
    type Element: Element;
    /// Where it is.
    ///
    /// ```
    /// # use symm_core::{Buf, Host, PlainSource};
    /// fn backend<'a, S: PlainSource<'a>>() -> S::Backend {
    ///     S::Backend::default()
    /// }
    /// assert_eq!(backend::<&Buf<f32, Host>>(), Host);
    /// ```
    type Backend: Backend;

    #[doc(hidden)]
    fn into_plain(self) -> Operand<'a, Self::Backend>;
}

/// What [`plain_mut`] takes: the same, borrowed exclusively. Sealed.
///
/// ```
/// # use symm_core::{Backend, Host, PlainTarget, Result, World, groups, host, plain_mut, symm};
/// # groups! { pub Tp = "tp"; }
/// # World::<Host>::run(1, |world| {
/// # let tp = world.split::<Tp>(0, 0)?;
/// fn fill<'a, S>(target: S) -> Result<()>
/// where
///     S: PlainTarget<'a, Element = f32, Backend = Host>,
/// {
///     host::launch([], [plain_mut(target)], |[], [x]| x.fill(1.0))
/// }
/// let mut x = symm!(group = tp, { tp.zeros::<f32>(2)? })?;
/// fill(&mut x)?;
/// assert_eq!(x.to_vec()?, [1.0, 1.0]);
/// # Ok(())
/// # })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`plain_mut` does not take `{Self}`",
    label = "not a `&mut Buf`, a `&mut SymmBuf`, or cudarc's `&mut CudaSlice` or `&mut CudaViewMut`"
)]
pub trait PlainTarget<'a>: sealed::Sealed {
    /// Its elements.
    ///
    /// ```
    /// # use symm_core::{Buf, Host, PlainTarget};
    /// fn element_bytes<'a, S: PlainTarget<'a>>() -> usize {
    ///     size_of::<S::Element>()
    /// }
    /// assert_eq!(element_bytes::<&mut Buf<f64, Host>>(), 8);
    /// ```
    type Element: Element;
    /// Where it is.
    ///
    /// ```
    /// # use symm_core::{Buf, Host, PlainTarget};
    /// fn backend<'a, S: PlainTarget<'a>>() -> S::Backend {
    ///     S::Backend::default()
    /// }
    /// assert_eq!(backend::<&mut Buf<f32, Host>>(), Host);
    /// ```
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
///
/// ```
/// # use symm_core::{Buf, Host, Path, Reason, World, groups, plain_mut, symm};
/// # groups! { pub Tp = "tp"; }
/// # World::<Host>::run(2, |world| {
/// # let tp = world.split::<Tp>(0, 0)?;
/// let x = symm!(group = tp, { tp.from_slice(&[world.rank() as f32])? })?;
/// let mut all: Buf<f32, Host> = Buf::empty(2)?;
/// let path = tp.all_gather(&x, plain_mut(&mut all))?;
/// assert_eq!(path, Path::Plain(Reason::Foreign));
/// assert_eq!(all.to_vec()?, [0.0, 1.0]);
/// # Ok(())
/// # })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
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
    if range.start > range.end || range.end > operand.len {
        return Err(Error::Range {
            start: range.start,
            end: range.end,
            len: operand.len,
        });
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
        Owner::Foreign(_) => {
            return Err(Error::Unsupported {
                what: "a part of another library's memory",
                why: "slice it there first, as with CudaSlice::slice, and pass that to plain(..)"
                    .into(),
            });
        }
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
    /// ```
    /// # use symm_core::{Buf, Error, Host, World, plain};
    /// # World::<Host>::run(1, |world| {
    /// let x: Buf<f32, Host> = Buf::from_slice(&[1.0, 2.0, 3.0, 4.0])?;
    /// let mut half: Buf<f32, Host> = Buf::empty(2)?;
    /// half.copy_from(plain(&x).part(2..4)?)?;
    /// assert_eq!(half.to_vec()?, [3.0, 4.0]);
    /// assert!(matches!(plain(&x).part(3..5), Err(Error::Range { end: 5, len: 4, .. })));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Range`]; [`Error::Unsupported`] for another library's memory.
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
    /// ```
    /// # use symm_core::{Buf, Host, World, host, plain, plain_mut};
    /// # World::<Host>::run(1, |world| {
    /// let x: Buf<f32, Host> = Buf::from_slice(&[1.0, 2.0])?;
    /// let mut y: Buf<f32, Host> = Buf::zeros(4)?;
    /// let half = plain_mut(&mut y).part(2..4)?;
    /// host::launch([plain(&x)], [half], |[x], [half]| half.copy_from_slice(x))?;
    /// assert_eq!(y.to_vec()?, [0.0, 0.0, 1.0, 2.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
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
