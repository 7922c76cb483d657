//! What a calibration found.

use std::fmt;
use std::time::Duration;

use super::path::Path;

/// What [`Group::calibrate`](crate::Group::calibrate) measured, and what was chosen. The same on all
/// ranks, but for [`cached`](Calibration::cached). Its text is a table.
///
/// ```
/// use symm_core::{Host, Path, World, groups};
/// groups! { pub Tp = "tp"; }
/// World::<Host>::run(2, |world| {
///     let found = world.split::<Tp>(0, 0)?.calibrate()?;
///     // The host backend has no time of its own, so nothing is faster than windows.
///     assert!(found.points.iter().all(|point| point.path == Path::Symmetric));
///     if world.rank() == 0 {
///         println!("{found}");
///     }
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Calibration {
    /// By operation, types and size. Empty for a group of one rank, and where NCCL takes no symmetric
    /// kernels.
    pub points: Vec<CalibrationPoint>,
    /// Repeats of a tenth of the points or more differ by more than 10%: the result is used, but not
    /// kept.
    pub noisy: bool,
    /// This rank wrote the result to the cache: rank 0 of the group, unless it was noisy or there is
    /// nowhere to write to.
    pub cached: bool,
}

/// One operation on one size.
///
/// ```
/// # use std::time::Duration;
/// # use symm_core::{Config, Host, Path, groups, host};
/// # groups! { pub Tp = "tp"; }
/// # let folder = std::env::temp_dir().join(format!("symm-doc-point-{}", std::process::id()));
/// // A machine on which windows take half of the time.
/// let costs = |call: &host::Launched| if call.symmetric { 10_000 } else { 20_000 };
/// let options = host::Options::default().costs("fast windows", costs);
/// let config = Config::<Host>::default().options(options).cache_dir(&folder);
/// config.run(2, |world| {
///     let point = &world.split::<Tp>(0, 0)?.calibrate()?.points[0];
///     let times = [point.windowed, point.twin];
///     assert_eq!(times, [Duration::from_micros(10), Duration::from_micros(20)]);
///     assert_eq!((point.operation, point.path), ("all_reduce", Path::Symmetric));
///     Ok(())
/// })?;
/// # let _ = std::fs::remove_dir_all(&folder);
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CalibrationPoint {
    /// The operation, e.g. `all_reduce`.
    pub operation: &'static str,
    /// The types for which it stands: `f16,bf16`, `f32` or `any`.
    pub types: &'static str,
    /// Bytes of the whole buffer: of all ranks' parts together in all_gather and reduce_scatter.
    pub bytes: u64,
    /// Time on the device of one call on windows: the median of the repeats, on the slowest rank.
    pub windowed: Duration,
    /// The same on the twin.
    pub twin: Duration,
    /// How far the middle half of the repeats spreads, as a part of their median: the larger of the
    /// two, on the worst rank.
    pub spread: f64,
    /// The path of such calls from now on.
    pub path: Path,
}

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [operation, types, bytes] = ["operation", "types", "bytes"];
        writeln!(
            f,
            "{operation:<16}{types:<10}{bytes:>10}{:>12}{:>12}{:>9}  path",
            "windows, us", "twin, us", "spread"
        )?;
        for point in &self.points {
            writeln!(
                f,
                "{:<16}{:<10}{:>10}{:>12.2}{:>12.2}{:>8.1}%  {}",
                point.operation,
                point.types,
                point.bytes,
                point.windowed.as_secs_f64() * 1e6,
                point.twin.as_secs_f64() * 1e6,
                point.spread * 100.0,
                point.path
            )?;
        }
        match (self.noisy, self.cached) {
            (true, _) => f.write_str("noisy: used, but not kept\n"),
            (false, true) => f.write_str("kept for the next start\n"),
            (false, false) => Ok(()),
        }
    }
}
