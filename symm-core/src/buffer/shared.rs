//! `Shared`: a buffer of a group that many own, on any thread.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use super::bytes::{as_bytes, as_bytes_mut};
use super::operand::{self, Operand};
use super::plain::Plain;
use super::shared_memory::SharedMemory;
use super::symm::WindowRef;
use super::view::narrow;
use crate::Cuda;
use crate::backend::Backend;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::group::core::mismatch;
use crate::group::tag::{Dyn, GroupTag};
use crate::pool::Position;

/// `len` elements of a group's symmetric memory that all clones own together: `Send`, `Sync`,
/// `Clone`. For the fields of a model, other threads and frameworks. Made with
/// [`SymmBuf::share`](crate::SymmBuf::share).
///
/// All may read: [`to_vec`](Shared::to_vec), [`view`](Shared::view), as a source of the group's
/// collectives. Who holds the only clone may write ([`get_mut`](Shared::get_mut)). Uses on several
/// streams and threads are ordered as those of a [`SymmBuf`](crate::SymmBuf). A graph that reads it
/// keeps a clone.
///
/// Where a free falls among the allocations decides where the next ones lie, and clones are dropped
/// in no order that ranks share. So the memory of the last clone returns in a **round** of its group,
/// as far as **all** ranks have dropped it by then: when a scope registers a new segment, and in
/// [`Group::trim`](crate::Group::trim). In a group of one rank that is the next scope's end or
/// collective. Where no round reaches all ranks that share the arena's history, it returns with the
/// arena: in an arena shared by groups of different ranks, and in a group over a communicator of
/// another maker.
///
/// ```
/// use symm_core::{Backend, Group, Host, ReduceOp, Result, Shared, World, groups, symm};
/// groups! { pub Tp = "tp"; }
///
/// struct Layer<B: Backend> { tp: Group<Tp, B>, bias: Shared<f32, Tp, B> }
///
/// impl<B: Backend> Layer<B> {
///     fn summed_bias(&self) -> Result<Vec<f32>> {
///         let mut sum = symm!(group = self.tp, { self.tp.empty::<f32>(self.bias.len())? })?;
///         self.tp.all_reduce(&self.bias, &mut sum, ReduceOp::Sum)?;
///         sum.to_vec()
///     }
/// }
///
/// World::<Host>::run(2, |world| {
///     let tp = world.split::<Tp>(0, 0)?;
///     let bias = symm!(group = tp, { tp.from_slice(&[1.0f32, 2.0])? })?.share()?;
///     let elsewhere = bias.clone();
///     let layer = Layer { tp, bias };
///     assert_eq!(layer.summed_bias()?, [2.0, 4.0]);
///
///     let Layer { tp, bias } = layer;
///     drop(bias);
///     // On another thread, at whatever time.
///     let dropped = std::thread::spawn(move || drop(elsewhere)).join();
///     assert!(dropped.is_ok());
///     assert_eq!(world.pool().stats().live_bytes(), 512);
///     assert_eq!(tp.trim()?, 8 << 20); // a round
///     assert_eq!(world.pool().stats().live_bytes(), 0);
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
pub struct Shared<T: Element, G: GroupTag = Dyn, B: Backend = Cuda> {
    memory: Arc<SharedMemory<B>>,
    len: usize,
    _group: PhantomData<fn() -> (T, G)>,
}

impl<T: Element, G: GroupTag, B: Backend> Shared<T, G, B> {
    pub(crate) fn new(memory: Arc<SharedMemory<B>>, len: usize) -> Self {
        Self {
            memory,
            len,
            _group: PhantomData,
        }
    }

    pub(crate) fn parts(&self) -> (&Arc<SharedMemory<B>>, Range<usize>) {
        (&self.memory, 0..self.len)
    }

