//! The first pass: the step runs, and leaves what it needs.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::active::Active;
use super::arena::GraphArena;
use super::compare::{self, ENDED_EARLY};
use super::need::{Expected, Need, Part, Place};
use super::pool::{GraphPool, PoolState};
use super::{Pass, active};
use crate::Cuda;
use crate::backend::Backend;
use crate::error::Result;
use crate::group::core::GroupCore;
use crate::scope::Frame;
use crate::scope::routing::Kind;
use crate::site::Site;

/// A step that runs to show what it needs, for code that cannot pass a closure to
/// [`GraphPool::capture`].
///
/// Between [`begin`](Prime::begin) and [`end`](Prime::end) this thread's allocations come from the
/// pool, and its current stream is the given one; the work is executed. Dropping it ends it.
///
/// ```
/// use symm_core::{Buf, Capture, GraphPool, Host, Prime, World, plain};
///
/// World::<Host>::run(1, |world| {
///     let x: Buf<f32, Host> = Buf::from_slice(&[1.0, 2.0])?;
///     let step = || -> symm_core::Result<Buf<f32, Host>> {
///         let mut y = Buf::empty(2)?;
///         y.copy_from(plain(&x))?;
///         Ok(y)
///     };
///     let graphs = GraphPool::new(world.pool());
///     let prime = Prime::begin(&graphs, world.stream())?;
///     let primed = step()?;
///     let need = prime.end()?;
///     drop(primed); // before the capture, or it counts as made to stay
///
///     let capture = Capture::begin(&graphs, &need, world.stream())?;
///     let output = step()?;
///     let mut graph = capture.end(output)?;
///     graph.launch()?;
///     assert_eq!(graph.output().to_vec()?, [1.0, 2.0]);
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[must_use = "a prime redirects allocation while it lives: keep it, and end() it"]
pub struct Prime<B: Backend = Cuda> {
    pool: Rc<PoolState<B>>,
    active: Rc<Active<B>>,
    /// `None` once it has ended.
    frame: Option<Frame<B>>,
}

impl<B: Backend> Prime<B> {
    /// Begins the pass, behind what the pool's graphs have done so far.
    ///
    /// ```
    /// # use symm_core::{Buf, Error, GraphPool, Host, Prime, World};
    /// # World::<Host>::run(1, |world| {
    /// # let graphs = GraphPool::new(world.pool());
    /// let mut x: Buf<f32, Host> = Buf::from_slice(&[1.0, 2.0])?;
    /// let prime = Prime::begin(&graphs, world.stream())?;
    /// x.fill_zero()?; // executed
    /// let inside = Prime::begin(&graphs, world.stream());
    /// assert!(matches!(inside, Err(Error::InCapture { .. })));
    /// prime.end()?;
    /// assert_eq!(x.to_vec()?, [0.0, 0.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InCapture`](crate::Error::InCapture) inside another pass;
    /// [`Error::WrongDevice`](crate::Error::WrongDevice) for a stream of another device.
    #[track_caller]
    pub fn begin(graphs: &GraphPool<B>, stream: &B::Stream) -> Result<Self> {
        Self::start(graphs, stream, Site::caller())
    }

    pub(crate) fn start(graphs: &GraphPool<B>, stream: &B::Stream, site: Site) -> Result<Self> {
        let pool = graphs.state();
        active::may_begin(&pool.rank, stream)?;
        pool.order.follow(stream)?;
        let active = Active::new(pool, Pass::Prime, stream, site, Vec::new());
        let frame = Frame::open(site, Kind::Pass(Rc::clone(&active)))?;
        for arena in pool.all_arenas() {
            arena.begin(true, Expected::default());
        }
        Ok(Self {
            pool: Rc::clone(pool),
            active,
            frame: Some(frame),
        })
    }

    /// Ends the pass, and says what the step needs.
    ///
    /// ```
    /// # use symm_core::{Buf, GraphPool, Host, Need, Prime, World};
    /// # World::<Host>::run(1, |world| {
    /// # let graphs = GraphPool::new(world.pool());
    /// let prime = Prime::begin(&graphs, world.stream())?;
    /// let y: Buf<f32, Host> = Buf::zeros(128)?;
    /// let need: Need<Host> = prime.end()?;
    /// assert_eq!(need.bytes(), 512);
    /// drop(y); // before a capture with `need`
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::ScopeOrder`](crate::Error::ScopeOrder) where a scope opened in it is still open.
    pub fn end(mut self) -> Result<Need<B>> {
        let closed = match self.frame.take() {
            Some(frame) => frame.close(),
            None => Ok(()),
        };
        let arenas = self.pool.all_arenas();
        let groups = self.active.groups();
        let mut need = Need::new();
        for arena in arenas {
            let place = self.pool.place_of(&arena, &groups);
            if let (Some(log), Some(place)) = (arena.end(), place) {
                need.parts.push(Part {
                    place,
                    bytes: 0,
                    log: Some((log, arena)),
                });
            }
        }
        need.groups = groups;
        self.pool.order.add(&self.active.stream);
        closed.map(|()| need)
    }
}

impl<B: Backend> PoolState<B> {
    /// What the arena stands for, with one of the groups to name it.
    fn place_of(
        &self,
        arena: &Rc<GraphArena<B>>,
        groups: &[Arc<GroupCore<B>>],
    ) -> Option<Place<B>> {
        if !arena.is_symmetric() {
            return Some(Place::Private);
        }
        let of = groups.iter().map(|group| Place::Group(group.clone()));
        of.into_iter().find(|place| {
            self.arena_of(place)
                .is_some_and(|known| Rc::ptr_eq(&known, arena))
        })
    }
}

impl<B: Backend> Drop for Prime<B> {
    fn drop(&mut self) {
        if let Some(frame) = self.frame.take() {
            drop(frame);
            for arena in self.pool.all_arenas() {
                arena.end();
            }
            self.pool.order.add(&self.active.stream);
            // Peers wait for this rank where their captures begin.
            compare::tell_failure(&self.active.groups(), ENDED_EARLY, self.active.site);
        }
    }
}

impl<B: Backend> fmt::Debug for Prime<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prime")
            .field("site", &self.active.site)
            .finish_non_exhaustive()
    }
}
