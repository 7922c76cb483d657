//! Scopes: between opening and closing, the thread's allocations go to the group's arena.

pub(crate) mod routing;

use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use self::routing::{Kind, Token};
use crate::Cuda;
use crate::StaysOnItsThread;
use crate::backend::Backend;
use crate::buffer::SymmBuf;
use crate::element::Element;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::group::core::GroupCore;
use crate::group::tag::{Dyn, GroupTag};
use crate::group::world::Fate;
use crate::range;
use crate::registration::round::{self, Due};
use crate::site::Site;
use crate::trace;

/// A frame of the thread's routing stack, closed when it is dropped. Stays on its thread.
pub(crate) struct Frame<B: Backend> {
    token: Token,
    site: Site,
    open: bool,
    _thread: PhantomData<(StaysOnItsThread, fn() -> B)>,
}

impl<B: Backend> Frame<B> {
    #[inline]
    pub(crate) fn open(site: Site, kind: Kind<B>) -> Result<Self> {
        let token = routing::push(site, kind)?;
        Ok(Self {
            token,
            site,
            open: true,
            _thread: PhantomData,
        })
    }

    #[inline]
    pub(crate) fn close(mut self) -> Result<()> {
        self.open = false;
        routing::pop::<B>(self.token, self.site)
    }
}

impl<B: Backend> Drop for Frame<B> {
    fn drop(&mut self) {
        if self.open {
            // A wrong order was an early exit's or a leak's doing; the outer frame, which is closed
            // by hand, reports it.
            let _ = routing::pop::<B>(self.token, self.site);
        }
    }
}

/// An open scope of a group: the thread's allocations go to the group's arena, in NCCL symmetric
/// memory.
///
/// Opened by [`Group::scope`](crate::Group::scope), by [`symm!`](crate::symm) and by
/// [`#[symmetric]`](macro@crate::symmetric). [`close`](Scope::close) registers what the scope
/// touched and is where an error of that is seen. **Drop never waits**: it ends the redirection and
/// leaves what is pending to the group's next close or collective, which registers it before
/// anything can use it.
///
/// ```
/// use symm_core::{Host, World, groups};
/// groups! { pub Tp = "tp"; }
///
/// World::<Host>::run(2, |world| {
///     let tp = world.split::<Tp>(0, 0)?;
///     let scope = tp.scope()?;
///     let mut x = scope.zeros::<f32>(16)?;
///     scope.close()?; // registers the segment that x lies in, on both ranks
///     let path = tp.all_reduce_in_place(&mut x, symm_core::ReduceOp::Sum)?;
///     assert_eq!(path, symm_core::Path::Symmetric);
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[must_use = "a scope redirects allocation while it is open: keep it, and close() it"]
pub struct Scope<G: GroupTag = Dyn, B: Backend = Cuda> {
    /// Its frame of the thread's routing.
    token: Token,
    site: Site,
    group: Arc<GroupCore<B>>,
    open: bool,
    enabled: bool,
    /// How manieth scope of the group on this rank it is.
    number: u64,
    _range: range::Span,
    _group: PhantomData<(StaysOnItsThread, fn() -> G)>,
}

impl<G: GroupTag, B: Backend> Scope<G, B> {
    #[inline]
    pub(crate) fn open(group: &Arc<GroupCore<B>>, enabled: bool, site: Site) -> Result<Self> {
        group.world.check()?;
        let token = match enabled {
            true => routing::push_scope(group, site)?,
            false => routing::push(site, Kind::Disabled(Arc::clone(group)))?,
        };
        Ok(Self {
            token,
            site,
            group: Arc::clone(group),
            open: true,
            enabled,
            number: group.scopes.fetch_add(1, Ordering::Relaxed),
            _range: range::span!("scope of {} at {site}", group.name()),
            _group: PhantomData,
        })
    }

    /// Ends the scope and registers the segments that it touched with the group. All ranks of the
    /// group close at the same point.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let scope = tp.scope()?;
    /// let x = scope.zeros::<f32>(16)?;
    /// assert_eq!(tp.windows(), 0);
    /// scope.close()?; // on both ranks: it meets the other one
    /// assert_eq!(tp.windows(), 1);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Registration`]; [`Error::ScopeOrder`] when a scope opened inside is still open or
    /// was leaked.
    #[inline]
    pub fn close(mut self) -> Result<()> {
        self.open = false;
        routing::pop::<B>(self.token, self.site)?;
        match self.enabled && round::is_due(&self.group) {
            true => self.register(),
            false => Ok(()),
        }
    }

    #[cold]
    fn register(&self) -> Result<()> {
        let _span = trace::scope(&self.group, self.site);
        round::settle(&self.group, self.site, self.due())
    }

    fn due(&self) -> Due {
        let link = self.group.link();
        let mark = link.agreement.as_ref();
        mark.map_or(Due::Call, |board| Due::Scope(board.scope(self.number)))
    }

    /// A buffer of this scope's group for `len` elements; undefined contents on CUDA, zeros on the
    /// host backend.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let scope = tp.scope()?;
    /// let x = scope.empty::<f32>(1000)?; // the type of its group is the scope's
    /// scope.close()?;
    /// assert_eq!((x.len(), x.is_symmetric()), (1000, true));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::BudgetExceeded`], [`Error::Sealed`], [`Error::TooLarge`].
    #[inline]
    #[track_caller]
    pub fn empty<T: Element>(&self, len: usize) -> Result<SymmBuf<T, G, B>> {
        SymmBuf::in_scope(&self.group, self.enabled, len, Location::caller())
    }

