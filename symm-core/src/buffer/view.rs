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

    /// A part of the view.
    ///
    /// # Errors
    /// [`Error::Range`].
    pub fn view(&self, range: Range<usize>) -> Result<Self> {
        Self::new(self.buf, self.range.start, self.len(), range)
    }

    /// A copy of the elements. Waits for the work on this memory.
    ///
    /// # Errors
    /// Those of the backend.
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

    /// A part of the view.
    ///
    /// # Errors
    /// [`Error::Range`].
    pub fn view_mut(&mut self, range: Range<usize>) -> Result<SymmViewMut<'_, T, G, B>> {
        Ok(self.over(narrow(self.range.start, self.len(), range)?))
    }

    /// Two disjoint parts: the elements before `mid`, and those from `mid` on.
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
    pub fn as_view(&self) -> SymmView<'_, T, G, B> {
        SymmView {
            buf: self.buf,
            range: self.range.clone(),
            _group: PhantomData,
        }
    }

    /// Overwrites the elements with `data`, in stream order; `data` may be changed at once.
    ///
    /// # Errors
    /// [`Error::Range`] unless the lengths are equal.
    pub fn copy_from_slice(&mut self, data: &[T]) -> Result<()> {
        if data.len() != self.len() {
            return Err(Error::Range {
                start: 0,
                end: data.len(),
                len: self.len(),
            });
        }
        self.buf
            .memory
            .upload(offset::<T>(&self.range), as_bytes(data))
    }

    /// Overwrites the elements with those of `src`, memory of any place on this rank's device, in
    /// stream order.
    ///
    /// # Errors
    /// [`Error::Range`] unless the lengths are equal; [`Error::Overlap`]; [`Error::WrongDevice`].
    pub fn copy_from(&mut self, src: Plain<'_, T, B>) -> Result<()> {
        operand::copy(
            Operand::ours(self.buf, self.range.clone(), false),
            src.operand,
        )
    }

    /// Overwrites the elements with zeros, in stream order.
    ///
    /// # Errors
    /// Those of the backend.
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
            pub fn len(&self) -> usize {
                self.range.len()
            }

            /// Whether it has no elements.
            pub fn is_empty(&self) -> bool {
                self.range.is_empty()
            }

            /// Bytes of its elements.
            pub fn num_bytes(&self) -> usize {
                self.range.len() * size_of::<T>()
            }

            /// The stream on which the buffer was allocated.
            pub fn stream(&self) -> &B::Stream {
                self.buf.stream()
            }

            /// Its address on the rank's device.
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
