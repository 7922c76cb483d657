//! `Buf`: typed memory of any place.

use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;

use super::bytes::{as_bytes, as_bytes_mut};
use super::memory::Memory;
use super::operand::{self, Operand};
use super::plain::Plain;
use super::shared::Shared;
use super::symm::SymmBuf;
use crate::Cuda;
use crate::backend::Backend;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::group::core::{GroupCore, mismatch};
use crate::group::tag::GroupTag;
use crate::group::world::Rank;
use crate::pool::Position;
use crate::scope::routing::{self, Target};

/// `len` elements of device memory, wherever they are: ordinary memory outside scopes, a block of
/// the innermost scope's arena inside one.
///
/// For code that does not know of groups, such as a framework's allocation hook. Not `Send` and not
/// `Clone`; freed when it is dropped, behind the work that uses it. What a scope redirected becomes
/// a typed buffer with [`downcast`](Buf::downcast).
///
/// ```
/// use symm_core::{Buf, Host, World, groups, symm};
/// groups! { pub Tp = "tp"; }
///
/// World::<Host>::run(2, |world| {
///     let tp = world.split::<Tp>(0, 0)?;
///     let ordinary: Buf<f32, Host> = Buf::zeros(4)?;
///     assert!(!ordinary.is_symmetric());
///     let redirected = symm!(group = tp, { Buf::<f32, Host>::zeros(4)? })?;
///     let mut x = redirected.downcast::<Tp>()?;
///     tp.all_reduce_in_place(&mut x, symm_core::ReduceOp::Sum)?;
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
pub struct Buf<T: Element, B: Backend = Cuda> {
    pub(crate) memory: Memory<B>,
    len: usize,
    _elements: PhantomData<T>,
}

#[cold]
fn too_large(elements: usize, bytes_each: usize) -> Error {
    Error::TooLarge {
        elements,
        bytes_each,
    }
}

impl<T: Element, B: Backend> Buf<T, B> {
    #[inline]
    fn new(memory: Memory<B>, len: usize) -> Self {
        Self {
            memory,
            len,
            _elements: PhantomData,
        }
    }

    #[inline]
    fn bytes_of(len: usize) -> Result<u64> {
        match len.checked_mul(size_of::<T>()) {
            Some(bytes) if bytes <= isize::MAX as usize => Ok(bytes as u64),
            _ => Err(too_large(len, size_of::<T>())),
        }
    }

    pub(crate) fn plain(
        rank: &Arc<Rank<B>>,
        len: usize,
        site: &'static Location<'static>,
    ) -> Result<Self> {
        let memory = Memory::plain(rank, None, Self::bytes_of(len)?, site)?;
        Ok(Self::new(memory, len))
    }

    #[inline(always)]
    pub(crate) fn of_group(
        group: &Arc<GroupCore<B>>,
        enabled: bool,
        len: usize,
        site: &'static Location<'static>,
    ) -> Result<Self> {
        let bytes = Self::bytes_of(len)?;
        match enabled {
            true => match Memory::in_arena(group, bytes, site) {
                Ok(memory) => Ok(Self::new(memory, len)),
                Err(error) => Err(*error),
            },
            false => Self::of_disabled(group, len, bytes, site),
        }
    }

    #[cold]
    fn of_disabled(
        group: &Arc<GroupCore<B>>,
        len: usize,
        bytes: u64,
        site: &'static Location<'static>,
    ) -> Result<Self> {
        let memory = Memory::plain(&group.world, Some(group), bytes, site)?;
        Ok(Self::new(memory, len))
    }

    /// Memory that is there already, of `len` elements.
    #[cfg(feature = "cuda")]
    pub(crate) fn adopted(
        rank: &Arc<Rank<B>>,
        memory: B::Plain,
        len: usize,
        stream: B::Stream,
        site: &'static Location<'static>,
    ) -> Self {
        let bytes = (len * size_of::<T>()) as u64;
        let memory = Memory::of_its_own(rank, None, memory, bytes, stream, site);
        Self::new(memory, len)
    }

