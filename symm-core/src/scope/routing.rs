//! Where a thread's allocations go: the stack of scopes, suspensions and streams that are open on
//! it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Weak};

use crate::backend::driver::Driver;
use crate::backend::{Backend, Cuda, Host};
use crate::capture::active::Active;
use crate::error::{Error, Result};
use crate::group::core::GroupCore;
use crate::group::tag::GroupTag;
use crate::group::world::Rank;
use crate::pool::usage::Claim;
use crate::site::Site;

/// One thread's routing for one backend.
#[doc(hidden)]
#[derive(Debug)]
pub struct Routing<B: Backend> {
    frames: RefCell<Vec<Frame<B>>>,
    next: Cell<u64>,
    /// Number of passes among the frames: what every allocation asks.
    passes: Cell<usize>,
    /// Number of frames that bear a stream, which every use of memory asks.
    streams: Cell<usize>,
    /// The world that was made last on this thread, for ordinary memory outside scopes.
    home: RefCell<Weak<Rank<B>>>,
}

/// What was opened, and where.
#[derive(Debug)]
struct Frame<B: Backend> {
    token: Token,
    site: Site,
    kind: Kind<B>,
}

/// Names a frame of its thread; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token(u64);

#[derive(Debug)]
pub(crate) enum Kind<B: Backend> {
    /// Allocations go to the group's arena.
    Scope(Entry<B>),
    /// A scope that is switched off: they are ordinary.
    Disabled(Arc<GroupCore<B>>),
    /// Allocations are ordinary.
    Suspended,
    /// Work and allocations use this stream.
    Stream(B::Stream),
    /// A prime or a capture: allocations go to its pool, in whichever scope; its stream is current.
    Pass(Rc<Active<B>>),
}

impl<B: Backend> Kind<B> {
    /// The group of a scope, and whether the scope is switched on.
    fn scope(&self) -> Option<(&Arc<GroupCore<B>>, bool)> {
        match self {
            Kind::Scope(entry) => Some((&entry.0, true)),
            Kind::Disabled(group) => Some((group, false)),
            Kind::Suspended | Kind::Stream(_) | Kind::Pass(_) => None,
        }
    }

    #[inline]
    fn is_scope(&self) -> bool {
        matches!(self, Kind::Scope(_))
    }

    /// Whether it says which stream is current.
    fn has_stream(&self) -> bool {
        matches!(self, Kind::Stream(_) | Kind::Pass(_))
    }
}

/// A thread's claim on an arena, given back on every way out.
#[derive(Debug)]
pub(crate) struct Inside<'a, B: Backend> {
    group: &'a GroupCore<B>,
    claim: Claim,
}

impl<'a, B: Backend> Inside<'a, B> {
    /// Lets this thread in, or fails with `GroupBusy`.
    #[inline]
    pub(crate) fn new(group: &'a GroupCore<B>, claim: Claim, site: Site) -> Result<Self> {
        enter(group, claim, site)?;
        Ok(Self { group, claim })
    }
}

#[inline]
fn enter<B: Backend>(group: &GroupCore<B>, claim: Claim, site: Site) -> Result<()> {
    let entered = group.arena.enter(claim, site);
    entered.map_err(|there| busy(group, site, there))
}

impl<B: Backend> Drop for Inside<'_, B> {
    #[inline]
    fn drop(&mut self) {
        self.group.arena.leave(self.claim);
    }
}

/// A scope's claim, which keeps its group.
#[derive(Debug)]
pub(crate) struct Entry<B: Backend>(Arc<GroupCore<B>>);

impl<B: Backend> Entry<B> {
    /// As [`Inside::new`].
    #[inline]
    pub(crate) fn new(group: &Arc<GroupCore<B>>, site: Site) -> Result<Self> {
        enter(group, Claim::Scope, site)?;
        Ok(Self(Arc::clone(group)))
    }
}

#[cold]
fn busy<B: Backend>(group: &GroupCore<B>, here: Site, there: Site) -> Error {
    Error::GroupBusy {
        group: group.label().into(),
        here,
        there,
    }
}

impl<B: Backend> Drop for Entry<B> {
    #[inline]
    fn drop(&mut self) {
        self.0.arena.leave(Claim::Scope);
    }
}

/// Where an untyped allocation goes.
#[derive(Debug)]
pub(crate) enum Target<B: Backend> {
    /// The arena of this group.
    Arena(Arc<GroupCore<B>>),
    /// Ordinary memory of this rank.
    Plain(Arc<Rank<B>>),
}