    /// The stream on which it was allocated.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let x = symm!(group = tp, { tp.empty::<f32>(8)? })?.share()?;
    /// assert_eq!(format!("{:?}", x.stream()), format!("{:?}", world.stream()));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn stream(&self) -> &B::Stream {
        self.memory.stream()
    }

    /// Where it lies in its arena: the same on all ranks of the group. `None` for ordinary memory.
    ///
    /// ```
    /// # use symm_core::{Host, Position, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let x = symm!(group = tp, { tp.empty::<f32>(8)? })?.share()?;
    /// assert_eq!(x.position(), Some(Position { segment: 0, offset: 0 }));
    /// let off = symm!(group = tp, when = false, { tp.empty::<f32>(8)? })?.share()?;
    /// assert_eq!(off.position(), None); // the scope was switched off
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn position(&self) -> Option<Position> {
        self.memory.place().map(|place| place.block.position)
    }

    /// Whether it lies in an arena, that is in memory from `ncclMemAlloc`.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let x = symm!(group = tp, { tp.empty::<f32>(8)? })?.share()?;
    /// assert!(x.is_symmetric());
    /// let off = symm!(group = tp, when = false, { tp.empty::<f32>(8)? })?.share()?;
    /// assert!(!off.is_symmetric());
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn is_symmetric(&self) -> bool {
        self.memory.place().is_some()
    }

    /// The window that it lies in; see [`SymmBuf::window`](crate::SymmBuf::window).
    ///
    /// ```
    /// use symm_core::{Host, World, groups, symm};
    /// groups! { pub Tp = "tp"; }
    /// World::<Host>::run(2, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     let x = symm!(group = tp, { tp.empty::<f32>(8)? })?.share()?;
    ///     let window = x.window()?.expect("registered when the scope closed");
    ///     assert_eq!(window.peer(tp.rank())?, Some(x.address()));
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of the group's communicator.
    pub fn window(&self) -> Result<Option<WindowRef<'_, B>>> {
        Ok(self.memory.place().and_then(WindowRef::of))
    }

    /// The elements `range`, to be read.
    ///
    /// ```
    /// use symm_core::{Host, World, groups, symm};
    /// groups! { pub Tp = "tp"; }
    /// World::<Host>::run(1, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     let x = symm!(group = tp, { tp.from_slice(&[1.0f32, 2.0, 3.0])? })?.share()?;
    ///     assert_eq!(x.view(1..3)?.to_vec()?, [2.0, 3.0]);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Range`].
    pub fn view(&self, range: Range<usize>) -> Result<SharedView<'_, T, G, B>> {
        Ok(SharedView {
            memory: &self.memory,
            range: narrow(0, self.len, range)?,
            _group: PhantomData,
        })
    }

    /// A copy of the elements. Waits for the writes to this memory, not for other work.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let x = symm!(group = tp, { tp.from_slice(&[1.0f32, 2.0])? })?.share()?;
    /// let there = std::thread::scope(|threads| threads.spawn(|| x.to_vec()).join());
    /// assert_eq!(there.expect("no panic")?, [1.0, 2.0]); // on another thread
    /// assert_eq!(x.to_vec()?, [1.0, 2.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InCapture`]; [`Error::Poisoned`], also where the world failed during the wait; those
    /// of the backend.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        self.view(0..self.len)?.to_vec()
    }

    /// The elements, to be written, if this is the only clone and no graph keeps one.
    ///
    /// ```
    /// use symm_core::{Error, Host, ReduceOp, World, groups, symm};
    /// groups! { pub Tp = "tp"; }
    /// World::<Host>::run(2, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     let mut x = symm!(group = tp, { tp.from_slice(&[1.0f32])? })?.share()?;
    ///     let clone = x.clone();
    ///     assert!(x.get_mut().is_none());
    ///     drop(clone);
    ///     let alone = x.get_mut().ok_or_else(|| Error::Config { what: "shared".into() })?;
    ///     tp.all_reduce_in_place(alone, ReduceOp::Sum)?;
    ///     assert_eq!(x.to_vec()?, [2.0]);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn get_mut(&mut self) -> Option<SharedMut<'_, T, G, B>> {
        // Also orders this thread behind those that dropped their clones.
        Arc::get_mut(&mut self.memory)?;
        Some(SharedMut {
            memory: &self.memory,
            len: self.len,
            _group: PhantomData,
        })
    }

    /// The same buffer, of a group that is chosen at run time.
    ///
    /// ```
    /// # use symm_core::{Dyn, Host, ReduceOp, Shared, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let x = symm!(group = tp, { tp.from_slice(&[1.0f32])? })?.share()?;
    /// let any: Shared<f32, Dyn, Host> = x.erase();
    /// let mut sum = symm!(group = tp, { tp.empty::<f32>(1)? })?.erase();
    /// tp.clone().erase().all_reduce(&any, &mut sum, ReduceOp::Sum)?;
    /// assert_eq!(sum.to_vec()?, [2.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn erase(self) -> Shared<T, Dyn, B> {
        Shared::new(self.memory, self.len)
    }
}

