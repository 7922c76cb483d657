//! `SymmBuf`: memory of one group, by type.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::panic::Location;
use std::sync::Arc;

use super::buf::Buf;
use super::memory::Place;
use super::plain::Plain;
use super::shared::Shared;
use super::view::{SymmView, SymmViewMut};
use crate::Cuda;
use crate::backend::Backend;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::group::core::GroupCore;
use crate::group::tag::{Dyn, GroupTag};
use crate::scope::routing;

/// `len` elements of NCCL symmetric memory that belong to a group of tag `G`.
///
/// Allocated in a scope of the group, at the same place of the group's window on all ranks.
/// Collectives of another group do not take it: that is a compile error. Not `Send`, not `Clone`,
/// freed at once when dropped, in program order; the memory is reused behind the work that uses it.
///
/// Reads like [`Buf`], to which it dereferences; there is no way to the inside that could move
/// memory of one group into another's buffer.
///
/// ```
/// use symm_core::{Backend, Group, Host, Result, SymmBuf, World, bf16, groups, symmetric};
/// groups! { pub Cp = "cp"; }
///
/// struct Attention<B: Backend> { cp: Group<Cp, B> }
///
/// impl<B: Backend> Attention<B> {
///     #[symmetric(group = self.cp)]
///     fn gather_kv(&self, local: &[bf16]) -> Result<SymmBuf<bf16, Cp, B>> {
///         let local = SymmBuf::from_slice(local)?;
///         let mut all = SymmBuf::empty(local.len() * self.cp.size())?;
///         self.cp.all_gather(&local, &mut all)?;
///         Ok(all)
///     }
/// }
///
/// World::<Host>::run(2, |world| {
///     let layer = Attention { cp: world.split::<Cp>(0, 0)? };
///     let all = layer.gather_kv(&[bf16::from_f32(world.rank() as f32); 2])?;
///     assert_eq!(all.to_vec()?.map_f32(), [0.0, 0.0, 1.0, 1.0]);
///     Ok(())
/// })?;
/// # trait MapF32 { fn map_f32(&self) -> Vec<f32>; }
/// # impl MapF32 for Vec<bf16> { fn map_f32(&self) -> Vec<f32> { self.iter().map(|x| x.to_f32()).collect() } }
/// # Ok::<(), symm_core::Error>(())
/// ```
pub struct SymmBuf<T: Element, G: GroupTag = Dyn, B: Backend = Cuda> {
    pub(crate) buf: Buf<T, B>,
    _group: PhantomData<fn() -> G>,
}

impl<T: Element, G: GroupTag, B: Backend> SymmBuf<T, G, B> {
    #[inline]
    pub(crate) fn wrap(buf: Buf<T, B>) -> Self {
        Self {
            buf,
            _group: PhantomData,
        }
    }

    #[inline]
    pub(crate) fn in_scope(
        group: &Arc<GroupCore<B>>,
        enabled: bool,
        len: usize,
        site: &'static Location<'static>,
    ) -> Result<Self> {
        Buf::of_group(group, enabled, len, site).map(Self::wrap)
    }

    pub(crate) fn zeroed(mut self) -> Result<Self> {
        self.fill_zero()?;
        Ok(self)
    }

    pub(crate) fn filled(mut self, data: &[T]) -> Result<Self> {
        self.copy_from_slice(data)?;
        Ok(self)
    }

    /// A buffer of `len` elements of the innermost scope of tag `G` on this thread. Undefined
    /// contents on CUDA, zeros on the host backend.
    ///
    /// `len` is the same on all ranks of the group; [`empty_padded`](SymmBuf::empty_padded) is for
    /// lengths that differ.
    ///
    /// ```
    /// # use symm_core::{Error, Host, SymmBuf, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let outside = SymmBuf::<f32, Tp, Host>::empty(8);
    /// assert!(matches!(outside, Err(Error::NoScope { group: "tp" })));
    /// let x: SymmBuf<f32, Tp, Host> = symm!(group = tp, { SymmBuf::empty(8)? })?;
    /// assert_eq!((x.len(), x.is_symmetric()), (8, true));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NoScope`] without such a scope; [`Error::WrongBackend`] where the open scopes are of
    /// another backend; [`Error::OutOfMemory`], [`Error::BudgetExceeded`], [`Error::Sealed`],
    /// [`Error::TooLarge`]; [`Error::CaptureMiss`] in a capture.
    #[track_caller]
    pub fn empty(len: usize) -> Result<Self> {
        let (group, enabled) = routing::scope_of::<G, B>()?;
        Self::in_scope(&group, enabled, len, Location::caller())
    }

