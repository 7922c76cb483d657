//! The settings of a world: sizes, deadlines, checks, and what ranks have to have alike.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::cache;
use super::env;
use super::start::Tuning;
use crate::Cuda;
use crate::agreement::limits::{Limits, OnUnrecoverable};
use crate::backend::Backend;
use crate::error::Result;
use crate::pool::PoolConfig;

/// Settings of a world. The same on all ranks.
///
/// ```
/// use symm_core::{Config, Host, host};
///
/// let config = Config::<Host>::default().budget(64 << 20).options(host::Options::default().seed(7));
/// let budgets = config.run(2, |world| Ok(world.pool().stats().budget_bytes))?;
/// assert_eq!(budgets, [64 << 20, 64 << 20]);
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Config<B: Backend = Cuda> {
    pub(crate) pool: PoolConfig,
    /// `None`: as the environment says.
    redzones: Option<bool>,
    /// `None`: as the environment says.
    strict: Option<bool>,
    pub(super) limits: Limits,
    /// `None`: as the environment says.
    tuned: Option<bool>,
    cache: Option<PathBuf>,
    /// `None`: those of this process.
    arguments: Option<Vec<OsString>>,
    pub(crate) options: B::Options,
}

impl<B: Backend> Default for Config<B> {
    fn default() -> Self {
        let pool = PoolConfig {
            first_segment: 8 << 20,
            segment_cap: 1 << 30,
            budget: u64::MAX,
            redzones: false,
            history: None,
        };
        Self {
            pool,
            redzones: None,
            strict: None,
            limits: Limits::default(),
            tuned: None,
            cache: None,
            arguments: None,
            options: B::Options::default(),
        }
    }
}

