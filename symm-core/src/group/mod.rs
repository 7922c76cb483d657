//! Groups: ranks that communicate, told apart by type.

pub(crate) mod agree;
mod batch;
mod cache;
mod calibrate;
pub(crate) mod calibration;
pub(crate) mod call;
mod collective;
pub(crate) mod communicator;
pub(crate) mod config;
mod connect;
pub(crate) mod core;
pub(crate) mod counts;
mod env;
mod inventory;
mod join;
pub(crate) mod link;
pub(crate) mod path;
mod prepare;
mod progress;
mod rebuild;
mod reclaim;
mod run;
mod shipped;
pub(crate) mod sleep;
pub(crate) mod split;
mod start;
mod streams;
pub(crate) mod strict;
pub(crate) mod table;
pub(crate) mod tag;
pub(crate) mod twin;
pub(crate) mod world;

use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;

pub use batch::Batch;

use self::calibration::Calibration;
use self::core::GroupCore;
use self::counts::PathCount;
use self::strict::Strict;
use self::tag::{Dyn, GroupTag};
use crate::Cuda;
use crate::backend::Backend;
use crate::buffer::SymmBuf;
use crate::capture::active;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::pool::usage::Claim;
use crate::registration::round::{self, Due};
use crate::registration::trim;
use crate::scope::routing::{self, Inside};
use crate::scope::{Scope, Suspension};
use crate::site::Site;

/// A group of ranks with one communicator, seen from one of them.
///
/// A cheap handle: clones name the same group. `Send` and `Sync`, but one thread at a time uses a
/// group ([`Error::GroupBusy`]), or its ranks would come to differ. The communicator lives until
/// the last handle and the last buffer are gone.
///
/// Made with [`World::split`](crate::World::split); the tag `G` is what the compiler checks, the
/// instance is checked when a call is made.
///
/// ```
/// use symm_core::{Group, Host, World, groups};
/// groups! { pub Tp = "tp"; }
///
/// World::<Host>::run(4, |world| {
///     let tp: Group<Tp, Host> = world.split(world.rank() / 2, world.rank())?; // {0, 1} and {2, 3}
///     assert_eq!((tp.size(), tp.rank()), (2, world.rank() % 2));
///     assert_eq!(tp.clone().id(), tp.id()); // the same group
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
pub struct Group<G: GroupTag = Dyn, B: Backend = Cuda> {
    core: Arc<GroupCore<B>>,
    _group: PhantomData<fn() -> G>,
}

impl<G: GroupTag, B: Backend> Group<G, B> {
    pub(crate) fn new(core: Arc<GroupCore<B>>) -> Self {
        Self {
            core,
            _group: PhantomData,
        }
    }

    pub(crate) fn core(&self) -> &Arc<GroupCore<B>> {
        &self.core
    }

    /// This rank's number in the group.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// let reversed = world.split::<Tp>(0, 10 - world.rank())?; // ordered by the key
    /// assert_eq!(reversed.rank(), 1 - world.rank());
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn rank(&self) -> usize {
        self.core.rank
    }