impl<B: Backend> Routing<B> {
    /// Nothing open, no world. `const`, so that the thread-local needs no lazy initialisation.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self {
            frames: RefCell::new(Vec::new()),
            next: Cell::new(0),
            passes: Cell::new(0),
            streams: Cell::new(0),
            home: RefCell::new(Weak::new()),
        }
    }

    fn has_scope(&self) -> bool {
        self.frames
            .borrow()
            .iter()
            .any(|frame| frame.kind.scope().is_some())
    }

    #[inline]
    fn push(&self, site: Site, kind: Kind<B>) -> Token {
        let token = Token(self.next.get());
        self.next.set(token.0 + 1);
        if kind.has_stream() {
            self.streams.set(self.streams.get() + 1);
        }
        if matches!(kind, Kind::Pass(_)) {
            self.passes.set(self.passes.get() + 1);
        }
        self.frames.borrow_mut().push(Frame { token, site, kind });
        token
    }

    /// Counts a frame out that was taken from the stack.
    fn gone(&self, kind: &Kind<B>) {
        if kind.has_stream() {
            self.streams.set(self.streams.get() - 1);
        }
        if matches!(kind, Kind::Pass(_)) {
            self.passes.set(self.passes.get() - 1);
        }
    }

    /// The innermost stream of the device.
    #[cold]
    fn stream_on(&self, device: &B::Device) -> Option<B::Stream> {
        let frames = self.frames.borrow();
        frames.iter().rev().find_map(|frame| match &frame.kind {
            Kind::Stream(stream) if B::stream_on(device, stream) => Some(stream.clone()),
            Kind::Pass(pass) if B::stream_on(device, &pass.stream) => Some(pass.stream.clone()),
            _ => None,
        })
    }

    /// Removes the frame if it is the innermost, and a scope's.
    #[inline]
    fn pop_scope(&self, token: Token) -> Option<Entry<B>> {
        let mut frames = self.frames.borrow_mut();
        let innermost = frames.pop_if(|last| last.token == token && last.kind.is_scope())?;
        match innermost.kind {
            Kind::Scope(entry) => Some(entry),
            _ => None,
        }
    }

    /// Removes the frame and all that were opened inside it and are still open; the first of those
    /// makes it an error.
    fn pop_with_inner(&self, token: Token, site: Site) -> Result<()> {
        let mut frames = self.frames.borrow_mut();
        let Some(index) = frames.iter().rposition(|frame| frame.token == token) else {
            // An outer scope was closed first and took this one along.
            return Err(Error::ScopeOrder {
                closed: site,
                inner: site,
            });
        };
        let inner = frames.get(index + 1).map(|frame| frame.site);
        let closed: Vec<_> = frames.drain(index..).collect();
        drop(frames);
        closed.iter().for_each(|frame| self.gone(&frame.kind));
        drop(closed);
        match inner {
            None => Ok(()),
            Some(inner) => Err(Error::ScopeOrder {
                closed: site,
                inner,
            }),
        }
    }
}

/// Opens a scope of the group on this thread, or fails with `GroupBusy`.
#[inline]
pub(crate) fn push_scope<B: Backend>(group: &Arc<GroupCore<B>>, site: Site) -> Result<Token> {
    let pushed = B::routing(|routing| {
        let entry = Entry::new(group, site)?;
        Ok(routing.push(site, Kind::Scope(entry)))
    });
    pushed.unwrap_or_else(|| Err(thread_ends()))
}

/// Opens a frame on this thread.
pub(crate) fn push<B: Backend>(site: Site, kind: Kind<B>) -> Result<Token> {
    B::routing(|routing| routing.push(site, kind)).ok_or_else(thread_ends)
}

/// Closes it.
#[inline(always)]
pub(crate) fn pop<B: Backend>(token: Token, site: Site) -> Result<()> {
    match B::routing(|routing| routing.pop_scope(token)).flatten() {
        // Outside of the borrow, because it may be the last handle of its group.
        Some(entry) => {
            drop(entry);
            Ok(())
        }
        None => pop_other::<B>(token, site),
    }
}

#[cold]
fn pop_other<B: Backend>(token: Token, site: Site) -> Result<()> {
    B::routing(|routing| routing.pop_with_inner(token, site)).unwrap_or(Ok(()))
}

/// Makes the world this thread's home.
pub(crate) fn set_home<B: Backend>(rank: &Arc<Rank<B>>) {
    B::routing(|routing| *routing.home.borrow_mut() = Arc::downgrade(rank));
}

/// Closes whatever is left open on this thread, and says where the outermost of it was opened.
pub(crate) fn clear<B: Backend>() -> Option<Site> {
    let left = B::routing(|routing| {
        routing.passes.set(0);
        routing.streams.set(0);
        std::mem::take(&mut *routing.frames.borrow_mut())
    })?;
    left.first().map(|frame| frame.site)
}

/// The stream that work of this rank uses on this thread: the innermost stream scope's, else the
/// world's.
#[inline]
pub(crate) fn stream<B: Backend>(rank: &Rank<B>) -> B::Stream {
    pushed_stream(rank).unwrap_or_else(|| rank.stream.clone())
}