impl<T: Element, B: Backend> Shared<T, Dyn, B> {
    /// The same buffer with its group's tag, if that is `G`.
    ///
    /// ```
    /// use symm_core::{Host, Shared, World, groups, symm};
    /// groups! { pub Tp = "tp"; pub Cp = "cp"; }
    /// World::<Host>::run(1, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     let any = symm!(group = tp, { tp.empty::<f32>(1)? })?.share()?.erase();
    ///     let any = any.downcast::<Cp>().unwrap_err().0;
    ///     let x: Shared<f32, Tp, Host> = any.downcast()?;
    ///     assert_eq!(x.len(), 1);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// The buffer comes back with [`Error::GroupMismatch`].
    pub fn downcast<G: GroupTag>(self) -> Result<Shared<T, G, B>, (Self, Error)> {
        match self.memory.group() {
            Some(group) if group.has_tag::<G>() => Ok(Shared::new(self.memory, self.len)),
            other => {
                let error = mismatch("downcast", other, G::NAME);
                Err((self, error))
            }
        }
    }
}

impl<T: Element, G: GroupTag, B: Backend> Clone for Shared<T, G, B> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.memory), self.len)
    }
}

/// So that `?` follows a `downcast` whose value is of no further use.
impl<T: Element, G: GroupTag, B: Backend> From<(Shared<T, G, B>, Error)> for Error {
    fn from((_, error): (Shared<T, G, B>, Error)) -> Self {
        error
    }
}

/// Elements of a [`Shared`] buffer, to be read. Made with [`Shared::view`].
///
/// ```
/// use symm_core::{Host, ReduceOp, World, groups, symm};
/// groups! { pub Tp = "tp"; }
/// World::<Host>::run(2, |world| {
///     let tp = world.split::<Tp>(0, 0)?;
///     let x = symm!(group = tp, { tp.from_slice(&[1.0f32, 2.0, 3.0])? })?.share()?;
///     let mut sum = symm!(group = tp, { tp.empty::<f32>(1)? })?;
///     tp.all_reduce(x.view(2..3)?, &mut sum, ReduceOp::Sum)?;
///     assert_eq!(sum.to_vec()?, [6.0]);
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
pub struct SharedView<'a, T: Element, G: GroupTag = Dyn, B: Backend = Cuda> {
    memory: &'a Arc<SharedMemory<B>>,
    range: Range<usize>,
    _group: PhantomData<fn() -> (T, G)>,
}

impl<'a, T: Element, G: GroupTag, B: Backend> SharedView<'a, T, G, B> {
    pub(crate) fn parts(&self) -> (&'a Arc<SharedMemory<B>>, Range<usize>) {
        (self.memory, self.range.clone())
    }

    /// A part of the view; `range` counts from the view's start.
    ///
    /// ```
    /// # use symm_core::{Error, Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let x = symm!(group = tp, { tp.from_slice(&[1.0f32, 2.0, 3.0, 4.0])? })?.share()?;
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
        Ok(Self {
            memory: self.memory,
            range: narrow(self.range.start, self.range.len(), range)?,
            _group: PhantomData,
        })
    }

    /// A copy of the elements. Waits for the writes to this memory.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let x = symm!(group = tp, { tp.from_slice(&[1.0f32, 2.0, 3.0])? })?.share()?;
    /// assert_eq!(x.view(1..2)?.to_vec()?, [2.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InCapture`]; [`Error::Poisoned`], also where the world failed during the wait; those
    /// of the backend.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        let mut elements = vec![T::default(); self.range.len()];
        self.memory
            .download(self.start(), as_bytes_mut(&mut elements))?;
        Ok(elements)
    }

    fn start(&self) -> u64 {
        (self.range.start * size_of::<T>()) as u64
    }
}