    /// Number of ranks.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(3, |world| {
    /// let parity = world.split::<Tp>(world.rank() % 2, 0)?; // {0, 2} and {1}
    /// assert_eq!(parity.size(), [2, 1, 2][world.rank()]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn size(&self) -> usize {
        self.core.size()
    }

    /// The ranks of the world that form the group, by their rank in the group.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(4, |world| {
    /// let parity = world.split::<Tp>(world.rank() % 2, 0)?;
    /// assert_eq!(parity.members(), [[0, 2], [1, 3]][world.rank() % 2]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn members(&self) -> &[usize] {
        &self.core.members
    }

    /// The tag's name, or the one given to [`World::split_dyn`](crate::World::split_dyn).
    ///
    /// ```
    /// # use symm_core::{Host, World, groups};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// let (tp, experts) = (world.split::<Tp>(0, 0)?, world.split_dyn("experts", 0, 0)?);
    /// assert_eq!((tp.name(), experts.name()), ("tp", "experts"));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn name(&self) -> &str {
        self.core.name()
    }

    /// The generation of the group: no two groups of a process share one. Where ranks are threads,
    /// each rank has another for the same group. The number in messages and snapshots, as in `tp#2`,
    /// is the world's: the same on all ranks of the group, and of no other group of the world.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// let (one, other) = (world.split::<Tp>(0, 0)?, world.split::<Tp>(0, 0)?);
    /// assert_ne!(one.id(), other.id()); // two groups, although of one tag and the same ranks
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn id(&self) -> u64 {
        self.core.generation
    }

    /// Number of segments that have a window in this group.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// assert_eq!(tp.windows(), 0);
    /// let (x, y) = symm!(group = tp, { (tp.empty::<f32>(16)?, tp.empty::<f32>(16)?) })?;
    /// assert_eq!(tp.windows(), 1); // both lie in one segment
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn windows(&self) -> usize {
        self.core.link().ledger().windows()
    }

    /// Which reasons for a plain path are allowed: any other is [`Error::NotSymmetric`] on all ranks,
    /// and nothing is launched. [`Strict::off`] by default, [`Strict::new`] where the world is strict
    /// ([`Config::strict`](crate::Config::strict), `SYMM_STRICT=1`). The same on all ranks.
    ///
    /// ```
    /// # use symm_core::{Error, Host, Reason, ReduceOp, Strict, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let mut x = symm!(group = tp, when = false, { tp.zeros::<f32>(4)? })?;
    /// tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?; // plain, because the scope was off
    /// tp.set_strict(Strict::new());
    /// let refused = tp.all_reduce_in_place(&mut x, ReduceOp::Sum);
    /// assert!(matches!(refused, Err(Error::NotSymmetric { reason: Reason::Disabled, .. })));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn set_strict(&self, strict: Strict) {
        self.core.strictness.set(strict);
    }

    /// How often each operation took which path since the group was made.
    ///
    /// ```
    /// # use symm_core::{Host, Path, Reason, ReduceOp, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let mut x = symm!(group = tp, { tp.zeros::<f32>(4)? })?;
    /// tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    /// tp.broadcast_in_place(&mut x, 0)?;
    /// let [sums, broadcasts] = &tp.counts()[..] else { panic!("two operations, one path each") };
    /// assert_eq!((sums.calls, sums.path), (1, Path::Symmetric));
    /// assert_eq!((broadcasts.calls, broadcasts.path), (1, Path::Plain(Reason::NoKernel)));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn counts(&self) -> Vec<PathCount> {
        self.core.counts.list()
    }

    /// The name of the arena that the group allocates from, as in
    /// [`ArenaStats::name`](crate::ArenaStats::name).
    ///
    /// ```
    /// # use symm_core::{Host, World, groups};
    /// groups! { pub Tp = "tp"; pub Cp = "cp"; pub Ep = "ep"; arena(Tp, Cp); }
    /// # World::<Host>::run(2, |world| {
    /// # let (tp, cp) = (world.split::<Tp>(0, 0)?, world.split::<Cp>(0, 0)?);
    /// # let ep = world.split::<Ep>(0, 0)?;
    /// assert_eq!(tp.arena(), cp.arena());
    /// assert_ne!(tp.arena(), ep.arena());
    /// assert!(world.pool().stats().arenas.iter().any(|arena| arena.name == ep.arena()));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn arena(&self) -> &str {
        self.core.arena.name()
    }

    /// Opens a scope: until it is closed, this thread's allocations go to the group's arena.
    ///
    /// ```
    /// # use symm_core::{Buf, Host, World, groups};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let scope = tp.scope()?;
    /// let inside: Buf<f32, Host> = Buf::empty(8)?;
    /// scope.close()?;
    /// let outside: Buf<f32, Host> = Buf::empty(8)?;
    /// assert!(inside.is_symmetric() && !outside.is_symmetric());
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::GroupBusy`] when another thread uses the group or its arena; [`Error::Poisoned`].
    #[track_caller]
    pub fn scope(&self) -> Result<Scope<G, B>> {
        Scope::open(&self.core, true, Site::caller())
    }

    /// As [`scope`](Group::scope), switched off where `when` is false: buffers are ordinary memory
    /// then, and collectives on them report `Plain(Disabled)`. All ranks of the group pass the
    /// same.
    ///
    /// ```
    /// # use symm_core::{Host, Path, Reason, ReduceOp, World, groups};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let decoding = false; // the same on all ranks
    /// let scope = tp.scope_when(decoding)?;
    /// let mut x = scope.zeros::<f32>(4)?;
    /// scope.close()?;
    /// let path = tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    /// assert_eq!(path, Path::Plain(Reason::Disabled));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`scope`](Group::scope).
    #[track_caller]
    pub fn scope_when(&self, when: bool) -> Result<Scope<G, B>> {
        Scope::open(&self.core, when, Site::caller())
    }

    /// Makes this thread's allocations ordinary while the guard lives, also inside scopes of any
    /// group.
    ///
    /// ```
    /// # use symm_core::{Buf, Host, World, groups};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let scope = tp.scope()?;
    /// let ordinary = tp.suspend()?;
    /// let table: Buf<f32, Host> = Buf::empty(1 + tp.rank())?; // of another length on each rank
    /// ordinary.resume()?;
    /// scope.close()?;
    /// assert!(!table.is_symmetric());
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Only while the thread is being torn down.
    #[track_caller]
    pub fn suspend(&self) -> Result<Suspension<B>> {
        Suspension::open(Site::caller())
    }

    /// Adds a segment of at least `bytes` to the group's arena and registers it. All ranks of the
    /// group call it at the same point.
    ///
    /// Registration costs milliseconds and waits for peers; a server reserves at its start what it
    /// will need, and [`seal`](crate::Pool::seal)s.
    ///
    /// ```
    /// use symm_core::{Host, World, groups};
    /// groups! { pub Tp = "tp"; }
    /// World::<Host>::run(2, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     tp.reserve(100 << 20)?;
    ///     world.pool().seal();
    ///     assert_eq!((tp.windows(), world.pool().stats().reserved_bytes), (1, 100 << 20));
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::BudgetExceeded`], [`Error::Sealed`],
    /// [`Error::Registration`], [`Error::GroupBusy`].
    #[track_caller]
    pub fn reserve(&self, bytes: u64) -> Result<()> {
        let site = Site::caller();
        self.core.world.check()?;
        let _inside = Inside::new(&self.core, Claim::Scope, site)?;
        active::refuse(
            &self.core.world,
            "reserving memory",
            "reserve before the capture",
        )?;
        let arena = &self.core.arena;
        let segment = arena.reserve(bytes)?;
        self.core
            .link()
            .ledger()
            .touch(arena.id, segment, || arena.segment(segment));
        round::settle(&self.core, site, Due::Call)
    }

    /// Gives memory back to the device: segments at the end of the group's arena that are empty on
    /// all ranks, with their windows. Returns their bytes on this rank, which are free when it
    /// returns. All ranks of the group call it at the same point; it waits for them, and for the work
    /// that used the arena.
    ///
    /// What [`Shared`](crate::Shared) buffers held that all ranks have dropped returns to the arena
    /// first. Segments before one that is in use stay: a server drops what it wants to be rid of
    /// before it trims. An arena that several groups share is trimmed by any one of them, for all.
    ///
    /// ```
    /// use symm_core::{Host, World, groups, symm};
    /// groups! { pub Tp = "tp"; }
    /// World::<Host>::run(2, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     let large = symm!(group = tp, { tp.empty::<u8>(100 << 20)? })?;
    ///     assert_eq!(tp.trim()?, 0); // it is in use
    ///     drop(large);
    ///     assert_eq!(tp.trim()?, 100 << 20);
    ///     assert_eq!((tp.windows(), world.pool().stats().reserved_bytes), (0, 0));
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unsupported`] where groups of different ranks share the arena, and for a communicator
    /// of another maker; [`Error::GroupBusy`]; [`Error::RanksDiffer`]; [`Error::InCapture`].
    #[track_caller]
    pub fn trim(&self) -> Result<u64> {
        trim::trim(&self.core, Site::caller())
    }

    /// Measures, for each operation, type and size that symmetric kernels take, whether they are
    /// faster on this machine than NCCL's ordinary kernels on the same memory, and has the group's
    /// collectives go the faster way from here on. All ranks of the group call it at the same point;
    /// on GPUs it takes about a second, with a line on rank 0's terminal.
    ///
    /// A window makes small messages faster by up to 2 times, and some larger ones slower by as much.
    /// NCCL takes the window wherever it has one, so what is faster without it runs on a **twin**: a
    /// second communicator of the same ranks on which nothing is registered. Such calls return
    /// [`Path::Plain`](crate::Path::Plain)`(`[`Reason::Faster`](crate::Reason::Faster)`)`, and strict
    /// groups allow them. Only a win of more than 3% takes a call off the window; calls of a
    /// [`batch`](Group::batch) stay on it.
    ///
    /// The slowest rank's median counts, and all ranks get rank 0's table. Rank 0 also keeps it for
    /// the next start ([`Config::cache_dir`](crate::Config::cache_dir)), by GPU, number of ranks,
    /// NCCL's version and its settings, unless the repeats differed too much. A group that is made
    /// later starts with what was kept ([`Config::tuned`](crate::Config::tuned) switches that off),
    /// else with the table that is shipped for its GPU, else with NCCL's own choice. Its twin is then
    /// made with its first window. A twin takes as long to make as a communicator and memory of NCCL's own:
    /// [`PoolStats::twins`](crate::PoolStats::twins) counts them. Graphs go on as they were captured.
    ///
    /// Calibrate before the pool is [sealed](crate::Pool::seal), and while the GPUs do nothing else:
    /// memory for two buffers of 64 MiB is taken meanwhile (of 8 MiB where there is no more).
    ///
    /// ```
    /// use std::env::temp_dir;
    /// use symm_core::{Config, Host, Path, Reason, ReduceOp, groups, host, symm};
    /// groups! { pub Tp = "tp"; }
    /// // A machine whose sums of 16 KiB and more are slower on windows.
    /// let options = host::Options::default().costs("slow sums", |call| {
    ///     let large = call.operation == "all_reduce" && call.bytes >= 16 << 10;
    ///     if call.symmetric == large { 20_000 } else { 10_000 }
    /// });
    /// let config = Config::<Host>::default().options(options).cache_dir(temp_dir().join("symm-doc"));
    /// config.run(2, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     let found = tp.calibrate()?;
    ///     assert!(found.points.iter().any(|point| point.bytes == 64 << 10 && !found.noisy));
    ///     let (mut small, mut large) = symm!(group = tp, {
    ///         (tp.zeros::<f32>(64)?, tp.zeros::<f32>(8 << 10)?)
    ///     })?;
    ///     assert_eq!(tp.all_reduce_in_place(&mut small, ReduceOp::Sum)?, Path::Symmetric);
    ///     let path = tp.all_reduce_in_place(&mut large, ReduceOp::Sum)?;
    ///     assert_eq!((path, world.pool().stats().twins), (Path::Plain(Reason::Faster), 1));
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Sealed`], [`Error::OutOfMemory`], [`Error::BudgetExceeded`], and
    /// [`Error::PeerFailed`] on the ranks whose peer had that: the group stays as it was.
    /// [`Error::Unsupported`] for a communicator of another maker; [`Error::InCapture`];
    /// [`Error::GroupBusy`]; [`Error::RanksDiffer`]; those of the backend, which end the world.
    #[track_caller]
    pub fn calibrate(&self) -> Result<Calibration> {
        calibrate::calibrate(&self.core, Site::caller())
    }

    /// A buffer of this group for `len` elements, in this thread's innermost scope of the group's
    /// tag, which must be this group's. Undefined contents on CUDA, zeros on the host backend.
    /// `len` is the same on all ranks.
    ///
    /// ```
    /// # use symm_core::{Error, Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let x = symm!(group = tp, { tp.empty::<f32>(1000)? })?;
    /// assert_eq!((x.len(), x.num_bytes()), (1000, 4000));
    /// let outside = tp.empty::<f32>(1000); // in no scope of tp
    /// assert!(matches!(outside, Err(Error::NoScope { group: "tp" })));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NoScope`], [`Error::WrongScope`]; else as for [`Scope::empty`].
    #[track_caller]
    pub fn empty<T: Element>(&self, len: usize) -> Result<SymmBuf<T, G, B>> {
        let enabled = routing::scope_is(&self.core)?;
        SymmBuf::in_scope(&self.core, enabled, len, Location::caller())
    }

    /// A buffer of zeros.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let x = symm!(group = tp, { tp.zeros::<i64>(3)? })?;
    /// assert_eq!(x.to_vec()?, [0, 0, 0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`empty`](Group::empty).
    #[track_caller]
    pub fn zeros<T: Element>(&self, len: usize) -> Result<SymmBuf<T, G, B>> {
        self.empty(len)?.zeroed()
    }

    /// A buffer with a copy of `data`, whose length is the same on all ranks.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let x = symm!(group = tp, { tp.from_slice(&[tp.rank() as f32, 0.5])? })?;
    /// assert_eq!(x.to_vec()?, [tp.rank() as f32, 0.5]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`empty`](Group::empty).
    #[track_caller]
    pub fn from_slice<T: Element>(&self, data: &[T]) -> Result<SymmBuf<T, G, B>> {
        self.empty(data.len())?.filled(data)
    }

    /// The same group, chosen at run time from here on.
    ///
    /// ```
    /// # use symm_core::{Dyn, Group, Host, World, groups};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let groups: Vec<Group<Dyn, Host>> = vec![tp.erase(), world.split_dyn("experts", 0, 0)?];
    /// let names: Vec<&str> = groups.iter().map(|group| group.name()).collect();
    /// assert_eq!(names, ["tp", "experts"]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn erase(self) -> Group<Dyn, B> {
        Group::new(self.core)
    }
}