/// The same, `None` for the world's.
#[inline]
pub(crate) fn pushed_stream<B: Backend>(rank: &Rank<B>) -> Option<B::Stream> {
    match has_stream::<B>() {
        true => B::routing(|routing| routing.stream_on(&rank.device)).flatten(),
        false => None,
    }
}

/// Whether a stream is open on this thread, a pass's included.
#[inline]
pub(crate) fn has_stream<B: Backend>() -> bool {
    B::routing(|routing| routing.streams.get() > 0).unwrap_or(false)
}

/// Whether a pass is under way on this thread.
#[inline]
pub(crate) fn has_pass<B: Backend>() -> bool {
    B::routing(|routing| routing.passes.get() > 0).unwrap_or(false)
}

/// The innermost pass on this thread that is wanted.
#[inline]
pub(crate) fn active<B: Backend>(wanted: impl Fn(&Active<B>) -> bool) -> Option<Rc<Active<B>>> {
    let found = B::routing(|routing| {
        if routing.passes.get() == 0 {
            return None;
        }
        let frames = routing.frames.borrow();
        frames.iter().rev().find_map(|frame| match &frame.kind {
            Kind::Pass(pass) if wanted(pass) => Some(Rc::clone(pass)),
            _ => None,
        })
    });
    found.flatten()
}

/// Where an untyped allocation goes: the innermost scope or suspension decides.
pub(crate) fn target<B: Backend>() -> Result<Target<B>> {
    let target = B::routing(|routing| {
        let innermost = routing
            .frames
            .borrow()
            .iter()
            .rev()
            .find_map(|frame| match &frame.kind {
                Kind::Scope(entry) => Some(Target::Arena(Arc::clone(&entry.0))),
                Kind::Disabled(group) => Some(Target::Plain(Arc::clone(&group.world))),
                Kind::Suspended => routing.home.borrow().upgrade().map(Target::Plain),
                Kind::Stream(_) | Kind::Pass(_) => None,
            });
        let captured = || {
            let frames = routing.frames.borrow();
            frames.iter().rev().find_map(|frame| match &frame.kind {
                Kind::Pass(pass) => Some(Target::Plain(Arc::clone(&pass.pool.rank))),
                _ => None,
            })
        };
        innermost
            .or_else(captured)
            .or_else(|| routing.home.borrow().upgrade().map(Target::Plain))
    });
    target.flatten().ok_or(Error::NoWorld { backend: B::NAME })
}

/// The group of the innermost scope of the tag, and whether the scope is switched on.
pub(crate) fn scope_of<G: GroupTag, B: Backend>() -> Result<(Arc<GroupCore<B>>, bool)> {
    find(|group: &GroupCore<B>| group.has_tag::<G>())?.ok_or_else(|| no_scope::<B>(G::NAME))
}

/// Whether the innermost scope of the group's tag is the group's own and switched on.
pub(crate) fn scope_is<B: Backend>(wanted: &Arc<GroupCore<B>>) -> Result<bool> {
    let (found, enabled) = find(|group: &GroupCore<B>| group.tag == wanted.tag)?
        .ok_or_else(|| no_scope::<B>(wanted.tag_name))?;
    match Arc::ptr_eq(&found, wanted) {
        true => Ok(enabled),
        false => Err(Error::WrongScope {
            wanted: wanted.label().into(),
            found: found.label().into(),
        }),
    }
}

#[allow(clippy::type_complexity)]
fn find<B: Backend>(
    matches: impl Fn(&GroupCore<B>) -> bool,
) -> Result<Option<(Arc<GroupCore<B>>, bool)>> {
    B::routing(|routing| {
        let frames = routing.frames.borrow();
        let visible = frames
            .iter()
            .rev()
            .take_while(|frame| !matches!(frame.kind, Kind::Suspended));
        visible.into_iter().find_map(|frame| {
            let (group, enabled) = frame.kind.scope()?;
            matches(group).then(|| (Arc::clone(group), enabled))
        })
    })
    .ok_or_else(thread_ends)
}

/// Looks at the other backend's stack too: `SymmBuf::<f32, Tp>` without a backend means Cuda, also
/// in a scope of the host backend.
fn no_scope<B: Backend>(group: &'static str) -> Error {
    let open = [
        (Host::NAME, Host::routing(Routing::has_scope)),
        (Cuda::NAME, Cuda::routing(Routing::has_scope)),
    ];
    match open
        .into_iter()
        .find(|&(name, open)| name != B::NAME && open == Some(true))
    {
        Some((found, _)) => Error::WrongBackend {
            wanted: B::NAME,
            found,
        },
        None => Error::NoScope { group },
    }
}

#[cold]
fn thread_ends() -> Error {
    Error::Config {
        what: "scopes cannot be used in the destructors of thread-local values".into(),
    }
}