    /// A buffer of zeros.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let scope = tp.scope()?;
    /// let x = scope.zeros::<f32>(3)?;
    /// scope.close()?;
    /// assert_eq!(x.to_vec()?, [0.0; 3]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`empty`](Scope::empty).
    #[track_caller]
    pub fn zeros<T: Element>(&self, len: usize) -> Result<SymmBuf<T, G, B>> {
        self.empty(len)?.zeroed()
    }

    /// A buffer with a copy of `data`, whose length is the same on all ranks of the group.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let scope = tp.scope()?;
    /// let x = scope.from_slice(&[tp.rank() as i32, 5])?;
    /// scope.close()?;
    /// assert_eq!(x.to_vec()?, [tp.rank() as i32, 5]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`empty`](Scope::empty).
    #[track_caller]
    pub fn from_slice<T: Element>(&self, data: &[T]) -> Result<SymmBuf<T, G, B>> {
        self.empty(data.len())?.filled(data)
    }

    /// It was not closed: it was left by an error or a panic. Never waits.
    #[cold]
    fn leave(&mut self) {
        // A wrong order is reported by the outer frame, which is closed by hand.
        let _ = routing::pop::<B>(self.token, self.site);
        if let (true, Some(agreement)) = (self.enabled, &self.group.link().agreement) {
            agreement.leave_scope(agreement.scope(self.number), self.site);
        }
    }

    pub(crate) fn fate(&self) -> Fate<B> {
        Fate::of(&self.group.world)
    }

    /// Where the scope was opened.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let (scope, line) = (tp.scope()?, line!());
    /// assert_eq!((scope.site().file(), scope.site().line()), (file!(), line));
    /// scope.close()?;
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn site(&self) -> Site {
        self.site
    }
}

impl<G: GroupTag, B: Backend> Drop for Scope<G, B> {
    #[inline]
    fn drop(&mut self) {
        if self.open {
            self.leave();
        }
    }
}

impl<G: GroupTag, B: Backend> fmt::Debug for Scope<G, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("group", &self.group.label())
            .field("site", &self.site)
            .field("enabled", &self.enabled)
            .finish()
    }
}

/// While it lives, allocations of this thread are ordinary memory, also inside scopes. For what
/// only one rank needs.
///
/// ```
/// use symm_core::{Buf, Host, World, groups, symm};
/// groups! { pub Tp = "tp"; }
///
/// World::<Host>::run(2, |world| {
///     let tp = world.split::<Tp>(0, 0)?;
///     symm!(group = tp, {
///         let redirected: Buf<f32, Host> = Buf::empty(8)?;
///         assert!(redirected.is_symmetric());
///         let _ordinary = tp.suspend()?;
///         let table: Buf<f32, Host> = Buf::empty(1 + world.rank())?; // as long as this rank likes
///         assert!(!table.is_symmetric());
///     })
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[must_use = "allocation is ordinary while the suspension lives"]
pub struct Suspension<B: Backend> {
    frame: Frame<B>,
}

impl<B: Backend> Suspension<B> {
    pub(crate) fn open(site: Site) -> Result<Self> {
        Ok(Self {
            frame: Frame::open(site, Kind::Suspended)?,
        })
    }

    /// Ends it here, and reports a wrong order.
    ///
    /// ```
    /// # use symm_core::{Buf, Host, World, groups};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let scope = tp.scope()?;
    /// let ordinary = tp.suspend()?;
    /// let mine: Buf<f32, Host> = Buf::empty(8)?;
    /// ordinary.resume()?;
    /// let ours: Buf<f32, Host> = Buf::empty(8)?;
    /// scope.close()?;
    /// assert!(!mine.is_symmetric() && ours.is_symmetric());
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::ScopeOrder`] when a scope opened inside is still open.
    pub fn resume(self) -> Result<()> {
        self.frame.close()
    }
}

impl<B: Backend> fmt::Debug for Suspension<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Suspension")
            .field("site", &self.frame.site)
            .finish()
    }
}

/// While it lives, allocations, copies and collectives of this thread use its stream.
///
/// A buffer that is used on several streams is ordered by events: every use waits for the
/// conflicting ones before it.
///
/// ```
/// use symm_core::{Host, World};
///
/// World::<Host>::run(1, |world| {
///     let x = world.pool().from_slice(&[1.0f32; 4])?; // on the world's stream
///     let side = world.new_stream()?;
///     let guard = world.on_stream(&side)?;
///     assert_eq!(x.to_vec()?, [1.0; 4]); // on `side`, behind the copy to the device
///     guard.end()
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[must_use = "the stream is current while the guard lives"]
pub struct StreamScope<B: Backend> {
    frame: Frame<B>,
}

impl<B: Backend> StreamScope<B> {
    pub(crate) fn open(stream: &B::Stream, site: Site) -> Result<Self> {
        Ok(Self {
            frame: Frame::open(site, Kind::Stream(stream.clone()))?,
        })
    }

    /// Ends it here, and reports a wrong order.
    ///
    /// ```
    /// # use symm_core::{Error, Host, World};
    /// # World::<Host>::run(1, |world| {
    /// # let [one, other] = [world.new_stream()?, world.new_stream()?];
    /// let (outer, _inner) = (world.on_stream(&one)?, world.on_stream(&other)?);
    /// assert!(matches!(outer.end(), Err(Error::ScopeOrder { .. }))); // the inner one goes first
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::ScopeOrder`] when a scope opened inside is still open.
    pub fn end(self) -> Result<()> {
        self.frame.close()
    }
}

impl<B: Backend> fmt::Debug for StreamScope<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamScope")
            .field("site", &self.frame.site)
            .finish()
    }
}
