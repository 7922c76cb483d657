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
    /// # Errors
    /// [`Error::NoScope`] without such a scope; [`Error::OutOfMemory`], [`Error::BudgetExceeded`],
    /// [`Error::Sealed`], [`Error::TooLarge`].
    #[track_caller]
    pub fn empty(len: usize) -> Result<Self> {
        let (group, enabled) = routing::scope_of::<G, B>()?;
        Self::in_scope(&group, enabled, len, Location::caller())
    }

    /// A buffer of zeros.
    ///
    /// # Errors
    /// As for [`empty`](SymmBuf::empty).
    #[track_caller]
    pub fn zeros(len: usize) -> Result<Self> {
        Self::empty(len)?.zeroed()
    }

    /// A buffer with a copy of `data`, whose length is the same on all ranks.
    ///
    /// # Errors
    /// As for [`empty`](SymmBuf::empty).
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
    /// # Errors
    /// [`Error::Range`] unless the lengths are equal.
    pub fn copy_from_slice(&mut self, data: &[T]) -> Result<()> {
        self.buf.copy_from_slice(data)
    }

    /// Overwrites the elements with those of `src`, memory of any place on this rank's device, in
    /// stream order.
    ///
    /// # Errors
    /// [`Error::Range`] unless the lengths are equal; [`Error::Overlap`]; [`Error::WrongDevice`].
    pub fn copy_from(&mut self, src: Plain<'_, T, B>) -> Result<()> {
        self.buf.copy_from(src)
    }

    /// Overwrites the elements with zeros, in stream order.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn fill_zero(&mut self) -> Result<()> {
        self.buf.fill_zero()
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.buf.len()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// Bytes of its elements.
    pub fn num_bytes(&self) -> usize {
        self.buf.num_bytes()
    }

    /// The stream on which it was allocated.
    pub fn stream(&self) -> &B::Stream {
        self.buf.stream()
    }

    /// The elements `range`, to be read.
    ///
    /// # Errors
    /// [`Error::Range`].
    pub fn view(&self, range: Range<usize>) -> Result<SymmView<'_, T, G, B>> {
        SymmView::new(&self.buf, 0, self.len(), range)
    }

    /// The elements `range`, to be written.
    ///
    /// # Errors
    /// [`Error::Range`].
    pub fn view_mut(&mut self, range: Range<usize>) -> Result<SymmViewMut<'_, T, G, B>> {
        let len = self.len();
        SymmViewMut::new(&mut self.buf, range, len)
    }

    /// Two disjoint views: the elements before `mid`, and those from `mid` on.
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
    pub fn erase(self) -> SymmBuf<T, Dyn, B> {
        SymmBuf::wrap(self.buf)
    }

    /// The same memory without the group in its type.
    pub fn into_buf(self) -> Buf<T, B> {
        self.buf
    }
}

impl<T: Element, B: Backend> SymmBuf<T, Dyn, B> {
    /// The same buffer with its group's tag, if that is `G`.
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