    /// Shortens the buffer; its memory stays as large as it was.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Memory for `len` elements, where this thread's scopes say. Undefined contents on CUDA, zeros
    /// on the host backend.
    ///
    /// ```
    /// # use symm_core::{Buf, Error, Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let outside: Buf<f32, Host> = Buf::empty(4)?;
    /// let inside: Buf<f32, Host> = symm!(group = tp, { Buf::empty(4)? })?;
    /// assert_eq!((outside.len(), outside.is_symmetric()), (4, false));
    /// assert_eq!((inside.len(), inside.is_symmetric()), (4, true));
    /// let endless = Buf::<f32, Host>::empty(usize::MAX);
    /// assert!(matches!(endless, Err(Error::TooLarge { bytes_each: 4, .. })));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NoWorld`] outside scopes on a thread that made no world; [`Error::OutOfMemory`],
    /// [`Error::TooLarge`]; [`Error::BudgetExceeded`] and [`Error::Sealed`] in a scope;
    /// [`Error::CaptureMiss`] in a capture.
    #[track_caller]
    pub fn empty(len: usize) -> Result<Self> {
        let site = Location::caller();
        match routing::target::<B>()? {
            Target::Arena(group) => Self::of_group(&group, true, len, site),
            Target::Plain(rank) => Self::plain(&rank, len, site),
        }
    }

    /// Memory of zeros.
    ///
    /// ```
    /// # use symm_core::{Buf, Host, World};
    /// # World::<Host>::run(1, |world| {
    /// let buf: Buf<i64, Host> = Buf::zeros(3)?;
    /// assert_eq!(buf.to_vec()?, [0, 0, 0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`empty`](Buf::empty).
    #[track_caller]
    pub fn zeros(len: usize) -> Result<Self> {
        let mut buf = Self::empty(len)?;
        buf.fill_zero()?;
        Ok(buf)
    }

    /// Memory with a copy of `data`.
    ///
    /// ```
    /// # use symm_core::{Buf, Host, World};
    /// # World::<Host>::run(1, |world| {
    /// let data = [1.0f32, 2.0, 3.0];
    /// let buf: Buf<f32, Host> = Buf::from_slice(&data)?;
    /// assert_eq!(buf.to_vec()?, data);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`empty`](Buf::empty) and [`copy_from_slice`](Buf::copy_from_slice).
    #[track_caller]
    pub fn from_slice(data: &[T]) -> Result<Self> {
        let mut buf = Self::empty(data.len())?;
        buf.copy_from_slice(data)?;
        Ok(buf)
    }

    /// The same memory as a shared buffer of its group, whose tag the caller vouches for.
    #[allow(clippy::result_large_err)] // the buffer comes back
    pub(crate) fn share<G: GroupTag>(self) -> Result<Shared<T, G, B>, (Self, Error)> {
        let (memory, len) = (self.memory, self.len);
        match memory.share() {
            Ok(memory) => Ok(Shared::new(memory, len)),
            Err((memory, error)) => {
                let _elements = PhantomData;
                let buf = Self {
                    memory,
                    len,
                    _elements,
                };
                Err((buf, error))
            }
        }
    }