    /// A buffer of zeros.
    ///
    /// ```
    /// # use symm_core::{Host, SymmBuf, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let x: SymmBuf<f32, Tp, Host> = symm!(group = tp, { SymmBuf::zeros(3)? })?;
    /// assert_eq!(x.to_vec()?, [0.0; 3]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`empty`](SymmBuf::empty).
    #[track_caller]
    pub fn zeros(len: usize) -> Result<Self> {
        Self::empty(len)?.zeroed()
    }

    /// A buffer with a copy of `data`, whose length is the same on all ranks.
    ///
    /// ```
    /// # use symm_core::{Host, ReduceOp, SymmBuf, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let mine = [world.rank() as f32; 2]; // the values may differ by rank, the length not
    /// let mut x: SymmBuf<f32, Tp, Host> = symm!(group = tp, { SymmBuf::from_slice(&mine)? })?;
    /// tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    /// assert_eq!(x.to_vec()?, [1.0, 1.0]); // 0 of rank 0 and 1 of rank 1
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`empty`](SymmBuf::empty) and [`copy_from_slice`](SymmBuf::copy_from_slice).
    #[track_caller]
    pub fn from_slice(data: &[T]) -> Result<Self> {
        Self::empty(data.len())?.filled(data)
    }

    /// A buffer of `len` elements that takes the room of `max`, for lengths that differ by rank:
    /// `max` is the same on all ranks, so the next buffer lies at the same place everywhere.
    ///
    /// # Errors
    /// [`Error::Range`] if `len` is more than `max`; else as for [`empty`](SymmBuf::empty).
    ///
    /// ```
    /// use symm_core::{Host, SymmBuf, World, groups, symm};
    /// groups! { pub Tp = "tp"; }
    /// World::<Host>::run(2, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     symm!(group = tp, {
    ///         let uneven: SymmBuf<f32, Tp, Host> = SymmBuf::empty_padded(10 + world.rank(), 16)?;
    ///         assert_eq!(uneven.len(), 10 + world.rank());
    ///         let next: SymmBuf<f32, Tp, Host> = SymmBuf::empty(4)?; // at the same offset on both ranks
    ///     })
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    #[track_caller]
    pub fn empty_padded(len: usize, max: usize) -> Result<Self> {
        if len > max {
            return Err(Error::Range {
                start: 0,
                end: len,
                len: max,
            });
        }
        let mut buf = Self::empty(max)?;
        buf.buf.truncate(len);
        Ok(buf)
    }

    /// Overwrites the elements with `data`, in stream order; `data` may be changed at once.
    ///
    /// ```
    /// # use symm_core::{Error, Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let mut x = symm!(group = tp, { tp.empty::<f32>(2)? })?;
    /// x.copy_from_slice(&[1.0, 2.0])?;
    /// assert_eq!(x.to_vec()?, [1.0, 2.0]);
    /// assert!(matches!(x.copy_from_slice(&[1.0; 3]), Err(Error::CopyLength { got: 3, expected: 2 })));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::CopyLength`] unless the lengths are equal; [`Error::InCapture`], because replays would read
    /// `data` when it is gone; [`Error::Poisoned`]; those of the backend.
    pub fn copy_from_slice(&mut self, data: &[T]) -> Result<()> {
        self.buf.copy_from_slice(data)
    }

    /// Overwrites the elements with those of `src`, memory of any place on this rank's device, in
    /// stream order.
    ///
    /// ```
    /// # use symm_core::{Buf, Host, World, groups, plain, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let ordinary: Buf<f32, Host> = Buf::from_slice(&[1.0, 2.0])?;
    /// let mut x = symm!(group = tp, { tp.empty::<f32>(2)? })?;
    /// x.copy_from(plain(&ordinary))?;
    /// assert_eq!(x.to_vec()?, [1.0, 2.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::CopyLength`] unless the lengths are equal; [`Error::Overlap`]; [`Error::WrongDevice`];
    /// [`Error::CaptureForeign`]; [`Error::Poisoned`]; those of the backend.
    pub fn copy_from(&mut self, src: Plain<'_, T, B>) -> Result<()> {
        self.buf.copy_from(src)
    }

    /// Overwrites the elements with zeros, in stream order.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let mut x = symm!(group = tp, { tp.from_slice(&[1.0f32, 2.0])? })?;
    /// x.fill_zero()?;
    /// assert_eq!(x.to_vec()?, [0.0, 0.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Poisoned`]; those of the backend.
    pub fn fill_zero(&mut self) -> Result<()> {
        self.buf.fill_zero()
    }

    /// Elements.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let x = symm!(group = tp, { tp.empty::<f32>(8)? })?;
    /// assert_eq!(x.len(), 8);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn len(&self) -> usize {
        self.buf.len()
    }

    /// Whether it has no elements.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let (one, none) = symm!(group = tp, { (tp.empty::<f32>(1)?, tp.empty::<f32>(0)?) })?;
    /// assert!(!one.is_empty() && none.is_empty());
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// Bytes of its elements.
    ///
    /// ```
    /// # use symm_core::{Host, World, bf16, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let x = symm!(group = tp, { tp.empty::<bf16>(8)? })?;
    /// assert_eq!(x.num_bytes(), 16);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn num_bytes(&self) -> usize {
        self.buf.num_bytes()
    }

    /// The stream on which it was allocated.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let side = world.new_stream()?;
    /// let guard = world.on_stream(&side)?;
    /// let x = symm!(group = tp, { tp.empty::<f32>(8)? })?;
    /// guard.end()?;
    /// assert_eq!(format!("{:?}", x.stream()), format!("{side:?}"));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn stream(&self) -> &B::Stream {
        self.buf.stream()
    }

    /// The elements `range`, to be read.
    ///
    /// ```
    /// # use symm_core::{Error, Host, ReduceOp, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let x = symm!(group = tp, { tp.from_slice(&[1.0f32, 2.0, 3.0])? })?;
    /// let mut sum = symm!(group = tp, { tp.empty::<f32>(2)? })?;
    /// tp.all_reduce(x.view(1..3)?, &mut sum, ReduceOp::Sum)?;
    /// assert_eq!(sum.to_vec()?, [4.0, 6.0]);
    /// assert!(matches!(x.view(2..4), Err(Error::Range { end: 4, len: 3, .. })));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Range`].
    pub fn view(&self, range: Range<usize>) -> Result<SymmView<'_, T, G, B>> {
        SymmView::new(&self.buf, 0, self.len(), range)
    }

    /// The elements `range`, to be written.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let mut x = symm!(group = tp, { tp.zeros::<f32>(4)? })?;
    /// x.view_mut(1..3)?.copy_from_slice(&[1.0, 2.0])?;
    /// assert_eq!(x.to_vec()?, [0.0, 1.0, 2.0, 0.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Range`].
    pub fn view_mut(&mut self, range: Range<usize>) -> Result<SymmViewMut<'_, T, G, B>> {
        let len = self.len();
        SymmViewMut::new(&mut self.buf, range, len)
    }

    /// Two disjoint views: the elements before `mid`, and those from `mid` on.
    ///
    /// ```
    /// # use symm_core::{Host, ReduceOp, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let mut x = symm!(group = tp, { tp.from_slice(&[1.0f32, 2.0, 0.0, 0.0])? })?;
    /// let (input, mut sum) = x.split_at_mut(2)?;
    /// tp.all_reduce(input.as_view(), &mut sum, ReduceOp::Sum)?; // from one half to the other
    /// assert_eq!(x.to_vec()?, [1.0, 2.0, 2.0, 4.0]);
    /// assert!(x.split_at_mut(5).is_err());
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Range`] if `mid` is more than the length.
    pub fn split_at_mut(
        &mut self,
        mid: usize,
    ) -> Result<(SymmViewMut<'_, T, G, B>, SymmViewMut<'_, T, G, B>)> {
        let len = self.len();
        self.view_mut(0..len)?.split_at_mut(mid)
    }

    /// The window that the buffer lies in, for device code; `None` before it is registered, and
    /// where NCCL gives no window.
    ///
    /// ```
    /// use symm_core::{Host, World, groups, symm};
    /// groups! { pub Tp = "tp"; }
    /// World::<Host>::run(2, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     let x = symm!(group = tp, { tp.empty::<f32>(8)? })?;
    ///     let window = x.window()?.expect("registered when the scope closed");
    ///     assert_eq!(window.offset, 0);
    ///     assert_eq!(window.peer(tp.rank())?, Some(x.address()));
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of the group's communicator.
    #[inline]
    pub fn window(&self) -> Result<Option<WindowRef<'_, B>>> {
        let memory = &self.buf.memory;
        Ok(memory.place().and_then(|place| {
            Some(WindowRef {
                handle: memory.window(&place)?,
                offset: place.block.position.offset,
                place,
            })
        }))
    }

    /// The same memory to be read from any thread, by clones: for the fields of a model, other threads
    /// and frameworks. It returns to the arena once all ranks have dropped it; see [`Shared`].
    ///
    /// ```
    /// use symm_core::{Host, World, groups, symm};
    /// groups! { pub Tp = "tp"; }
    /// World::<Host>::run(2, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     let weights = symm!(group = tp, { tp.from_slice(&[1.0f32, 2.0])? })?.share()?;
    ///     let clone = weights.clone();
    ///     let read = std::thread::spawn(move || clone.to_vec()).join();
    ///     assert_eq!(read.expect("no panic")?, [1.0, 2.0]);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// The buffer comes back with [`Error::Unsupported`] where a graph uses it, or made it, and with
    /// [`Error::InCapture`].
    #[allow(clippy::result_large_err)] // the buffer comes back
    pub fn share(self) -> Result<Shared<T, G, B>, (Self, Error)> {
        let shared = self.buf.share();
        shared.map_err(|(buf, error)| (Self::wrap(buf), error))
    }

    /// The same buffer, of a group that is chosen at run time.
    ///
    /// ```
    /// # use symm_core::{Dyn, Group, Host, ReduceOp, SymmBuf, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let x = symm!(group = tp, { tp.from_slice(&[1.0f32])? })?;
    /// let mut any: SymmBuf<f32, Dyn, Host> = x.erase();
    /// let group: Group<Dyn, Host> = tp.clone().erase();
    /// group.all_reduce_in_place(&mut any, ReduceOp::Sum)?; // that it is its group is checked now
    /// assert_eq!(any.to_vec()?, [2.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn erase(self) -> SymmBuf<T, Dyn, B> {
        SymmBuf::wrap(self.buf)
    }

    /// The same memory without the group in its type.
    ///
    /// ```
    /// # use symm_core::{Buf, Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let x = symm!(group = tp, { tp.from_slice(&[1.0f32, 2.0])? })?;
    /// let position = x.position();
    /// let buf: Buf<f32, Host> = x.into_buf();
    /// assert_eq!((buf.position(), buf.to_vec()?), (position, vec![1.0, 2.0]));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn into_buf(self) -> Buf<T, B> {
        self.buf
    }
}

