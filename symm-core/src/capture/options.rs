//! Settings of a graph pool.

/// How strictly CUDA keeps calls away that a capture cannot hold, as `cuStreamBeginCapture` has it.
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
    #[must_use]
    pub fn mode(mut self, mode: CaptureMode) -> Self {
        self.mode = mode;
        self
    }

    /// Lets a capture that needs more than was reserved take it from the device and register it,
    /// where NCCL can (from 2.30.6 on). Off by default: registration waits for peers, milliseconds
    /// or for ever.
    #[must_use]
    pub fn growth(mut self, growth: bool) -> Self {
        self.growth = growth;
        self
    }

    /// Captures symmetric kernels also with an NCCL whose symmetric kernels read too early behind
    /// the kernel before them (2.28.0 to 2.30.6), with a small write in between that holds them
    /// back. By default such collectives are [`Plain(Defect)`](crate::Reason::Defect) in captures.
    #[must_use]
    pub fn early_reads(mut self, allowed: bool) -> Self {
        self.early_reads = allowed;
        self
    }
}
