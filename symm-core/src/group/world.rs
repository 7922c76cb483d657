//! A world: all ranks that start together, and this rank's place in it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use super::Group;
use super::communicator::Communicator;
use super::config::Config;
use super::connect::{connect, cut, find_kernels};
use super::core::GroupCore;
use super::join::{Hosts, join};
use super::sleep::{self, Asleep};
use super::start::{self, Tuning};
use super::strict::Strict;
use super::tag::{Dyn, GroupTag};
use crate::Cuda;
use crate::agreement::vitals::Vitals;
use crate::agreement::world::WorldBoard;
use crate::backend::Backend;
use crate::backend::driver::{Seat, Split};
use crate::capture::active;
use crate::error::{Error, Result};
use crate::launch::Launcher;
use crate::pool::reaper::Progress;
use crate::pool::{Pool, PoolCore};
use crate::rendezvous::Topic;
use crate::scope::{StreamScope, routing};
use crate::site::Site;

/// The channel of the rendezvous on which worlds agree on their splits.
const SPLITS: Topic = Topic {
    channel: 0,
    step: 1 << 32,
};

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
    /// Splits made so far; the lock keeps two threads from splitting at once.
    pub(crate) splits: Mutex<u64>,
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
    rank: Arc<Rank<B>>,
    pool: Pool<B>,
}

impl<B: Backend> World<B> {
    /// Runs `f` on `ranks` threads of this process, each with a world of its own, and returns what
    /// they return, by rank.
    ///
    /// On GPUs, CUDA loads kernels when they are first used and may hold a lock of the driver for it,
    /// while a rank of the same process waits for a collective: run every shape once with waits in
    /// between, or set `CUDA_MODULE_LOADING=EAGER`.
    ///
    /// When one rank returns an error or panics, the others are told: they get
    /// [`Error::PeerFailed`] where they would wait for it.
    ///
    /// ```
    /// # use symm_core::{Error, Host, World};
    /// let ranks = World::<Host>::run(3, |world| Ok(10 * world.rank()))?;
    /// assert_eq!(ranks, [0, 10, 20]);
    ///
    /// let failed = World::<Host>::run(2, |world| match world.rank() {
    ///     0 => world.split_dyn("all", 0, 0).map(drop), // waits for rank 1, and is told
    ///     _ => Err(Error::Config { what: "no weights".into() }),
    /// });
    /// assert!(matches!(failed, Err(Error::Config { .. })));
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// That of the rank that failed first; if it panicked, [`Error::PeerFailed`] with its message.
    /// [`Error::Unavailable`], [`Error::TooFewDevices`] and the like before any rank starts.
    pub fn run<R: Send>(ranks: usize, f: impl Fn(World<B>) -> Result<R> + Sync) -> Result<Vec<R>> {
        Config::default().run(ranks, f)
    }

    /// As [`run`](World::run), with any error type that has `From<symm_core::Error>`.
    ///
    /// ```
    /// # use symm_core::{Host, Result, World};
    /// type Failure = Box<dyn std::error::Error + Send + Sync>;
    /// let rank = |world: World<Host>| -> Result<u8, Failure> {
    ///     let tp = world.split_dyn("tp", 0, 0)?; // an error of ours becomes one of them
    ///     Ok(u8::try_from(tp.size())?)           // and so does one of another library
    /// };
    /// assert!(World::run_with(2, rank).is_ok_and(|sizes| sizes == [2, 2]));
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// That of the rank that failed first.
    pub fn run_with<R: Send, E: From<Error> + fmt::Display + Send>(
        ranks: usize,
        f: impl Fn(World<B>) -> Result<R, E> + Sync,
    ) -> Result<Vec<R>, E> {
        Config::default().run_with(ranks, f)
    }