    /// Elements.
    ///
    /// ```
    /// # use symm_core::{Buf, Host, World};
    /// # World::<Host>::run(1, |world| {
    /// let buf: Buf<f64, Host> = Buf::zeros(3)?;
    /// assert_eq!(buf.len(), 3);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no elements.
    ///
    /// ```
    /// # use symm_core::{Buf, Host, World};
    /// # World::<Host>::run(1, |world| {
    /// let none: Buf<f32, Host> = Buf::empty(0)?;
    /// assert!(none.is_empty());
    /// assert!(none.to_vec()?.is_empty());
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of its elements.
    ///
    /// ```
    /// # use symm_core::{Buf, Host, World};
    /// # World::<Host>::run(1, |world| {
    /// let buf: Buf<f64, Host> = Buf::zeros(3)?;
    /// assert_eq!(buf.num_bytes(), 24);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn num_bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    /// The stream on which it was allocated.
    ///
    /// ```
    /// # use symm_core::{Buf, Host, World};
    /// # World::<Host>::run(1, |world| {
    /// let side = world.new_stream()?;
    /// let guard = world.on_stream(&side)?;
    /// let buf: Buf<f32, Host> = Buf::zeros(4)?;
    /// guard.end()?;
    /// assert_eq!(format!("{:?}", buf.stream()), format!("{side:?}"));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn stream(&self) -> &B::Stream {
        self.memory.stream()
    }

    /// Its address on the rank's device. On the host backend a virtual one that only this crate
    /// understands.
    ///
    /// Work that uses the address directly is not ordered with other streams by this crate.
    ///
    /// ```
    /// # use symm_core::{Buf, Host, World};
    /// # World::<Host>::run(1, |world| {
    /// let x: Buf<u8, Host> = Buf::zeros(512)?;
    /// let y: Buf<u8, Host> = Buf::zeros(512)?;
    /// assert!(x.address().abs_diff(y.address()) >= 512); // apart
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn address(&self) -> u64 {
        self.memory.addr()
    }

    /// Where it lies in its arena: the same on all ranks of the group. `None` for ordinary memory.
    ///
    /// ```
    /// use symm_core::{Host, Position, World, groups, symm};
    /// groups! { pub Tp = "tp"; }
    /// World::<Host>::run(2, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     let (x, y) = symm!(group = tp, { (tp.empty::<f32>(100)?, tp.empty::<f32>(100)?) })?;
    ///     assert_eq!(x.position(), Some(Position { segment: 0, offset: 0 }));
    ///     assert_eq!(y.position(), Some(Position { segment: 0, offset: 512 }));
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn position(&self) -> Option<Position> {
        self.memory.place().map(|place| place.block.position)
    }

    /// Whether it lies in an arena, that is in memory from `ncclMemAlloc`.
    ///
    /// ```
    /// # use symm_core::{Buf, Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let ordinary: Buf<f32, Host> = Buf::empty(4)?;
    /// assert!(!ordinary.is_symmetric());
    /// let redirected: Buf<f32, Host> = symm!(group = tp, { Buf::empty(4)? })?;
    /// assert!(redirected.is_symmetric());
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn is_symmetric(&self) -> bool {
        self.memory.place().is_some()
    }

    /// A copy of the elements. Waits for the work on this memory, not for other work.
    ///
    /// ```
    /// # use symm_core::{Buf, Host, World};
    /// # World::<Host>::run(1, |world| {
    /// let mut buf: Buf<f32, Host> = Buf::from_slice(&[1.0, 2.0])?;
    /// assert_eq!(buf.to_vec()?, [1.0, 2.0]);
    /// buf.fill_zero()?; // enqueued; the next read waits for it
    /// assert_eq!(buf.to_vec()?, [0.0, 0.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Backend`] of work enqueued earlier; [`Error::Violation`] on the host backend;
    /// [`Error::InCapture`]; [`Error::Poisoned`], also where the world failed during the wait.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        let mut elements = vec![T::default(); self.len];
        self.memory.download(0, as_bytes_mut(&mut elements))?;
        Ok(elements)
    }

    /// Overwrites the elements with `data`, in stream order; `data` may be changed at once.
    ///
    /// ```
    /// # use symm_core::{Buf, Error, Host, World};
    /// # World::<Host>::run(1, |world| {
    /// let mut buf: Buf<f32, Host> = Buf::empty(2)?;
    /// let mut data = [1.0, 2.0];
    /// buf.copy_from_slice(&data)?;
    /// data[0] = 9.0; // does not change the buffer
    /// assert_eq!(buf.to_vec()?, [1.0, 2.0]);
    /// let short = buf.copy_from_slice(&[1.0]);
    /// assert!(matches!(short, Err(Error::CopyLength { got: 1, expected: 2 })));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::CopyLength`] unless the lengths are equal; [`Error::InCapture`], because replays would read
    /// `data` when it is gone; [`Error::Poisoned`]; those of the backend.
    pub fn copy_from_slice(&mut self, data: &[T]) -> Result<()> {
        if data.len() != self.len {
            return Err(Error::CopyLength {
                got: data.len(),
                expected: self.len,
            });
        }
        self.memory.upload(0, as_bytes(data))
    }

    /// Overwrites the elements with those of `src`, memory of any place on this rank's device, in
    /// stream order.
    ///
    /// # Errors
    /// [`Error::CopyLength`] unless the lengths are equal; [`Error::Overlap`]; [`Error::WrongDevice`];
    /// [`Error::CaptureForeign`]; [`Error::Poisoned`]; those of the backend.
    ///
    /// ```
    /// use symm_core::{Buf, Host, World, plain};
    /// World::<Host>::run(1, |world| {
    ///     let x = world.pool().from_slice(&[1.0f32, 2.0])?;
    ///     let mut y: Buf<f32, Host> = Buf::empty(2)?;
    ///     y.copy_from(plain(&x))?;
    ///     assert_eq!(y.to_vec()?, [1.0, 2.0]);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn copy_from(&mut self, src: Plain<'_, T, B>) -> Result<()> {
        operand::copy(Operand::ours(self, 0..self.len, false), src.operand)
    }

    /// Overwrites the elements with zeros, in stream order.
    ///
    /// ```
    /// # use symm_core::{Buf, Host, World};
    /// # World::<Host>::run(1, |world| {
    /// let mut buf: Buf<f32, Host> = Buf::from_slice(&[1.0, 2.0])?;
    /// buf.fill_zero()?;
    /// assert_eq!(buf.to_vec()?, [0.0, 0.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Poisoned`]; those of the backend.
    pub fn fill_zero(&mut self) -> Result<()> {
        let bytes = self.num_bytes() as u64;
        self.memory.zero(0, bytes)
    }

    /// The same memory as a buffer of the group whose scope gave it, if that bears the tag `G`
    /// ([`Dyn`](crate::Dyn) fits every group).
    ///
    /// ```
    /// # use symm_core::{Buf, Error, Host, ReduceOp, SymmBuf, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let buf: Buf<f32, Host> = symm!(group = tp, { Buf::zeros(4)? })?;
    /// let mut x: SymmBuf<f32, Tp, Host> = buf.downcast()?;
    /// tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    ///
    /// let outside: Buf<f32, Host> = Buf::zeros(4)?;
    /// let (outside, error) = outside.downcast::<Tp>().unwrap_err();
    /// assert!(matches!(error, Error::GroupMismatch { .. }));
    /// assert_eq!(outside.len(), 4); // it came back
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// The buffer comes back with [`Error::GroupMismatch`] when it was allocated outside scopes or
    /// in a scope of another tag.
    #[allow(clippy::result_large_err)] // the buffer comes back
    pub fn downcast<G: GroupTag>(self) -> Result<SymmBuf<T, G, B>, (Self, Error)> {
        match self.memory.group() {
            Some(group) if group.has_tag::<G>() => Ok(SymmBuf::wrap(self)),
            other => {
                let error = mismatch("downcast", other, G::NAME);
                Err((self, error))
            }
        }
    }
}

/// So that `?` follows a `downcast` whose value is of no further use.
impl<T: Element, B: Backend> From<(Buf<T, B>, Error)> for Error {
    fn from((_, error): (Buf<T, B>, Error)) -> Self {
        error
    }
}

impl<T: Element, B: Backend> fmt::Debug for Buf<T, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = self
            .memory
            .group()
            .map_or_else(|| "none".into(), |group| group.label());
        let mut debug = f.debug_struct("Buf");
        debug
            .field("type", &T::DTYPE)
            .field("len", &self.len)
            .field("group", &group)
            .field("address", &format_args!("{:#x}", self.address()));
        if let Some(place) = self.memory.place() {
            debug
                .field("segment", &place.block.position.segment)
                .field("offset", &place.block.position.offset);
        }
        debug.finish()
    }
}