impl<B: Backend> Config<B> {
    /// Bytes of an arena's first segment: 8 MiB by default. Each further one has 16 times as many, or
    /// half of what the arena has by then if that is more; those of a graph pool double. All are rounded
    /// up to multiples of 2 MiB. 0 is [`Error::Config`](crate::Error::Config) when the world starts.
    ///
    /// ```
    /// # use symm_core::{Config, Host, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// let config = Config::<Host>::default().first_segment(2 << 20);
    /// config.run(2, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     let x = symm!(group = tp, { tp.empty::<u8>(1)? })?;
    ///     assert_eq!(world.pool().stats().reserved_bytes, 2 << 20);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn first_segment(mut self, bytes: u64) -> Self {
        self.pool.first_segment = bytes;
        self
    }

    /// Segments grow up to this many bytes; one allocation may need a larger one. 1 GiB by default.
    /// Less than the first segment is [`Error::Config`](crate::Error::Config) when the world starts.
    ///
    /// ```
    /// # use symm_core::{Config, Host, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// let config = Config::<Host>::default().first_segment(2 << 20).segment_cap(4 << 20);
    /// config.run(2, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     let (x, y) = symm!(group = tp, { (tp.empty::<u8>(2 << 20)?, tp.empty::<u8>(1)?) })?;
    ///     assert_eq!(world.pool().stats().reserved_bytes, (2 << 20) + (4 << 20)); // not 16 times 2 MiB
    ///     let z = symm!(group = tp, { tp.empty::<u8>(10 << 20)? })?;
    ///     assert_eq!(world.pool().stats().reserved_bytes, (2 << 20) + (4 << 20) + (10 << 20));
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn segment_cap(mut self, bytes: u64) -> Self {
        self.pool.segment_cap = bytes;
        self
    }

    /// The most bytes that the segments of a rank may take together. No limit by default. An
    /// allocation that would need more is [`Error::BudgetExceeded`](crate::Error::BudgetExceeded); ordinary memory does not count.
    ///
    /// ```
    /// # use symm_core::{Config, Error, Host, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// let config = Config::<Host>::default().budget(16 << 20);
    /// config.run(2, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     let x = symm!(group = tp, { tp.empty::<u8>(1 << 20)? })?; // a segment of 8 MiB
    ///     let more = symm!(group = tp, { tp.empty::<u8>(10 << 20) })?;
    ///     assert!(matches!(more, Err(Error::BudgetExceeded { reserved: 0x80_0000, .. })));
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn budget(mut self, bytes: u64) -> Self {
        self.pool.budget = bytes;
        self
    }

    /// Puts a redzone behind every buffer in an arena, also in graph pools: a granule (512 bytes) with
    /// a pattern, which is looked at when the buffer is freed. A kernel that wrote past the end of a
    /// buffer is then [`Error::Redzone`](crate::Error::Redzone), at the rank's next call or at the world's end.
    /// `compute-sanitizer` cannot find that: to CUDA, a segment with all its buffers is one
    /// allocation.
    ///
    /// For tests and for the hunt of bugs, in any build: a buffer costs a small write, a copy and an
    /// allocation more, and room that is reserved in bytes is doubled. Where this is not called,
    /// `SYMM_REDZONES=1` in the environment switches redzones on. **The same on all ranks**, because
    /// they change where buffers lie; where they differ, no world starts
    /// ([`Error::RanksDiffer`](crate::Error::RanksDiffer)).
    ///
    /// What is written in a graph is found when the graph is dropped, or the buffer if it outlives
    /// the capture; each launch renews the patterns, so what is found is the last launch's.
    ///
    /// ```
    /// use symm_core::{Config, Error, Host, World, groups, symm};
    /// groups! { pub Tp = "tp"; }
    ///
    /// let outcome = Config::<Host>::default().redzones(true).run(2, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     let x = symm!(group = tp, { tp.zeros::<f32>(100)? })?;
    ///     // On a GPU, this is where a kernel would write x[100]. The host backend refuses that.
    ///     assert_eq!(world.pool().stats().live_bytes(), 512 + 512);
    ///     Ok(())
    /// });
    /// if let Err(Error::Redzone { rank, arena, bytes, first, .. }) = &outcome {
    ///     println!("rank {rank}, {arena}: {first} bytes behind a buffer of {bytes}");
    /// }
    /// assert!(outcome.is_ok()); // nobody wrote past the end of x
    /// ```
    pub fn redzones(mut self, on: bool) -> Self {
        self.redzones = Some(on);
        self
    }

    /// Writes down from the start who allocates what, and keeps the last `changes` changes of what is
    /// in use; see [`Pool::record`](crate::Pool::record). Need not be the same on all ranks.
    ///
    /// ```
    /// use symm_core::{Config, Host};
    /// Config::<Host>::default().memory_history(100).run(1, |world| {
    ///     drop(world.pool().zeros::<f32>(10)?);
    ///     let plain = world.pool().snapshot().timeline.into_iter().map(|sample| sample.plain_bytes);
    ///     assert_eq!(plain.collect::<Vec<_>>(), [40, 0]);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn memory_history(mut self, changes: usize) -> Self {
        self.pool.history = Some(changes);
        self
    }

    /// The pool's settings, with what the environment says.
    pub(crate) fn of_pool(&self) -> Result<PoolConfig> {
        let redzones = match self.redzones {
            Some(on) => on,
            None => env::flag("SYMM_REDZONES", |name| std::env::var_os(name))?,
        };
        Ok(PoolConfig {
            redzones,
            ..self.pool.clone()
        })
    }

    /// How long a rank waits for a live peer at an agreed point. 10 minutes by default: peers may be
    /// compiling or tuning. One that is behind for longer ends the world ([`Error::Timeout`](crate::Error::Timeout)); one that
    /// died does so at once.
    ///
    /// ```
    /// # use std::sync::Barrier;
    /// # use std::time::Duration;
    /// # use symm_core::{Config, Error, Host, groups};
    /// # groups! { pub Tp = "tp"; }
    /// let config = Config::<Host>::default().deadline(Duration::from_secs(1));
    /// let late = Barrier::new(2);
    /// let outcome = config.run(2, |world| {
    ///     if world.rank() == 1 {
    ///         late.wait(); // as one that compiles for too long
    ///         return Ok(());
    ///     }
    ///     let split = world.split::<Tp>(0, 0).map(drop);
    ///     late.wait();
    ///     split
    /// });
    /// assert!(matches!(outcome, Err(Error::Timeout { rank: 0, missing, .. }) if *missing == [1]));
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.limits.deadline = deadline;
        self
    }

    /// How long a call of NCCL may take once all ranks are inside: 30 seconds by default. After that
    /// the world fails, and the call is released.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use symm_core::{Config, Host, groups, host, symm};
    /// # groups! { pub Tp = "tp"; }
    /// // Rank 1 is stuck in a registration, where rank 0 waits for it.
    /// let stuck = host::Fault::new(1, host::At::Call(host::CallKind::Register, 1), host::What::Hang);
    /// let config = Config::<Host>::default()
    ///     .options(host::Options::default().fault(stuck))
    ///     .inside(Duration::from_millis(200));
    /// let outcome = config.run(2, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     symm!(group = tp, { tp.empty::<f32>(8)? }).map(drop)
    /// });
    /// assert!(outcome.is_err_and(|error| error.to_string().contains("waited 200ms for its peers")));
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn inside(mut self, deadline: Duration) -> Self {
        self.limits.inside = deadline;
        self
    }

    /// Whether ranks compare what they call, as they call it, and a watchdog looks after the world.
    /// On by default. Without, ranks that differ hang or compute garbage, as they do in NCCL; what is
    /// left are the comparisons where windows and graphs are made.
    ///
    /// ```
    /// # use symm_core::{Config, Error, Host, ReduceOp, Rule, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// let outcomes = [true, false].map(|on| {
    ///     Config::<Host>::default().checks(on).run(2, |world| {
    ///         let tp = world.split::<Tp>(0, 0)?;
    ///         tp.reserve(1 << 20)?;
    ///         // Of another length on each rank, so that what follows lies elsewhere.
    ///         let _y = symm!(group = tp, { tp.empty::<f32>(128 + 128 * tp.rank())? })?;
    ///         let mut x = symm!(group = tp, { tp.zeros::<f32>(4)? })?;
    ///         tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    ///         x.to_vec()
    ///     })
    /// });
    /// assert!(matches!(outcomes[0], Err(Error::RanksDiffer { .. })));
    /// // NCCL would compute garbage, with success; the host backend sees that it would.
    /// assert!(matches!(outcomes[1], Err(Error::Violation { rule: Rule::UnequalOffsets, .. })));
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn checks(mut self, on: bool) -> Self {
        self.limits.checks = on;
        self
    }

    /// Whether a collective on windows waits on the host until all ranks of this host have come to it,
    /// before it is launched; plain ones do not wait, nor do calls in a capture. Off by default,
    /// because it costs what the slowest rank is behind. Before NCCL 2.29.7 kernels on windows cannot
    /// be released when a peer does not come, so there they always wait.
    ///
    /// ```
    /// # use std::sync::atomic::{AtomicUsize, Ordering};
    /// # use symm_core::{Config, Host, ReduceOp, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// let (config, came) = (Config::<Host>::default().agree_first(true), AtomicUsize::new(0));
    /// config.run(3, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     let mut x = symm!(group = tp, { tp.zeros::<f32>(4)? })?;
    ///     came.fetch_add(1, Ordering::SeqCst);
    ///     tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    ///     assert_eq!(came.load(Ordering::SeqCst), 3); // nobody is past it before all have come to it
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn agree_first(mut self, on: bool) -> Self {
        self.limits.agree_first = on;
        self
    }

    /// What to do where a device cannot be released; see [`OnUnrecoverable`].
    ///
    /// ```
    /// # use symm_core::{Config, Host, OnUnrecoverable};
    /// let config = Config::<Host>::default().on_unrecoverable(OnUnrecoverable::Exit(75));
    /// assert_eq!(config.run(2, |world| Ok(world.rank()))?, [0, 1]); // nothing was stuck
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn on_unrecoverable(mut self, policy: OnUnrecoverable) -> Self {
        self.limits.on_unrecoverable = policy;
        self
    }

    /// Whether groups are strict when they are made; see [`Group::set_strict`](crate::Group::set_strict).
    /// Where this is not called, `SYMM_STRICT=1` in the environment makes them so.
    ///
    /// ```
    /// # use symm_core::{Config, Error, Host, Reason, ReduceOp, groups, plain, plain_mut};
    /// # groups! { pub Tp = "tp"; }
    /// let config = Config::<Host>::default().strict(true);
    /// config.run(2, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     let (x, mut y) = (world.pool().zeros::<f32>(4)?, world.pool().zeros::<f32>(4)?);
    ///     let refused = tp.all_reduce(plain(&x), plain_mut(&mut y), ReduceOp::Sum);
    ///     assert!(matches!(refused, Err(Error::NotSymmetric { reason: Reason::Foreign, .. })));
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn strict(mut self, on: bool) -> Self {
        self.strict = Some(on);
        self
    }

    /// Whether groups start with the paths that are known to be faster: those of an earlier
    /// [`Group::calibrate`](crate::Group::calibrate), else what is shipped for the GPU. On by default;
    /// off, groups start with NCCL's own choice, which is the window wherever there is a symmetric
    /// kernel, and only a calibration changes it. Where this is not called, `SYMM_TUNED=0` in the
    /// environment switches it off.
    ///
    /// ```
    /// # use symm_core::{Config, Host, Path, Reason, ReduceOp, World, groups, host, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # let folder = std::env::temp_dir().join(format!("symm-doc-tuned-{}", std::process::id()));
    /// # let costs = |call: &host::Launched| if call.symmetric { 20_000 } else { 10_000 };
    /// # let options = host::Options::default().costs("slow windows", costs);
    /// # let config = Config::<Host>::default().options(options).cache_dir(&folder);
    /// // A start of `config`, on a machine where windows are slow, keeps what it finds.
    /// config.run(2, |world| world.split::<Tp>(0, 0)?.calibrate())?;
    /// let path = |world: World<Host>| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     let mut x = symm!(group = tp, { tp.zeros::<f32>(4)? })?;
    ///     tp.all_reduce_in_place(&mut x, ReduceOp::Sum)
    /// };
    /// assert_eq!(config.clone().tuned(true).run(2, path)?, [Path::Plain(Reason::Faster); 2]);
    /// assert_eq!(config.tuned(false).run(2, path)?, [Path::Symmetric; 2]);
    /// # let _ = std::fs::remove_dir_all(&folder);
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn tuned(mut self, on: bool) -> Self {
        self.tuned = Some(on);
        self
    }

    /// The folder in which what [`Group::calibrate`](crate::Group::calibrate) measures is kept. Where
    /// this is not called it is `$SYMM_CACHE_DIR` (empty: nothing is kept), else
    /// `$XDG_CACHE_HOME/symm-core`, else `$HOME/.cache/symm-core`. Only rank 0 of a group opens it,
    /// so it need not be the same on all ranks.
    ///
    /// ```
    /// # use symm_core::{Config, Host, groups, host};
    /// # groups! { pub Tp = "tp"; }
    /// let folder = std::env::temp_dir().join(format!("symm-doc-cache-{}", std::process::id()));
    /// let options = host::Options::default().costs("a machine", |_call| 10_000);
    /// let config = Config::<Host>::default().options(options).cache_dir(&folder);
    /// let kept = config.run(2, |world| Ok(world.split::<Tp>(0, 0)?.calibrate()?.cached))?;
    /// assert_eq!(kept, [true, false]); // by rank 0
    /// assert_eq!(std::fs::read_dir(&folder).map(|files| files.count()).ok(), Some(1));
    /// # let _ = std::fs::remove_dir_all(&folder);
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn cache_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache = Some(folder.into());
        self
    }

    pub(crate) fn of_tuning(&self) -> Result<Tuning> {
        Ok(Tuning {
            known: self.of_tuned()?,
            cache: cache::folder(self.cache.as_deref(), |name| std::env::var_os(name)),
        })
    }

    fn of_tuned(&self) -> Result<bool> {
        const NAME: &str = "SYMM_TUNED";
        let set = std::env::var_os(NAME).filter(|value| !value.is_empty());
        match (self.tuned, set) {
            (Some(on), _) => Ok(on),
            (None, None) => Ok(true),
            (None, Some(_)) => env::flag(NAME, |name| std::env::var_os(name)),
        }
    }

    pub(crate) fn of_limits(&self) -> Limits {
        self.limits.clone()
    }

    /// Whether groups are strict when they are made.
    pub(crate) fn of_strict(&self) -> Result<bool> {
        match self.strict {
            Some(on) => Ok(on),
            None => env::flag("SYMM_STRICT", |name| std::env::var_os(name)),
        }
    }

    /// What has to be equal on all ranks, with what the backend adds.
    pub(crate) fn facts(&self, backend: Vec<(String, String)>) -> Result<Vec<(String, String)>> {
        let pool = self.of_pool()?;
        let limits = &self.limits;
        let ours = [
            ("symm-core", env!("CARGO_PKG_VERSION").to_owned()),
            ("Config::checks", limits.checks.to_string()),
            ("Config::agree_first", limits.agree_first.to_string()),
            ("Config::tuned", self.of_tuned()?.to_string()),
            ("Config::strict", self.of_strict()?.to_string()),
            ("Config::redzones", pool.redzones.to_string()),
            ("Config::first_segment", pool.first_segment.to_string()),
            ("Config::segment_cap", pool.segment_cap.to_string()),
        ];
        let ours = ours.map(|(name, value)| (name.to_owned(), value));
        Ok(ours.into_iter().chain(backend).collect())
    }

    /// Arguments of the processes that [`World::launch`](crate::World::launch) starts; this process's own by default. A
    /// test of the standard harness names itself: `["tests::of_four_ranks", "--exact", "--nocapture"]`.
    ///
    /// ```
    /// # use symm_core::{Config, Host};
    /// # #[cfg(target_os = "linux")] {
    /// let config = Config::<Host>::default().launch_arguments(["--quiet"]);
    /// config.launch(2, |world| {
    ///     assert_eq!(std::env::args().skip(1).collect::<Vec<_>>(), ["--quiet"]);
    ///     world.check()
    /// })?;
    /// # }
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn launch_arguments<A: Into<OsString>>(
        mut self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        self.arguments = Some(arguments.into_iter().map(Into::into).collect());
        self
    }

    pub(crate) fn arguments(&self) -> Option<&[OsString]> {
        self.arguments.as_deref()
    }

    /// Settings of the backend, such as [`host::Options`](crate::host::Options).
    ///
    /// ```
    /// # use symm_core::{Config, Error, Host, groups, host, symm};
    /// # groups! { pub Tp = "tp"; }
    /// let config = Config::<Host>::default().options(host::Options::default().memory(4 << 20));
    /// config.run(2, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     let large = symm!(group = tp, { tp.empty::<u8>(1) })?; // needs a segment of 8 MiB
    ///     assert!(matches!(large, Err(Error::OutOfMemory { .. })));
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn options(mut self, options: B::Options) -> Self {
        self.options = options;
        self
    }
}
