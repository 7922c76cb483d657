//! Settings of a graph pool.

/// How strictly CUDA keeps calls away that a capture cannot hold, as `cuStreamBeginCapture` has it.
///
/// ```
/// # use symm_core::{CaptureMode, GraphOptions, GraphPool, Host, World};
/// # World::<Host>::run(1, |world| {
/// assert_eq!(CaptureMode::default(), CaptureMode::ThreadLocal);
/// for (mode, allowed) in [(CaptureMode::Relaxed, true), (CaptureMode::Global, false)] {
///     let pool = GraphPool::with(world.pool(), GraphOptions::default().mode(mode));
///     assert_eq!(pool.is_ok(), allowed);
/// }
/// # Ok(())
/// # })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CaptureMode {
    /// Such calls of the capturing thread fail, those of other threads do not.
    #[default]
    ThreadLocal,
    /// No call is kept away: for steps that allocate or load modules on their way.
    Relaxed,
    /// Such calls of any thread of the process fail. Refused by [`GraphPool::with`]: the other
    /// ranks' threads, and the threads that give memory back, make such calls at any time.
    ///
    /// [`GraphPool::with`]: crate::GraphPool::with
    Global,
}

/// Settings of a graph pool.
///
/// ```
/// use symm_core::{CaptureMode, GraphOptions, GraphPool, Host, World};
/// World::<Host>::run(1, |world| {
///     let relaxed = GraphOptions::default().mode(CaptureMode::Relaxed);
///     GraphPool::with(world.pool(), relaxed)?;
///     let global = GraphOptions::default().mode(CaptureMode::Global);
///     assert!(GraphPool::with(world.pool(), global).is_err());
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct GraphOptions {
    pub(super) mode: CaptureMode,
    pub(super) growth: bool,
    pub(super) early_reads: bool,
}

impl GraphOptions {
    /// How strictly CUDA keeps calls away; thread-local by default.
    ///
    /// ```
    /// # use symm_core::{Buf, CaptureMode, GraphOptions, GraphPool, Host, World};
    /// # World::<Host>::run(1, |world| {
    /// let relaxed = GraphOptions::default().mode(CaptureMode::Relaxed);
    /// let graphs = GraphPool::with(world.pool(), relaxed)?;
    /// let graph = graphs.capture(world.stream(), |_pass| Buf::<f32, Host>::zeros(4))?;
    /// assert_eq!(graph.output().len(), 4);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    #[must_use]
    pub fn mode(mut self, mode: CaptureMode) -> Self {
        self.mode = mode;
        self
    }

    /// Lets a capture that needs more than was reserved take it from the device and register it,
    /// where NCCL can (from 2.30.6 on). Off by default: registration waits for peers, milliseconds
    /// or for ever.
    ///
    /// ```
    /// # use symm_core::{Buf, Error, GraphOptions, GraphPool, Host, Need, World};
    /// # World::<Host>::run(1, |world| {
    /// let step = |_pass| Buf::<f32, Host>::zeros(256);
    /// let fixed = GraphPool::new(world.pool());
    /// let missed = fixed.capture_reserved(&Need::new(), world.stream(), step);
    /// assert!(matches!(missed, Err(Error::CaptureMiss { need: 1024, .. })));
    ///
    /// let growing = GraphPool::with(world.pool(), GraphOptions::default().growth(true))?;
    /// let graph = growing.capture_reserved(&Need::new(), world.stream(), step)?;
    /// assert_eq!(graph.stats().owned_bytes, 1024);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    #[must_use]
    pub fn growth(mut self, growth: bool) -> Self {
        self.growth = growth;
        self
    }

    /// Captures symmetric kernels also with an NCCL whose symmetric kernels read too early behind
    /// the kernel before them (2.28.0 to 2.30.6), with a small write in between that holds them
    /// back. By default such collectives are [`Plain(Defect)`](crate::Reason::Defect) in captures.
    ///
    /// ```
    /// # use symm_core::host::Options;
    /// # use symm_core::{Config, GraphOptions, GraphPool, Host, Path, Reason, ReduceOp, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// let nccl = Options::default().nccl_version(22_809);
    /// # Config::<Host>::default().options(nccl).run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let mut x = symm!(group = tp, { tp.zeros::<f32>(256)? })?;
    /// for (allowed, path) in [(false, Path::Plain(Reason::Defect)), (true, Path::Symmetric)] {
    ///     let options = GraphOptions::default().early_reads(allowed);
    ///     let graphs = GraphPool::with(world.pool(), options)?;
    ///     let step = |_pass| tp.all_reduce_in_place(&mut x, ReduceOp::Sum);
    ///     assert_eq!(graphs.capture(world.stream(), step)?.output(), &path);
    /// }
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    #[must_use]
    pub fn early_reads(mut self, allowed: bool) -> Self {
        self.early_reads = allowed;
        self
    }
}
