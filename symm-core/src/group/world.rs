//! A world: all ranks that start together, and this rank's place in it.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use super::communicator::Communicator;
use super::config::Config;
use super::connect::{connect, find_kernels};
use super::core::GroupCore;
use super::join::{Hosts, join};
use super::sleep::Asleep;
use super::split::Splits;
use super::start::Tuning;
use super::strict::Strict;
use crate::Cuda;
use crate::agreement::vitals::Vitals;
use crate::agreement::world::WorldBoard;
use crate::backend::Backend;
use crate::backend::driver::{Seat, Split};
use crate::error::{Error, Result};
use crate::launch::Launcher;
use crate::pool::reaper::Progress;
use crate::pool::{Pool, PoolCore};
use crate::scope::routing;

/// What everything of a rank shares.
#[derive(Debug)]
pub(crate) struct Rank<B: Backend> {
    pub(crate) seat: Seat,
    pub(crate) device: Arc<B::Device>,
    pub(crate) stream: B::Stream,
    pub(crate) pool: Arc<PoolCore<B>>,
    pub(crate) hosts: Hosts,
    pub(crate) vitals: Arc<Vitals<B>>,
    /// What groups may do when they are made.
    pub(crate) strict: Strict,
    /// Which paths they take first.
    pub(crate) tuning: Tuning,
    /// The communicator of all ranks, from which groups are split. Replaced when the world is
    /// rebuilt; `None` only while it is being dropped.
    pub(crate) trunk: Mutex<Option<Arc<Communicator<B>>>>,
    /// Whether symmetric kernels join all ranks, and so those of every group; not known on all
    /// backends.
    pub(crate) kernels: OnceLock<bool>,
    /// The lock keeps two threads from splitting at once.
    pub(crate) splits: Mutex<Splits>,
    /// Groups over communicators of other makers, so far.
    #[cfg(feature = "cuda")]
    pub(super) adopted: AtomicU64,
    /// What sleeps; `None` while the world is awake.
    pub(super) asleep: Mutex<Option<Asleep<B>>>,
    /// Meetings of suspensions so far.
    pub(super) sleeps: AtomicU64,
    /// To be rebuilt with the world.
    groups: Mutex<Vec<Weak<GroupCore<B>>>>,
}

impl<B: Backend> Rank<B> {
    /// Fails once the world has failed.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        self.vitals.check()
    }

    /// Ends the world for all ranks; the first cause stays.
    pub(crate) fn poison(&self, cause: &Error) {
        self.vitals.poison(cause);
    }

    pub(crate) fn add_group(&self, group: &Arc<GroupCore<B>>) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.retain(|known| known.strong_count() > 0);
        groups.push(Arc::downgrade(group));
    }

    pub(crate) fn live_groups(&self) -> Vec<Arc<GroupCore<B>>> {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.iter().filter_map(Weak::upgrade).collect()
    }
}

/// What ends a world from where nothing can be returned: `on_error = poison`.
#[derive(Debug)]
pub struct Fate<B: Backend>(Arc<Rank<B>>);

impl<B: Backend> Fate<B> {
    pub(crate) fn of(rank: &Arc<Rank<B>>) -> Self {
        Self(Arc::clone(rank))
    }

    pub(crate) fn poison(&self, cause: &Error) {
        self.0.poison(cause);
    }
}

impl<B: Backend> Drop for Rank<B> {
    fn drop(&mut self) {
        let trunk = self.trunk.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(comm) = trunk.take() else { return };
        let (device, stream) = (Arc::clone(&self.device), self.stream.clone());
        let rendezvous = Arc::clone(&self.seat.rendezvous);
        // Lives, and says so, until it has said goodbye.
        let vitals = Arc::clone(&self.vitals);
        self.pool.reaper.aside(move || {
            let ended = B::synchronize(&stream).and(comm.release(&device));
            // Said by hand: a process may exit while some thread still holds the rendezvous, and its
            // peers would take that for a death.
            rendezvous.leave();
            drop(vitals);
            ended
        });
    }
}

/// All ranks that started together, seen from one of them.
///
/// A world has no collectives of its own: [`split`](World::split) cuts groups out of it. Each rank
/// has one device, one [`Pool`] and one stream.
///
/// ```
/// use symm_core::{Backend, Host, ReduceOp, Result, World, groups, symm};
/// groups! { pub Tp = "tp"; pub Cp = "cp"; }
///
/// // The same function for threads and for one process a rank, on GPUs and without.
/// fn rank<B: Backend>(world: World<B>) -> Result<f32> {
///     let tp = world.split::<Tp>(world.rank() / 2, world.rank() % 2)?; // {0, 1} and {2, 3}
///     let cp = world.split::<Cp>(world.rank() % 2, world.rank() / 2)?; // {0, 2} and {1, 3}
///     let mut x = symm!(group = cp, { cp.from_slice(&[tp.rank() as f32 + 1.0])? })?;
///     cp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
///     Ok(x.to_vec()?[0])
/// }
/// assert_eq!(World::<Host>::run(4, rank)?, [2.0, 4.0, 2.0, 4.0]);
/// # Ok::<(), symm_core::Error>(())
/// ```
pub struct World<B: Backend = Cuda> {
    pub(super) rank: Arc<Rank<B>>,
    pool: Pool<B>,
}

