//! Which collectives may go without the window.

use std::sync::atomic::{AtomicU32, Ordering};

use super::path::{Path, Reason};

/// The reasons for which a collective of a strict group may be plain. Any other is
/// [`Error::NotSymmetric`](crate::Error::NotSymmetric) on all ranks, and nothing is launched.
///
/// ```
/// use symm_core::{Error, Host, Reason, ReduceOp, Strict, World, groups, plain, plain_mut};
/// groups! { pub Tp = "tp"; }
/// World::<Host>::run(2, |world| {
///     let tp = world.split::<Tp>(0, 0)?;
///     tp.set_strict(Strict::new());
///     let (x, mut y) = (world.pool().zeros::<f32>(4)?, world.pool().zeros::<f32>(4)?);
///     let refused = tp.all_reduce(plain(&x), plain_mut(&mut y), ReduceOp::Sum);
///     assert!(matches!(refused, Err(Error::NotSymmetric { reason: Reason::Foreign, .. })));
///     tp.set_strict(Strict::new().allow(Reason::Foreign));
///     tp.all_reduce(plain(&x), plain_mut(&mut y), ReduceOp::Sum)?;
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strict(u32);

impl Default for Strict {
    fn default() -> Self {
        Self::new()
    }
}

impl Strict {
    /// Nothing is forbidden.
    const OFF: u32 = u32::MAX;

    /// Plain only where there is nothing to be had: a group of one rank, nothing to move, an
    /// operation that NCCL has no symmetric kernel for, and what was found to be faster without the
    /// window ([`Reason::Faster`]): its operands are in windows all the same.
    ///
    /// ```
    /// # use symm_core::{Host, Path, Reason, Strict, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// tp.set_strict(Strict::new());
    /// let mut x = symm!(group = tp, { tp.zeros::<f32>(4)? })?;
    /// assert_eq!(tp.broadcast_in_place(&mut x, 0)?, Path::Plain(Reason::NoKernel));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub const fn new() -> Self {
        Self(
            bit(Reason::SingleRank)
                | bit(Reason::Empty)
                | bit(Reason::NoKernel)
                | bit(Reason::Faster),
        )
    }

    /// Every reason is allowed: not strict.
    ///
    /// ```
    /// # use symm_core::{Config, Host, Path, Reason, Strict, groups, plain_mut};
    /// # groups! { pub Tp = "tp"; }
    /// // Groups are strict when they are made, and one of them is an exception.
    /// let config = Config::<Host>::default().strict(true);
    /// config.run(2, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     tp.set_strict(Strict::off());
    ///     let mut x = world.pool().zeros::<f32>(4)?;
    ///     assert_eq!(tp.broadcast_in_place(plain_mut(&mut x), 0)?, Path::Plain(Reason::NoKernel));
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub const fn off() -> Self {
        Self(Self::OFF)
    }

    /// Allows a reason too.
    ///
    /// ```
    /// # use symm_core::{Host, Path, Reason, ReduceOp, Strict, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// tp.set_strict(Strict::new().allow(Reason::Disabled));
    /// let mut x = symm!(group = tp, when = false, { tp.zeros::<f32>(4)? })?;
    /// let path = tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    /// assert_eq!(path, Path::Plain(Reason::Disabled));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    #[must_use]
    pub const fn allow(self, reason: Reason) -> Self {
        Self(self.0 | bit(reason))
    }

    /// Forbids a reason too.
    ///
    /// ```
    /// # use symm_core::{Error, Host, Reason, Strict, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// tp.set_strict(Strict::new().forbid(Reason::NoKernel));
    /// let mut x = symm!(group = tp, { tp.zeros::<f32>(4)? })?;
    /// let refused = tp.broadcast_in_place(&mut x, 0);
    /// assert!(matches!(refused, Err(Error::NotSymmetric { reason: Reason::NoKernel, .. })));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    #[must_use]
    pub const fn forbid(self, reason: Reason) -> Self {
        Self(self.0 & !bit(reason))
    }
}

const fn bit(reason: Reason) -> u32 {
    1 << reason as u32
}

/// A group's setting.
#[derive(Debug)]
pub(crate) struct Strictness(AtomicU32);

impl Strictness {
    pub(crate) fn new(strict: Strict) -> Self {
        Self(AtomicU32::new(strict.0))
    }

    pub(crate) fn set(&self, strict: Strict) {
        self.0.store(strict.0, Ordering::Relaxed);
    }

    /// Why the path is not allowed.
    pub(crate) fn refuses(&self, path: Path) -> Option<Reason> {
        match path {
            Path::Symmetric => None,
            Path::Plain(reason) => {
                (self.0.load(Ordering::Relaxed) & bit(reason) == 0).then_some(reason)
            }
        }
    }
}
