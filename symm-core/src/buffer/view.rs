//! Views: ranges of elements of a group's buffer, to be read or to be written.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use super::buf::Buf;
use super::bytes::{as_bytes, as_bytes_mut};
use super::operand::{self, Operand};
use super::plain::Plain;
use crate::Cuda;
use crate::backend::Backend;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::group::tag::{Dyn, GroupTag};

/// The absolute range of `range` in a view of `len` elements that starts at `start`.
pub(crate) fn narrow(start: usize, len: usize, range: Range<usize>) -> Result<Range<usize>> {
    match range.start <= range.end && range.end <= len {
        true => Ok(start + range.start..start + range.end),
        false => Err(Error::Range {
            start: range.start,
            end: range.end,
            len,
        }),
    }
}

/// Elements of a [`SymmBuf`](crate::SymmBuf), to be read. Made with
/// [`SymmBuf::view`](crate::SymmBuf::view).
///
/// ```
/// use symm_core::{Host, World, groups, symm};
/// groups! { pub Tp = "tp"; }
/// World::<Host>::run(1, |world| {
///     let tp = world.split::<Tp>(0, 0)?;
///     let x = symm!(group = tp, { tp.from_slice(&[1.0f32, 2.0, 3.0])? })?;
///     assert_eq!(x.view(1..3)?.to_vec()?, [2.0, 3.0]);
///     assert!(x.view(2..4).is_err());
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
pub struct SymmView<'a, T: Element, G: GroupTag = Dyn, B: Backend = Cuda> {
    buf: &'a Buf<T, B>,
    range: Range<usize>,
    _group: PhantomData<fn() -> G>,
}

impl<T: Element, G: GroupTag, B: Backend> Clone for SymmView<'_, T, G, B> {
    fn clone(&self) -> Self {
        Self {
            buf: self.buf,
            range: self.range.clone(),
            _group: PhantomData,
        }
    }
}

impl<'a, T: Element, G: GroupTag, B: Backend> SymmView<'a, T, G, B> {
    pub(crate) fn new(
        buf: &'a Buf<T, B>,
        start: usize,
        len: usize,
        range: Range<usize>,
    ) -> Result<Self> {
        Ok(Self {
            buf,
            range: narrow(start, len, range)?,
            _group: PhantomData,
        })
    }

    pub(crate) fn parts(&self) -> (&'a Buf<T, B>, Range<usize>) {
        (self.buf, self.range.clone())
    }

    /// A part of the view; `range` counts from the view's start.
    ///
    /// ```
    /// # use symm_core::{Error, Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let x = symm!(group = tp, { tp.from_slice(&[1.0f32, 2.0, 3.0, 4.0])? })?;
    /// let tail = x.view(1..4)?;
    /// assert_eq!(tail.view(1..3)?.to_vec()?, [3.0, 4.0]); // counted from where the view starts
    /// assert!(matches!(tail.view(0..4), Err(Error::Range { end: 4, len: 3, .. })));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Range`].
    pub fn view(&self, range: Range<usize>) -> Result<Self> {
        Self::new(self.buf, self.range.start, self.len(), range)
    }

    /// A copy of the elements. Waits for the work on this memory.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let x = symm!(group = tp, { tp.from_slice(&[1.0f32, 2.0, 3.0])? })?;
    /// assert_eq!(x.view(1..2)?.to_vec()?, [2.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Buf::to_vec`].
    pub fn to_vec(&self) -> Result<Vec<T>> {
        let mut elements = vec![T::default(); self.len()];
        self.buf
            .memory
            .download(offset::<T>(&self.range), as_bytes_mut(&mut elements))?;
        Ok(elements)
    }
}

/// Elements of a [`SymmBuf`](crate::SymmBuf), to be written. Made with
/// [`SymmBuf::view_mut`](crate::SymmBuf::view_mut) and
/// [`SymmBuf::split_at_mut`](crate::SymmBuf::split_at_mut).
///
/// ```
/// use symm_core::{Host, World, groups, symm};
/// groups! { pub Tp = "tp"; }
/// World::<Host>::run(2, |world| {
///     let tp = world.split::<Tp>(0, 0)?;
///     let mut x = symm!(group = tp, { tp.zeros::<f32>(6)? })?;
///     let (mut mine, mut all) = x.split_at_mut(2)?;
///     mine.copy_from_slice(&[world.rank() as f32; 2])?;
///     tp.all_gather(mine.as_view(), &mut all)?; // two parts of one buffer, disjoint by construction
///     assert_eq!(all.as_view().to_vec()?, [0.0, 0.0, 1.0, 1.0]);
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
pub struct SymmViewMut<'a, T: Element, G: GroupTag = Dyn, B: Backend = Cuda> {
    /// Shared, because disjoint views of one buffer live side by side; the exclusive borrow it came
    /// from lasts for `'a`.
    buf: &'a Buf<T, B>,
    range: Range<usize>,
    _group: PhantomData<(fn() -> G, &'a mut [T])>,
}

