//! A rank's memory: the arenas, ordinary memory, the budget and the statistics.

pub(crate) mod arena;
mod diff;
pub(crate) mod history;
#[cfg(feature = "serde")]
mod html;
pub(crate) mod placement;
pub(crate) mod ranges;
pub(crate) mod reaper;
pub(crate) mod segment;
pub(crate) mod snapshot;
mod stats;
pub(crate) mod streams;
mod survey;
pub(crate) mod usage;
pub(crate) mod watch;

use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

pub use diff::{Growth, SnapshotDiff};
pub use placement::Position;
pub use snapshot::{
    BlockMap, BlockState, GraphMap, GraphName, PlainMap, Sample, SegmentMap, Snapshot, WindowMap,
    WindowState,
};
pub use stats::{ArenaStats, PoolStats};

use self::arena::Arena;
use self::history::Totals;
use self::placement::GRANULE;
use self::reaper::Reaper;
use self::watch::Watch;
use crate::backend::Backend;
use crate::buffer::Buf;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::group::world::Rank;

/// Segments are multiples of this: the granularity of CUDA's virtual memory, to which
/// `ncclMemAlloc` rounds.
pub(crate) const SEGMENT_GRANULE: u64 = 2 << 20;

/// Sizes of segments and the budget.
#[derive(Clone, Debug)]
pub(crate) struct PoolConfig {
    /// Bytes of an arena's first segment.
    pub(crate) first_segment: u64,
    /// Segments grow up to this many bytes.
    pub(crate) segment_cap: u64,
    /// The most bytes that all segments may take.
    pub(crate) budget: u64,
    /// Whether every block ends with a redzone; see `buffer::redzone`.
    pub(crate) redzones: bool,
    /// How many changes to record from the start, if it records.
    pub(crate) history: Option<usize>,
}

impl PoolConfig {
    /// Bytes of a block for a buffer of `bytes`.
    #[inline]
    pub(crate) fn block_bytes(&self, bytes: u64) -> Result<u64> {
        let zone = if self.redzones { GRANULE } else { 0 };
        let block = bytes.max(1).checked_next_multiple_of(GRANULE);
        match block.and_then(|block| block.checked_add(zone)) {
            Some(block) => Ok(block),
            None => Err(Error::TooLarge {
                elements: bytes as usize,
                bytes_each: 1,
            }),
        }
    }

    /// Room for `bytes` that were reserved: what fits without redzones fits with them, since a block
    /// has no fewer bytes than its zone.
    pub(crate) fn room(&self, bytes: u64) -> u64 {
        match self.redzones {
            true => bytes.saturating_mul(2),
            false => bytes,
        }
    }

    /// Bytes of an arena's next segment, made for an allocation of `bytes`, where it has `reserved`
    /// so far: a function of the arena's history, and so the same on all ranks.
    ///
    /// The first segment is small, so that who needs little reserves little. The next is large at
    /// once: a buffer lies in one segment, so what is too small for the large buffers of a model stays
    /// beside what it needs at its peak. Doubling from 8 MiB left 120 MiB like that before the first
    /// of 128, and reserved up to 2.3 times the peak of the benches' larger traces; this 1.3 times.
    /// Half of what there is keeps the number of segments, each a window in every group, low.
    pub(crate) fn segment_bytes(&self, reserved: u64, bytes: u64) -> Result<u64> {
        const STEP: u64 = 16;
        let size = match reserved {
            0 => self.first_segment,
            _ => self.first_segment.saturating_mul(STEP).max(reserved / 2),
        };
        self.at_least(bytes, size)
    }

    /// Bytes of the `index`-th segment of a graph pool's arena: they double. What a step needs is
    /// reserved after its prime, in one piece, so there is little to guess.
    pub(crate) fn graph_segment_bytes(&self, index: usize, bytes: u64) -> Result<u64> {
        let doubled = self
            .first_segment
            .checked_shl(index as u32)
            .filter(|size| size >> index == self.first_segment);
        self.at_least(bytes, doubled.unwrap_or(u64::MAX))
    }

    /// A segment of `size`, up to the cap, that holds one allocation of `bytes`.
    fn at_least(&self, bytes: u64, size: u64) -> Result<u64> {
        let size = size.min(self.segment_cap).max(bytes);
        let rounded = size.checked_next_multiple_of(SEGMENT_GRANULE);
        rounded.ok_or(Error::TooLarge {
            elements: bytes as usize,
            bytes_each: 1,
        })
    }

    pub(crate) fn validate(&self) -> Result<()> {
        match self.first_segment {
            0 => Err(Error::Config {
                what: "the first segment must have more than 0 bytes".into(),
            }),
            first if first > self.segment_cap => Err(Error::Config {
                what: format!(
                    "the first segment ({first} bytes) is larger than the cap ({} bytes)",
                    self.segment_cap
                )
                .into(),
            }),
            _ => Ok(()),
        }
    }
}