impl<T: Element, B: Backend> SymmBuf<T, Dyn, B> {
    /// The same buffer with its group's tag, if that is `G`.
    ///
    /// ```
    /// # use symm_core::{Dyn, Error, Host, SymmBuf, World, groups, symm};
    /// # groups! { pub Tp = "tp"; pub Cp = "cp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let any: SymmBuf<f32, Dyn, Host> = symm!(group = tp, { tp.empty(4)? })?.erase();
    /// let (any, error) = any.downcast::<Cp>().unwrap_err(); // it comes back
    /// assert!(matches!(error, Error::GroupMismatch { .. }));
    /// let x: SymmBuf<f32, Tp, Host> = any.downcast()?;
    /// assert_eq!(x.len(), 4);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// The buffer comes back with [`Error::GroupMismatch`].
    #[allow(clippy::result_large_err)] // the buffer comes back
    pub fn downcast<G: GroupTag>(self) -> Result<SymmBuf<T, G, B>, (Self, Error)> {
        self.buf
            .downcast::<G>()
            .map_err(|(buf, error)| (Self::wrap(buf), error))
    }
}

impl<T: Element, G: GroupTag, B: Backend> Deref for SymmBuf<T, G, B> {
    type Target = Buf<T, B>;

    fn deref(&self) -> &Self::Target {
        &self.buf
    }
}