impl<T: Element, G: GroupTag, B: Backend> Clone for SharedView<'_, T, G, B> {
    fn clone(&self) -> Self {
        Self {
            memory: self.memory,
            range: self.range.clone(),
            _group: PhantomData,
        }
    }
}

/// All elements of a [`Shared`] buffer that nobody else holds, to be written: a destination of the
/// group's collectives. Made with [`Shared::get_mut`].
///
/// ```
/// use symm_core::{Host, World, groups, symm};
/// groups! { pub Tp = "tp"; }
/// World::<Host>::run(1, |world| {
///     let tp = world.split::<Tp>(0, 0)?;
///     let mut x = symm!(group = tp, { tp.zeros::<f32>(2)? })?.share()?;
///     if let Some(mut alone) = x.get_mut() {
///         alone.copy_from_slice(&[1.0, 2.0])?;
///     }
///     assert_eq!(x.to_vec()?, [1.0, 2.0]);
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
pub struct SharedMut<'a, T: Element, G: GroupTag = Dyn, B: Backend = Cuda> {
    memory: &'a Arc<SharedMemory<B>>,
    len: usize,
    _group: PhantomData<(fn() -> G, &'a mut [T])>,
}

impl<'a, T: Element, G: GroupTag, B: Backend> SharedMut<'a, T, G, B> {
    pub(crate) fn parts(&self) -> (&'a Arc<SharedMemory<B>>, Range<usize>) {
        (self.memory, 0..self.len)
    }

    /// Overwrites the elements with `data`, in stream order; `data` may be changed at once.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let mut x = symm!(group = tp, { tp.zeros::<f32>(2)? })?.share()?;
    /// let mut alone = x.get_mut().expect("the only clone");
    /// assert!(alone.copy_from_slice(&[1.0]).is_err()); // two are needed
    /// alone.copy_from_slice(&[1.0, 2.0])?;
    /// assert_eq!(x.to_vec()?, [1.0, 2.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::CopyLength`] unless the lengths are equal; [`Error::InCapture`].
    pub fn copy_from_slice(&mut self, data: &[T]) -> Result<()> {
        if data.len() != self.len {
            return Err(Error::CopyLength {
                got: data.len(),
                expected: self.len,
            });
        }
        self.memory.upload(as_bytes(data))
    }

    /// Overwrites the elements with those of `src`, memory of any place on this rank's device, in
    /// stream order.
    ///
    /// ```
    /// # use symm_core::{Buf, Host, World, groups, plain, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let new: Buf<f32, Host> = Buf::from_slice(&[1.0, 2.0])?;
    /// let mut x = symm!(group = tp, { tp.zeros::<f32>(2)? })?.share()?;
    /// x.get_mut().expect("the only clone").copy_from(plain(&new))?;
    /// assert_eq!(x.to_vec()?, [1.0, 2.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::CopyLength`] unless the lengths are equal; [`Error::WrongDevice`], [`Error::InCapture`].
    pub fn copy_from(&mut self, src: Plain<'_, T, B>) -> Result<()> {
        let (memory, range) = self.parts();
        operand::copy(Operand::shared::<T>(memory, range, false), src.operand)
    }

    /// Overwrites the elements with zeros, in stream order.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let mut x = symm!(group = tp, { tp.from_slice(&[1.0f32, 2.0])? })?.share()?;
    /// x.get_mut().expect("the only clone").fill_zero()?;
    /// assert_eq!(x.to_vec()?, [0.0, 0.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InCapture`]; those of the backend.
    pub fn fill_zero(&mut self) -> Result<()> {
        self.memory.zero((self.len * size_of::<T>()) as u64)
    }
}