impl<'a, T: Element, G: GroupTag, B: Backend> SymmViewMut<'a, T, G, B> {
    pub(crate) fn new(buf: &'a mut Buf<T, B>, range: Range<usize>, len: usize) -> Result<Self> {
        Ok(Self {
            buf,
            range: narrow(0, len, range)?,
            _group: PhantomData,
        })
    }

    pub(crate) fn parts(&self) -> (&'a Buf<T, B>, Range<usize>) {
        (self.buf, self.range.clone())
    }

    fn over(&self, range: Range<usize>) -> Self {
        Self {
            buf: self.buf,
            range,
            _group: PhantomData,
        }
    }

    /// A part of the view; `range` counts from the view's start.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let mut x = symm!(group = tp, { tp.zeros::<f32>(4)? })?;
    /// let mut tail = x.view_mut(1..4)?;
    /// tail.view_mut(1..3)?.copy_from_slice(&[1.0, 2.0])?; // counted from where the view starts
    /// tail.view_mut(0..1)?.copy_from_slice(&[9.0])?;
    /// assert_eq!(x.to_vec()?, [0.0, 9.0, 1.0, 2.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Range`].
    pub fn view_mut(&mut self, range: Range<usize>) -> Result<SymmViewMut<'_, T, G, B>> {
        Ok(self.over(narrow(self.range.start, self.len(), range)?))
    }

    /// Two disjoint parts: the elements before `mid`, and those from `mid` on.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let mut x = symm!(group = tp, { tp.zeros::<f32>(4)? })?;
    /// let (mut first, rest) = x.split_at_mut(1)?;
    /// let (mut second, mut last) = rest.split_at_mut(2)?;
    /// last.copy_from_slice(&[4.0])?;
    /// second.copy_from_slice(&[2.0, 3.0])?;
    /// first.copy_from_slice(&[1.0])?;
    /// assert_eq!(x.to_vec()?, [1.0, 2.0, 3.0, 4.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Range`] if `mid` is more than the length.
    pub fn split_at_mut(self, mid: usize) -> Result<(Self, Self)> {
        let (start, len) = (self.range.start, self.len());
        Ok((
            self.over(narrow(start, len, 0..mid)?),
            self.over(narrow(start, len, mid..len)?),
        ))
    }

    /// The same elements, to be read.
    ///
    /// ```
    /// # use symm_core::{Host, ReduceOp, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let mut x = symm!(group = tp, { tp.zeros::<f32>(4)? })?;
    /// let (mut mine, mut sum) = x.split_at_mut(2)?;
    /// mine.copy_from_slice(&[1.0, 2.0])?;
    /// tp.all_reduce(mine.as_view(), &mut sum, ReduceOp::Sum)?;
    /// assert_eq!(sum.as_view().to_vec()?, [2.0, 4.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn as_view(&self) -> SymmView<'_, T, G, B> {
        SymmView {
            buf: self.buf,
            range: self.range.clone(),
            _group: PhantomData,
        }
    }

    /// Overwrites the elements with `data`, in stream order; `data` may be changed at once.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let mut x = symm!(group = tp, { tp.zeros::<f32>(3)? })?;
    /// let mut tail = x.view_mut(1..3)?;
    /// assert!(tail.copy_from_slice(&[1.0]).is_err()); // two are needed
    /// tail.copy_from_slice(&[1.0, 2.0])?;
    /// assert_eq!(x.to_vec()?, [0.0, 1.0, 2.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::CopyLength`] unless the lengths are equal; [`Error::InCapture`], because replays would read
    /// `data` when it is gone; [`Error::Poisoned`]; those of the backend.
    pub fn copy_from_slice(&mut self, data: &[T]) -> Result<()> {
        if data.len() != self.len() {
            return Err(Error::CopyLength {
                got: data.len(),
                expected: self.len(),
            });
        }
        self.buf
            .memory
            .upload(offset::<T>(&self.range), as_bytes(data))
    }

    /// Overwrites the elements with those of `src`, memory of any place on this rank's device, in
    /// stream order.
    ///
    /// ```
    /// # use symm_core::{Buf, Host, World, groups, plain, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let source: Buf<f32, Host> = Buf::from_slice(&[1.0, 2.0, 3.0])?;
    /// let mut x = symm!(group = tp, { tp.zeros::<f32>(3)? })?;
    /// x.view_mut(0..2)?.copy_from(plain(&source).part(1..3)?)?;
    /// assert_eq!(x.to_vec()?, [2.0, 3.0, 0.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::CopyLength`] unless the lengths are equal; [`Error::Overlap`]; [`Error::WrongDevice`];
    /// [`Error::CaptureForeign`]; [`Error::Poisoned`]; those of the backend.
    pub fn copy_from(&mut self, src: Plain<'_, T, B>) -> Result<()> {
        operand::copy(
            Operand::ours(self.buf, self.range.clone(), false),
            src.operand,
        )
    }

    /// Overwrites the elements with zeros, in stream order.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let mut x = symm!(group = tp, { tp.from_slice(&[1.0f32, 2.0, 3.0])? })?;
    /// x.view_mut(1..2)?.fill_zero()?;
    /// assert_eq!(x.to_vec()?, [1.0, 0.0, 3.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Poisoned`]; those of the backend.
    pub fn fill_zero(&mut self) -> Result<()> {
        self.buf
            .memory
            .zero(offset::<T>(&self.range), self.num_bytes() as u64)
    }
}