/// What arenas and segments share.
#[derive(Debug)]
pub(crate) struct PoolCore<B: Backend> {
    pub(crate) rank: usize,
    pub(crate) device: Arc<B::Device>,
    pub(crate) config: PoolConfig,
    pub(crate) reaper: Reaper,
    /// Where copies of redzones are read back, if there are any: a stream that nobody else uses, so
    /// that reading waits for nothing.
    pub(crate) redzones: Option<B::Stream>,
    /// Who allocated what. Allocation and free ask this whether they have more to do.
    pub(crate) watch: Watch,
    pub(crate) reserved: AtomicU64,
    pub(crate) segments: AtomicUsize,
    pub(crate) plain: AtomicU64,
    pub(crate) twins: AtomicUsize,
    pub(crate) sealed: AtomicBool,
    arenas: Mutex<Vec<Weak<Arena<B>>>>,
}

impl<B: Backend> PoolCore<B> {
    pub(crate) fn new(
        rank: usize,
        device: Arc<B::Device>,
        config: PoolConfig,
    ) -> Result<Arc<Self>> {
        config.validate()?;
        let redzones = config.redzones.then(|| B::new_stream(&device));
        let watch = Watch::new(config.redzones, config.history);
        Ok(Arc::new(Self {
            rank,
            device,
            config,
            reaper: Reaper::start(rank)?,
            redzones: redzones.transpose()?,
            watch,
            reserved: AtomicU64::new(0),
            segments: AtomicUsize::new(0),
            plain: AtomicU64::new(0),
            twins: AtomicUsize::new(0),
            sealed: AtomicBool::new(false),
            arenas: Mutex::default(),
        }))
    }

    /// An arena of one group, or of the groups that share this name.
    pub(crate) fn new_arena(self: &Arc<Self>, name: &str) -> Arc<Arena<B>> {
        let arena = Arena::new(name, self);
        let mut arenas = self.arenas.lock().unwrap_or_else(PoisonError::into_inner);
        arenas.retain(|known| known.strong_count() > 0);
        arenas.push(Arc::downgrade(&arena));
        arena
    }

    /// What it holds outside the arenas' own accounts.
    pub(crate) fn totals(&self) -> Totals {
        Totals {
            reserved: self.reserved.load(Ordering::Relaxed),
            plain: self.plain.load(Ordering::Relaxed),
        }
    }

    /// Notes in the recording that the segments changed.
    pub(crate) fn note_segments(&self) {
        if let Some(recorder) = self.watch.recorder() {
            recorder.note(self.totals());
        }
    }

    /// All arenas, those of graph pools behind the others.
    pub(crate) fn charts(&self) -> Vec<watch::Chart> {
        let arenas = self.live_arenas().into_iter().map(|arena| arena.chart());
        let shelves = self.watch.shelves().into_iter().map(|shelf| shelf.chart());
        arenas.chain(shelves).collect()
    }

    fn live_arenas(&self) -> Vec<Arc<Arena<B>>> {
        self.arenas
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }
}

/// A rank's pool: its arenas and its ordinary memory.
///
/// There is one for each rank, made with the [`World`](crate::World). Groups allocate from it
/// through scopes; what it holds is read from [`stats`](Pool::stats).
///
/// ```
/// use symm_core::{Host, World};
///
/// World::<Host>::run(1, |world| {
///     let ordinary = world.pool().from_slice(&[1.0f32, 2.0, 3.0])?;
///     assert_eq!(ordinary.to_vec()?, [1.0, 2.0, 3.0]);
///     assert_eq!(world.pool().stats().plain_live_bytes, 12);
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Pool<B: Backend> {
    rank: Arc<Rank<B>>,
}

impl<B: Backend> Pool<B> {
    pub(crate) fn new(rank: &Arc<Rank<B>>) -> Self {
        Self {
            rank: Arc::clone(rank),
        }
    }

    /// Ordinary memory for `len` elements, whatever scopes are open. Its contents are undefined on
    /// CUDA, zero on the host backend.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let x = symm!(group = tp, { world.pool().empty::<f32>(100)? })?; // the scope changes nothing
    /// assert!(!x.is_symmetric());
    /// assert_eq!(world.pool().stats().plain_live_bytes, 400);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::TooLarge`].
    #[track_caller]
    pub fn empty<T: Element>(&self, len: usize) -> Result<Buf<T, B>> {
        Buf::plain(&self.rank, len, Location::caller())
    }

    /// Ordinary memory of zeros.
    ///
    /// ```
    /// # use symm_core::{Host, World};
    /// # World::<Host>::run(1, |world| {
    /// let counters = world.pool().zeros::<u64>(3)?;
    /// assert_eq!(counters.to_vec()?, [0, 0, 0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`empty`](Pool::empty).
    #[track_caller]
    pub fn zeros<T: Element>(&self, len: usize) -> Result<Buf<T, B>> {
        let mut buf = self.empty(len)?;
        buf.fill_zero()?;
        Ok(buf)
    }