/// So that `?` follows a `downcast` whose value is of no further use.
impl<T: Element, G: GroupTag, B: Backend> From<(SymmBuf<T, G, B>, Error)> for Error {
    fn from((_, error): (SymmBuf<T, G, B>, Error)) -> Self {
        error
    }
}

impl<T: Element, G: GroupTag, B: Backend> fmt::Debug for SymmBuf<T, G, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Symm{:?}", self.buf)
    }
}

/// Where a buffer lies in its group's symmetric window, for kernels that use NCCL's device API or
/// load and store to peers.
///
/// ```
/// # use symm_core::{Host, World, groups, symm};
/// # groups! { pub Tp = "tp"; }
/// # World::<Host>::run(2, |world| {
/// # let tp = world.split::<Tp>(0, 0)?;
/// let (first, second) = symm!(group = tp, { (tp.empty::<f32>(8)?, tp.empty::<f32>(8)?) })?;
/// let a = first.window()?.expect("registered when the scope closed");
/// let b = second.window()?.expect("registered when the scope closed");
/// assert_eq!(a.handle, b.handle); // two blocks of one window
/// assert_eq!((a.offset, b.offset), (0, 512));
/// # Ok(())
/// # })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct WindowRef<'a, B: Backend> {
    /// The `ncclWindow_t`. Valid while the buffer lives.
    pub handle: *mut std::ffi::c_void,
    /// Bytes from the start of the window; the same on all ranks.
    pub offset: u64,
    place: Place<'a, B>,
}

