//! What a pool holds, in exact bytes.

use std::fmt;

/// A rank's memory at one moment. All figures are bytes unless they say otherwise.
///
/// ```
/// use symm_core::{Host, World, groups, symm};
/// groups! { pub Tp = "tp"; }
///
/// World::<Host>::run(2, |world| {
///     let tp = world.split::<Tp>(0, 0)?;
///     let x = symm!(group = tp, { tp.empty::<f32>(1000)? })?;
///     let stats = world.pool().stats();
///     assert_eq!(stats.live_bytes(), 4096); // 4000, rounded to 512
///     assert_eq!(stats.reserved_bytes, 8 << 20); // one segment
///     drop(x);
///     assert_eq!(world.pool().stats().live_bytes(), 0);
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Bytes of all segments that the device has given and not taken back.
    pub reserved_bytes: u64,
    /// Number of those segments.
    pub segments: usize,
    /// The most bytes that segments may take.
    pub budget_bytes: u64,
    /// Twin communicators of the rank's groups (see [`Group::calibrate`](crate::Group::calibrate)).
    /// Each takes memory of NCCL's own, of which NCCL tells no figure: it is not in
    /// `reserved_bytes`, nor is that of the groups' first communicators.
    pub twins: usize,
    /// Bytes of ordinary memory in use, outside the arenas.
    pub plain_live_bytes: u64,
    /// The arenas, in the order in which they were made.
    pub arenas: Vec<ArenaStats>,
}

impl PoolStats {
    /// Bytes that buffers own in all arenas, in multiples of 512.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let x = symm!(group = tp, { tp.empty::<u8>(700)? })?;
    /// let y = world.pool().empty::<u8>(700)?; // ordinary memory does not count
    /// assert_eq!(world.pool().stats().live_bytes(), 1024);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn live_bytes(&self) -> u64 {
        self.arenas.iter().map(|arena| arena.live_bytes).sum()
    }
}

/// One arena at one moment.
///
/// ```
/// # use symm_core::{Host, World, groups, symm};
/// # groups! { pub Tp = "tp"; }
/// let digests = World::<Host>::run(2, |world| {
///     let tp = world.split::<Tp>(0, 0)?;
///     let (x, y) = symm!(group = tp, { (tp.empty::<u8>(1000)?, tp.empty::<u8>(1)?) })?;
///     drop(y);
///     let arena = &world.pool().stats().arenas[0];
///     assert_eq!((arena.allocations, arena.live_blocks, arena.segments), (2, 1, 1));
///     assert_eq!((arena.live_bytes, arena.peak_live_bytes), (1024, 1536));
///     Ok(arena.digest)
/// })?;
/// assert_eq!(digests[0], digests[1]); // the ranks have allocated alike
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArenaStats {
    /// The group's label, or the name of the shared arena.
    pub name: String,
    /// Number of segments.
    pub segments: usize,
    /// Bytes of the segments.
    pub reserved_bytes: u64,
    /// Bytes that buffers own, in multiples of 512.
    pub live_bytes: u64,
    /// The most that `live_bytes` has been.
    pub peak_live_bytes: u64,
    /// Number of buffers.
    pub live_blocks: u64,
    /// Number of allocations so far.
    pub allocations: u64,
    /// A digest of all allocations so far: their order, sizes and positions. Equal on ranks with
    /// equal histories.
    pub digest: u64,
}

impl fmt::Display for PoolStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} B reserved in {} segments, {} B live, {} B plain, {} twins",
            self.reserved_bytes,
            self.segments,
            self.live_bytes(),
            self.plain_live_bytes,
            self.twins
        )
    }
}
