//! Where ranks run: [`Cuda`] on NVIDIA GPUs, [`Host`] as threads on any machine.

#![allow(unsafe_code)]

pub(crate) mod call;
pub(crate) mod defects;
pub(crate) mod driver;

pub mod cuda;
pub mod host;

use std::fmt::Debug;
use std::hash::Hash;

pub use cuda::Cuda;
pub use host::Host;

/// A place where ranks run. Sealed: [`Cuda`] and [`Host`].
///
/// Code that is generic over it runs on both, so that a layer is tested on a laptop as it runs on
/// GPUs:
///
/// ```
/// use symm_core::{Backend, Host, Result, World};
///
/// fn rank<B: Backend>(world: World<B>) -> Result<usize> {
///     Ok(world.rank())
/// }
/// assert_eq!(World::<Host>::run(3, rank)?, [0, 1, 2]);
/// # Ok::<(), symm_core::Error>(())
/// ```
///
/// The supertraits let users derive `Clone`, `Debug` and the like on structs that are generic over
/// the backend.
pub trait Backend:
    driver::Driver + Copy + Debug + Default + Eq + Ord + Hash + Send + Sync + 'static
{
}