    /// As [`run`](World::run), with every rank's own result.
    ///
    /// ```
    /// use symm_core::{Error, Host, World};
    /// let results = World::<Host>::run_each(2, |world| match world.rank() {
    ///     0 => Ok("fine"),
    ///     _ => Err(Error::Config { what: "disk full".into() }),
    /// });
    /// assert_eq!(results[0].as_ref().ok(), Some(&"fine"));
    /// assert!(results[1].as_ref().is_err_and(|e| e.to_string().contains("disk full")));
    /// ```
    pub fn run_each<R: Send>(
        ranks: usize,
        f: impl Fn(World<B>) -> Result<R> + Sync,
    ) -> Vec<Result<R>> {
        Config::default().run_each(ranks, f)
    }

    /// This process's rank of a world of processes, as `torchrun`, `mpirun` or `srun` started it, or
    /// with variables that were set by hand: see [`Launcher`]. Waits for all ranks.
    ///
    /// ```
    /// # use symm_core::{Host, Launcher, World};
    /// # // Two processes of this program, with the variables that torchrun sets.
    /// # use std::{env, net::TcpListener, process::Command};
    /// # if env::var_os("SYMM_DOC_FROM_ENV").is_none() {
    /// #     let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
    /// #     let start = |rank| {
    /// #         let ranks = [("RANK", rank), ("WORLD_SIZE", "2"), ("LOCAL_RANK", rank)];
    /// #         let place = [("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &*port)];
    /// #         let ours = [("SYMM_LAUNCHER", "torchrun"), ("SYMM_DOC_FROM_ENV", "1")];
    /// #         let mut program = Command::new(env::current_exe()?);
    /// #         program.args(env::args_os().skip(1)).envs(ranks).envs(place).envs(ours).spawn()
    /// #     };
    /// #     for mut rank in [start("0")?, start("1")?] {
    /// #         assert!(rank.wait()?.success());
    /// #     }
    /// #     return Ok(());
    /// # }
    /// // In each of two processes that torchrun started:
    /// let world = World::<Host>::from_env()?;
    /// assert_eq!((world.size(), world.launcher()), (2, Launcher::Torchrun));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Environment`] names the variable that is missing or malformed, and whose it is;
    /// [`Error::Rendezvous`]; those of the backend.
    pub fn from_env() -> Result<Self> {
        Config::default().from_env()
    }

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
            splits: Mutex::new(0),
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

    /// The stream that this rank uses outside of [`on_stream`](World::on_stream).
    ///
    /// ```
    /// # use symm_core::{Host, World};
    /// # World::<Host>::run(1, |world| {
    /// let side = world.new_stream()?;
    /// let _side = world.on_stream(&side)?;
    /// let home = world.on_stream(world.stream())?; // back on the rank's own, inside of the other
    /// let x = world.pool().zeros::<f32>(4)?;
    /// assert_eq!(format!("{:?}", x.stream()), format!("{:?}", world.stream()));
    /// home.end()?;
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn stream(&self) -> &B::Stream {
        &self.rank.stream
    }

    /// A new stream of the rank's device, ordered with no other.
    ///
    /// ```
    /// # use symm_core::{Host, World};
    /// # World::<Host>::run(1, |world| {
    /// let (one, other) = (world.new_stream()?, world.new_stream()?);
    /// let on_one = world.on_stream(&one)?;
    /// let x = world.pool().from_slice(&[1.0f32, 2.0])?;
    /// on_one.end()?;
    /// let _on_other = world.on_stream(&other)?;
    /// assert_eq!(x.to_vec()?, [1.0, 2.0]); // buffers order the streams that use them
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of the backend.
    pub fn new_stream(&self) -> Result<B::Stream> {
        B::new_stream(&self.rank.device)
    }