impl<B: Backend> World<B> {
    /// Takes this rank's seat. All ranks of the world do so at the same time.
    pub(crate) fn open(seat: Seat, config: &Config<B>) -> Result<Self> {
        let device = Arc::new(B::open(&seat, &config.options)?);
        let pool = PoolCore::new(seat.rank, Arc::clone(&device), config.of_pool()?)?;
        let hosts = join(&seat, config.facts(B::facts(&device))?)?;
        let everyone: Arc<[usize]> = (0..seat.ranks).collect();
        let limits = config.of_limits();
        let board = match limits.checks && seat.ranks > 1 {
            true => Some(WorldBoard::meet(&seat, &hosts.here(&everyone))?),
            false => None,
        };
        let stream = B::new_stream(&device)?;
        let progress = pool.reaper.progress();
        let vitals = Vitals::new(&seat, &device, limits, board, progress)?;
        let rank = Arc::new(Rank {
            seat,
            device,
            stream,
            pool,
            hosts,
            vitals,
            strict: match config.of_strict()? {
                true => Strict::new(),
                false => Strict::off(),
            },
            tuning: config.of_tuning()?,
            trunk: Mutex::new(None),
            kernels: OnceLock::new(),
            splits: Mutex::default(),
            #[cfg(feature = "cuda")]
            adopted: AtomicU64::new(0),
            asleep: Mutex::new(None),
            sleeps: AtomicU64::new(0),
            groups: Mutex::default(),
        });
        let trunk = connect(&rank, Split::world(&rank.seat))?;
        find_kernels(&rank, &trunk)?;
        *rank.trunk.lock().unwrap_or_else(PoisonError::into_inner) = Some(trunk);
        routing::set_home(&rank);
        Ok(Self {
            pool: Pool::new(&rank),
            rank,
        })
    }

    /// This rank, from 0.
    ///
    /// ```
    /// # use symm_core::{Host, World};
    /// assert_eq!(World::<Host>::run(3, |world| Ok(world.rank()))?, [0, 1, 2]);
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn rank(&self) -> usize {
        self.rank.seat.rank
    }

    /// Number of ranks.
    ///
    /// ```
    /// # use symm_core::{Host, World};
    /// assert_eq!(World::<Host>::run(3, |world| Ok(world.size()))?, [3, 3, 3]);
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn size(&self) -> usize {
        self.rank.seat.ranks
    }

    /// Who started the ranks.
    ///
    /// ```
    /// # use symm_core::{Host, Launcher, World};
    /// let launchers = World::<Host>::run(2, |world| Ok(world.launcher()))?;
    /// assert_eq!(launchers, [Launcher::Threads; 2]);
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn launcher(&self) -> Launcher {
        self.rank.seat.launcher
    }

    /// The rank's memory.
    ///
    /// ```
    /// # use symm_core::{Host, World};
    /// # World::<Host>::run(1, |world| {
    /// let x = world.pool().from_slice(&[1.0f32, 2.0])?; // ordinary memory
    /// assert_eq!(world.pool().stats().plain_live_bytes, 8);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn pool(&self) -> &Pool<B> {
        &self.pool
    }

    /// The rank's device, e.g. `cuda:0` or `host:0`.
    ///
    /// ```
    /// # use symm_core::{Host, World};
    /// assert_eq!(World::<Host>::run(2, |world| Ok(world.device()))?, ["host:0", "host:1"]);
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn device(&self) -> String {
        B::describe(&self.rank.device)
    }

    /// Fails once the world has failed, on whichever rank, and says why. For after waits that this
    /// crate does not see, such as cudarc's: a kernel that waited for a peer is released when the
    /// world fails, and its stream then reports success.
    ///
    /// ```
    /// use symm_core::{Error, Host, ReduceOp, World, groups, symm};
    /// groups! { pub Tp = "tp"; }
    /// World::<Host>::run(2, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     let mut x = symm!(group = tp, { tp.zeros::<f32>(1)? })?;
    ///     let _ = match world.rank() {
    ///         0 => tp.all_reduce_in_place(&mut x, ReduceOp::Sum),
    ///         _ => tp.broadcast_in_place(&mut x, 0), // ranks that differ: the world fails
    ///     };
    ///     let _ = x.to_vec(); // a wait, as cudarc's stream.synchronize()
    ///     assert!(matches!(world.check(), Err(Error::Poisoned { .. })));
    ///     world.rebuild()?;
    ///     world.check()
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Poisoned`], [`Error::Unrecoverable`].
    pub fn check(&self) -> Result<()> {
        self.rank.check()
    }

    pub(crate) fn inner(&self) -> &Arc<Rank<B>> {
        &self.rank
    }

    /// How far the giving back of what was dropped has come.
    pub(crate) fn progress(&self) -> Arc<Progress> {
        self.rank.pool.reaper.progress()
    }

    /// The rank's device, for backends.
    pub(crate) fn raw_device(&self) -> &B::Device {
        &self.rank.device
    }
}

impl<B: Backend> fmt::Debug for World<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("rank", &self.rank())
            .field("size", &self.size())
            .field("device", &self.device())
            .finish()
    }
}
