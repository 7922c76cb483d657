//! How many calls a rank made: the end of a loop over faults.

use super::Host;
use crate::World;

/// Calls of this rank's backend so far that a [`Fault`](super::Fault) could hit.
///
/// For exhaustive tests: let the k-th call fail for k = 1, 2, .. until a run ends without reaching
/// k.
///
/// ```
/// use symm_core::host::{self, At, Fault, Options, What};
/// use symm_core::{Config, Host, Result, World, groups, symm};
/// groups! { pub Tp = "tp"; }
///
/// fn program(world: World<Host>) -> Result<u64> {
///     let tp = world.split::<Tp>(0, 0)?;
///     let x = symm!(group = tp, { tp.from_slice(&[1.0f32; 4])? })?;
///     x.to_vec()?;
///     Ok(host::calls(&world))
/// }
/// let calls = World::<Host>::run(1, program)?[0];
/// for k in 1..=calls {
///     let broken = Options::default().fault(Fault::new(0, At::Nth(k), What::Fail));
///     assert!(Config::<Host>::default().options(broken).run(1, program).is_err());
/// }
/// # Ok::<(), symm_core::Error>(())
/// ```
pub fn calls(world: &World<Host>) -> u64 {
    world.raw_device().shared().calls.count()
}