macro_rules! shared_accessors {
    ($($name:literal: $type:ty),* $(,)?) => { $(
        impl<T: Element, G: GroupTag, B: Backend> $type {
            /// Elements.
            ///
            /// ```
            /// # use symm_core::{Host, World, groups, symm};
            /// # groups! { pub Tp = "tp"; }
            /// # World::<Host>::run(1, |world| {
            /// # let tp = world.split::<Tp>(0, 0)?;
            /// let mut x = symm!(group = tp, { tp.zeros::<f32>(8)? })?.share()?;
            /// assert_eq!((x.len(), x.view(2..5)?.len()), (8, 3));
            /// assert_eq!(x.get_mut().map(|alone| alone.len()), Some(8));
            /// # Ok(())
            /// # })?;
            /// # Ok::<(), symm_core::Error>(())
            /// ```
            pub fn len(&self) -> usize {
                self.parts().1.len()
            }

            /// Whether it has no elements.
            ///
            /// ```
            /// # use symm_core::{Host, World, groups, symm};
            /// # groups! { pub Tp = "tp"; }
            /// # World::<Host>::run(1, |world| {
            /// # let tp = world.split::<Tp>(0, 0)?;
            /// let mut x = symm!(group = tp, { tp.zeros::<f32>(8)? })?.share()?;
            /// assert!(!x.is_empty() && x.view(3..3)?.is_empty());
            /// assert_eq!(x.get_mut().map(|alone| alone.is_empty()), Some(false));
            /// # Ok(())
            /// # })?;
            /// # Ok::<(), symm_core::Error>(())
            /// ```
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// Bytes of its elements.
            ///
            /// ```
            /// # use symm_core::{Host, World, groups, symm};
            /// # groups! { pub Tp = "tp"; }
            /// # World::<Host>::run(1, |world| {
            /// # let tp = world.split::<Tp>(0, 0)?;
            /// let mut x = symm!(group = tp, { tp.zeros::<f32>(8)? })?.share()?;
            /// assert_eq!((x.num_bytes(), x.view(2..5)?.num_bytes()), (32, 12));
            /// assert_eq!(x.get_mut().map(|alone| alone.num_bytes()), Some(32));
            /// # Ok(())
            /// # })?;
            /// # Ok::<(), symm_core::Error>(())
            /// ```
            pub fn num_bytes(&self) -> usize {
                self.len() * size_of::<T>()
            }

            /// The address of its first element on the rank's device; on the host backend a virtual
            /// one. Work that uses the address directly is not ordered with other streams by this
            /// crate.
            ///
            /// ```
            /// # use symm_core::{Host, World, groups, symm};
            /// # groups! { pub Tp = "tp"; }
            /// # World::<Host>::run(1, |world| {
            /// # let tp = world.split::<Tp>(0, 0)?;
            /// let mut x = symm!(group = tp, { tp.zeros::<f32>(8)? })?.share()?;
            /// let start = x.address();
            /// assert_eq!(x.view(2..5)?.address(), start + 8); // in bytes
            /// assert_eq!(x.get_mut().map(|alone| alone.address()), Some(start));
            /// # Ok(())
            /// # })?;
            /// # Ok::<(), symm_core::Error>(())
            /// ```
            pub fn address(&self) -> u64 {
                let (memory, range) = self.parts();
                memory.addr() + (range.start * size_of::<T>()) as u64
            }
        }

        impl<T: Element, G: GroupTag, B: Backend> fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let (memory, range) = self.parts();
                let group = memory.group().map_or_else(|| "none".into(), |group| group.label());
                f.debug_struct($name)
                    .field("type", &T::DTYPE)
                    .field("range", &range)
                    .field("group", &group)
                    .field("address", &format_args!("{:#x}", self.address()))
                    .finish_non_exhaustive()
            }
        }
    )* };
}

shared_accessors!(
    "Shared": Shared<T, G, B>,
    "SharedView": SharedView<'_, T, G, B>,
    "SharedMut": SharedMut<'_, T, G, B>,
);