    /// Ordinary memory with a copy of `data`.
    ///
    /// ```
    /// # use symm_core::{Host, World};
    /// # World::<Host>::run(1, |world| {
    /// let tokens = world.pool().from_slice(&[17, 4, 2026])?;
    /// assert_eq!(tokens.to_vec()?, [17, 4, 2026]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`empty`](Pool::empty).
    #[track_caller]
    pub fn from_slice<T: Element>(&self, data: &[T]) -> Result<Buf<T, B>> {
        let mut buf = self.empty(data.len())?;
        buf.copy_from_slice(data)?;
        Ok(buf)
    }

    /// Forbids growth: from now on, an allocation that no free block fits is [`Error::Sealed`].
    /// Registration costs milliseconds and waits for peers, so a server seals its pool once it has
    /// warmed up. Ordinary memory is not affected.
    ///
    /// ```
    /// # use symm_core::{Error, Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// tp.reserve(8 << 20)?;
    /// world.pool().seal();
    /// let (fits, more) = symm!(group = tp, { (tp.empty::<u8>(8 << 20)?, tp.empty::<u8>(1)) })?;
    /// assert!(matches!(more, Err(Error::Sealed { need: 512, .. })));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn seal(&self) {
        self.core().sealed.store(true, Ordering::Relaxed);
    }

    /// Allows growth again.
    ///
    /// ```
    /// # use symm_core::{Error, Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// world.pool().seal();
    /// let refused = symm!(group = tp, { tp.empty::<u8>(1) })?;
    /// assert!(matches!(refused, Err(Error::Sealed { .. })));
    /// world.pool().unseal();
    /// let x = symm!(group = tp, { tp.empty::<u8>(1)? })?;
    /// assert_eq!(world.pool().stats().segments, 1);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn unseal(&self) {
        self.core().sealed.store(false, Ordering::Relaxed);
    }

    /// What the pool holds now, in exact bytes.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let x = symm!(group = tp, { tp.empty::<f32>(1000)? })?;
    /// let y = world.pool().empty::<f32>(1000)?;
    /// let stats = world.pool().stats();
    /// assert_eq!((stats.segments, stats.reserved_bytes), (1, 8 << 20));
    /// assert_eq!((stats.live_bytes(), stats.plain_live_bytes), (4096, 4000)); // x, y
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn stats(&self) -> PoolStats {
        let core = self.core();
        PoolStats {
            reserved_bytes: core.reserved.load(Ordering::Relaxed),
            segments: core.segments.load(Ordering::Relaxed),
            budget_bytes: core.config.budget,
            plain_live_bytes: core.plain.load(Ordering::Relaxed),
            twins: core.twins.load(Ordering::Relaxed),
            arenas: core
                .live_arenas()
                .iter()
                .map(|arena| arena.stats())
                .collect(),
        }
    }

    /// Writes down who allocates what and when, for [`snapshot`](Pool::snapshot), from now on; or
    /// stops, and forgets what was written down.
    ///
    /// While it records, an allocation with its free costs a few microseconds more; while it does not, a
    /// handful of instructions. What was allocated before has no call site in snapshots. Of the changes over time the
    /// last 65,536 are kept, or as many as [`Config::memory_history`](crate::Config::memory_history)
    /// says, which also records from the start.
    ///
    /// ```
    /// use symm_core::{Host, World};
    /// World::<Host>::run(1, |world| {
    ///     world.pool().record(true);
    ///     let weights = world.pool().zeros::<f32>(1 << 10)?;
    ///     let snapshot = world.pool().snapshot();
    ///     assert!(snapshot.plain[0].site.as_deref().is_some_and(|site| site.contains(".rs:")));
    ///     world.pool().record(false);
    ///     drop(weights);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn record(&self, on: bool) {
        let core = self.core();
        let Some(recorder) = core.watch.record(on) else {
            return;
        };
        for chart in core.charts() {
            recorder.meet(chart.arena, chart.live);
        }
        recorder.note(core.totals());
    }

    /// What lies where now, and who put it there as far as [`record`](Pool::record) was on.
    ///
    /// ```
    /// use symm_core::{BlockState, Config, Host, groups, symm};
    /// groups! { pub Tp = "tp"; }
    ///
    /// Config::<Host>::default().memory_history(1000).run(2, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     let x = symm!(group = tp, { tp.empty::<f32>(100)? })?;
    ///     let snapshot = world.pool().snapshot();
    ///     let block = &snapshot.blocks[0];
    ///     assert_eq!((block.offset, block.bytes, block.state), (0, 512, BlockState::Live));
    ///     assert_eq!(snapshot.segments[0].windows.len(), 1);
    ///     assert!(block.site.as_deref().is_some_and(|site| site.contains(".rs:")));
    ///     drop(x);
    ///     assert_eq!(world.pool().snapshot().live_bytes, 0);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn snapshot(&self) -> Snapshot {
        survey::take(&self.rank)
    }

    pub(crate) fn rank(&self) -> &Arc<Rank<B>> {
        &self.rank
    }

    fn core(&self) -> &Arc<PoolCore<B>> {
        &self.rank.pool
    }
}