impl<'a, B: Backend> WindowRef<'a, B> {
    #[inline]
    pub(crate) fn of(place: Place<'a, B>) -> Option<Self> {
        Some(WindowRef {
            handle: place.window()?,
            offset: place.block.position.offset,
            place,
        })
    }

    /// The address at which this rank reaches the buffer of the group's rank `peer`; `None` where
    /// NCCL does not give it (before 2.29.2, or a peer that loads and stores do not reach).
    ///
    /// ```
    /// # use symm_core::{Error, Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let x = symm!(group = tp, { tp.empty::<f32>(8)? })?;
    /// let window = x.window()?.expect("registered when the scope closed");
    /// assert_eq!(window.peer(tp.rank())?, Some(x.address()));
    /// assert_ne!(window.peer(1 - tp.rank())?, Some(x.address())); // where the other rank's buffer is
    /// assert!(matches!(window.peer(2), Err(Error::NoSuchRank { rank: 2, size: 2, .. })));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NoSuchRank`].
    pub fn peer(&self, peer: usize) -> Result<Option<u64>> {
        let Place {
            group,
            arena,
            block,
        } = self.place;
        if peer >= group.size() {
            let size = group.size();
            let group = group.label().into();
            return Err(Error::NoSuchRank {
                operation: "window.peer",
                group,
                rank: peer,
                size,
            });
        }
        let link = group.link();
        let segment = block.position.segment;
        let window = link.ledger().window(arena, segment).cloned();
        match window {
            Some(window) => B::peer_address(link.comm()?, &window, self.offset, peer),
            None => Ok(None),
        }
    }
}