    /// Makes `stream` this thread's current one while the guard lives. In a capture the stream is
    /// captured too: its work comes behind what is captured by then, and the graph ends behind it.
    ///
    /// ```
    /// # use symm_core::{Host, ReduceOp, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let mut x = symm!(group = tp, { tp.from_slice(&[1.0f32])? })?;
    /// let side = world.new_stream()?;
    /// let guard = world.on_stream(&side)?;
    /// tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?; // on `side`
    /// guard.end()?;
    /// assert_eq!(x.to_vec()?, [2.0]); // on the world's stream, behind it
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::WrongDevice`] for a stream of another device.
    #[track_caller]
    pub fn on_stream(&self, stream: &B::Stream) -> Result<StreamScope<B>> {
        if !B::stream_on(&self.rank.device, stream) {
            let (what, found) = ("on_stream: the stream".into(), "another device".into());
            return Err(Error::WrongDevice {
                what,
                found,
                device: self.device().into(),
            });
        }
        if let Some(active) = active::on_this_thread(&self.rank) {
            active.join(stream)?;
        }
        StreamScope::open(stream, Site::caller())
    }

    /// Waits until the work on this thread's current stream is done.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::sync::atomic::{AtomicBool, Ordering};
    /// # use symm_core::{Host, World, host, plain_mut};
    /// # World::<Host>::run(1, |world| {
    /// let (mut x, done) = (world.pool().zeros::<f32>(1)?, Arc::new(AtomicBool::new(false)));
    /// let at_end = Arc::clone(&done);
    /// host::launch([], [plain_mut(&mut x)], move |[], [_]| at_end.store(true, Ordering::SeqCst))?;
    /// world.synchronize()?;
    /// assert!(done.load(Ordering::SeqCst)); // the kernel has run
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of work that was enqueued earlier; [`Error::Poisoned`]; [`Error::InCapture`].
    pub fn synchronize(&self) -> Result<()> {
        active::refuse(
            &self.rank,
            "waiting for a stream",
            "nothing runs before the graph is launched: wait after a launch",
        )?;
        B::synchronize(&routing::stream(&self.rank))?;
        self.rank.check()
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

    /// Cuts groups out of the world: the ranks with the same `color` form one, ordered by `key`,
    /// then by their rank in the world. A collective: all ranks of the world call it at the same
    /// point, with the same tag.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(4, |world| {
    /// # groups! { pub Cp = "cp"; }
    /// let tp = world.split::<Tp>(world.rank() / 2, 0)?; // {0, 1} and {2, 3}
    /// let cp = world.split::<Cp>(world.rank() % 2, 0)?; // {0, 2} and {1, 3}
    /// assert_eq!(tp.members(), [[0, 1], [2, 3]][world.rank() / 2]);
    /// assert_eq!(cp.members(), [[0, 2], [1, 3]][world.rank() % 2]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::RanksDiffer`] when the ranks split different tags; [`Error::Timeout`],
    /// [`Error::PeerFailed`]; [`Error::Poisoned`], [`Error::Suspended`], [`Error::InCapture`].
    pub fn split<G: GroupTag>(&self, color: usize, key: usize) -> Result<Group<G, B>> {
        self.split_named::<G>(G::NAME, color, key)
    }

    /// As [`split`](World::split), for a group that is named and checked at run time.
    ///
    /// ```
    /// # use symm_core::{Host, ReduceOp, World, symm};
    /// # World::<Host>::run(2, |world| {
    /// for name in ["tp", "experts"] { // as a configuration has them
    ///     let group = world.split_dyn(name, 0, 0)?;
    ///     let mut x = symm!(group = group, { group.from_slice(&[1.0f32])? })?;
    ///     group.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    ///     assert_eq!((group.name(), x.to_vec()?), (name, vec![2.0]));
    /// }
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`split`](World::split).
    pub fn split_dyn(&self, name: &str, color: usize, key: usize) -> Result<Group<Dyn, B>> {
        self.split_named::<Dyn>(name, color, key)
    }

    fn split_named<G: GroupTag>(
        &self,
        name: &str,
        color: usize,
        key: usize,
    ) -> Result<Group<G, B>> {
        self.rank.check()?;
        active::refuse(
            &self.rank,
            "splitting a world",
            "it waits for peers: make the groups before the capture",
        )?;
        sleep::awake(&self.rank)?;
        let mut splits = self
            .rank
            .splits
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let step = *splits;
        *splits += 1;
        // Ranks of which only some have redzones would place their blocks differently.
        let zones = if self.rank.pool.config.redzones {
            " with redzones"
        } else {
            ""
        };
        let split = self.agree(
            step,
            &Intent {
                name: format!("{name}/{}{zones}", G::ARENA.unwrap_or_default()),
                color: color as u64,
                key: key as u64,
            },
        )?;
        let comm = cut(&self.rank, &split)?;
        let group = GroupCore::new::<G>(
            &self.rank,
            name,
            comm,
            Some(split.id),
            split.rank,
            split.members,
        )?;
        start::begin(&group)?;
        Ok(Group::new(group))
    }

    /// Exchanges what every rank wants, and works out this rank's group.
    fn agree(&self, step: u64, intent: &Intent) -> Result<Split> {
        let seat = &self.rank.seat;
        let everyone: Arc<[usize]> = (0..seat.ranks).collect();
        let topic = Topic {
            step: SPLITS.step + step,
            ..SPLITS
        };
        let what = format!("world.split #{step} of {}", intent.name);
        let answers =
            seat.rendezvous
                .exchange(topic, &everyone, intent.encode(), &what, seat.deadline)?;
        let intents: Vec<Intent> = answers
            .iter()
            .map(|bytes| Intent::decode(bytes))
            .collect::<Option<_>>()
            .ok_or_else(|| Error::Rendezvous {
                rank: seat.rank,
                why: "a peer runs another version of symm-core: its answer cannot be read".into(),
            })?;
        if let Some(other) = intents.iter().position(|other| other.name != intent.name) {
            let detail = format!(
                "rank {} splits {}, rank {other} splits {}",
                seat.rank, intent.name, intents[other].name
            );
            return Err(Error::RanksDiffer {
                group: "the world".into(),
                what: format!("split #{step}").into(),
                detail: detail.into(),
            });
        }
        let colors: BTreeSet<u64> = intents.iter().map(|intent| intent.color).collect();
        let color = colors.range(..intent.color).count();
        let mut members: Vec<usize> = (0..seat.ranks)
            .filter(|&rank| intents[rank].color == intent.color)
            .collect();
        members.sort_by_key(|&rank| (intents[rank].key, rank));
        let rank = members
            .iter()
            .position(|&rank| rank == seat.rank)
            .unwrap_or_default();
        // Communicator 1 is the world's; a world has fewer than 2^20 ranks, hence colors.
        let id = ((step + 1) << 20) + color as u64;
        Ok(Split {
            id,
            color: color as i32,
            members: members.into(),
            rank,
        })
    }

    /// A group over an existing communicator.
    #[cfg(feature = "cuda")]
    pub(crate) fn adopt<G: GroupTag>(
        &self,
        comm: B::Comm,
        rank: usize,
        size: usize,
    ) -> Result<Group<G, B>> {
        let comm = self.rank.vitals.own(comm);
        let members = (0..size).collect();
        let group = GroupCore::new::<G>(&self.rank, G::NAME, comm, None, rank, members)?;
        Ok(Group::new(group))
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

/// What one rank wants of a split.
struct Intent {
    name: String,
    color: u64,
    key: u64,
}

impl Intent {
    fn encode(&self) -> Vec<u8> {
        [
            &self.color.to_le_bytes()[..],
            &self.key.to_le_bytes(),
            self.name.as_bytes(),
        ]
        .concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (color, rest) = bytes.split_first_chunk()?;
        let (key, name) = rest.split_first_chunk()?;
        Some(Self {
            name: String::from_utf8(name.to_vec()).ok()?,
            color: u64::from_le_bytes(*color),
            key: u64::from_le_bytes(*key),
        })
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