impl<B: Backend> Group<Dyn, B> {
    /// The same group with its tag, if that is `G`.
    ///
    /// ```
    /// use symm_core::{Group, Host, World, groups};
    /// groups! { pub Tp = "tp"; pub Cp = "cp"; }
    /// World::<Host>::run(1, |world| {
    ///     let any = world.split::<Tp>(0, 0)?.erase();
    ///     let any = any.downcast::<Cp>().unwrap_err().0;
    ///     let tp: Group<Tp, Host> = any.downcast()?;
    ///     assert_eq!(tp.name(), "tp");
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// The group comes back with [`Error::WrongTag`].
    pub fn downcast<G: GroupTag>(self) -> Result<Group<G, B>, (Self, Error)> {
        match self.core.has_tag::<G>() {
            true => Ok(Group::new(self.core)),
            false => {
                let error = Error::WrongTag {
                    group: self.core.label().into(),
                    found: self.core.tag_type,
                    wanted: core::tag_type::<G>(),
                };
                Err((self, error))
            }
        }
    }
}

impl<G: GroupTag, B: Backend> Clone for Group<G, B> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.core))
    }
}

/// So that `?` follows a `downcast` whose value is of no further use.
impl<G: GroupTag, B: Backend> From<(Group<G, B>, Error)> for Error {
    fn from((_, error): (Group<G, B>, Error)) -> Self {
        error
    }
}

impl<G: GroupTag, B: Backend> fmt::Debug for Group<G, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("label", &self.core.label())
            .field("members", &self.members())
            .field("arena", &self.arena())
            .finish()
    }
}