/// Bytes from the start of the buffer.
fn offset<T: Element>(range: &Range<usize>) -> u64 {
    (range.start * size_of::<T>()) as u64
}

macro_rules! view_accessors {
    ($($view:ident),*) => { $(
        impl<T: Element, G: GroupTag, B: Backend> $view<'_, T, G, B> {
            /// Elements.
            ///
            /// ```
            /// # use symm_core::{Host, World, groups, symm};
            /// # groups! { pub Tp = "tp"; }
            /// # World::<Host>::run(1, |world| {
            /// # let tp = world.split::<Tp>(0, 0)?;
            /// let mut x = symm!(group = tp, { tp.zeros::<f32>(8)? })?;
            /// assert_eq!(x.view(2..5)?.len(), 3);
            /// assert_eq!(x.view_mut(6..8)?.len(), 2);
            /// # Ok(())
            /// # })?;
            /// # Ok::<(), symm_core::Error>(())
            /// ```
            pub fn len(&self) -> usize {
                self.range.len()
            }

            /// Whether it has no elements.
            ///
            /// ```
            /// # use symm_core::{Host, World, groups, symm};
            /// # groups! { pub Tp = "tp"; }
            /// # World::<Host>::run(1, |world| {
            /// # let tp = world.split::<Tp>(0, 0)?;
            /// let mut x = symm!(group = tp, { tp.zeros::<f32>(8)? })?;
            /// assert!(x.view(3..3)?.is_empty());
            /// assert!(!x.view_mut(3..4)?.is_empty());
            /// # Ok(())
            /// # })?;
            /// # Ok::<(), symm_core::Error>(())
            /// ```
            pub fn is_empty(&self) -> bool {
                self.range.is_empty()
            }

            /// Bytes of its elements.
            ///
            /// ```
            /// # use symm_core::{Host, World, groups, symm};
            /// # groups! { pub Tp = "tp"; }
            /// # World::<Host>::run(1, |world| {
            /// # let tp = world.split::<Tp>(0, 0)?;
            /// let mut x = symm!(group = tp, { tp.zeros::<f32>(8)? })?;
            /// assert_eq!(x.view(2..5)?.num_bytes(), 12);
            /// assert_eq!(x.view_mut(6..8)?.num_bytes(), 8);
            /// # Ok(())
            /// # })?;
            /// # Ok::<(), symm_core::Error>(())
            /// ```
            pub fn num_bytes(&self) -> usize {
                self.range.len() * size_of::<T>()
            }

            /// The stream on which the buffer was allocated.
            ///
            /// ```
            /// # use symm_core::{Host, World, groups, symm};
            /// # groups! { pub Tp = "tp"; }
            /// # World::<Host>::run(1, |world| {
            /// # let tp = world.split::<Tp>(0, 0)?;
            /// let mut x = symm!(group = tp, { tp.zeros::<f32>(8)? })?;
            /// let home = format!("{:?}", world.stream());
            /// assert_eq!(format!("{:?}", x.view(2..5)?.stream()), home);
            /// assert_eq!(format!("{:?}", x.view_mut(2..5)?.stream()), home);
            /// # Ok(())
            /// # })?;
            /// # Ok::<(), symm_core::Error>(())
            /// ```
            pub fn stream(&self) -> &B::Stream {
                self.buf.stream()
            }

            /// The address of its first element on the rank's device; see [`Buf::address`].
            ///
            /// ```
            /// # use symm_core::{Host, World, groups, symm};
            /// # groups! { pub Tp = "tp"; }
            /// # World::<Host>::run(1, |world| {
            /// # let tp = world.split::<Tp>(0, 0)?;
            /// let mut x = symm!(group = tp, { tp.zeros::<f32>(8)? })?;
            /// let start = x.address();
            /// assert_eq!(x.view(2..5)?.address(), start + 8); // in bytes
            /// assert_eq!(x.view_mut(6..8)?.address(), start + 24);
            /// # Ok(())
            /// # })?;
            /// # Ok::<(), symm_core::Error>(())
            /// ```
            pub fn address(&self) -> u64 {
                self.buf.address() + offset::<T>(&self.range)
            }
        }

        impl<T: Element, G: GroupTag, B: Backend> fmt::Debug for $view<'_, T, G, B> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($view)).field("buf", self.buf).field("range", &self.range).finish()
            }
        }
    )* };
}

view_accessors!(SymmView, SymmViewMut);
