//! What tells groups apart at compile time.

use std::fmt::Debug;
use std::hash::Hash;

/// A kind of group, such as tensor parallel. Made with [`groups!`](crate::groups); buffers and
/// groups carry it in their type.
///
/// ```
/// use symm_core::{GroupTag, groups};
/// groups! {
///     /// Tensor parallel.
///     pub Tp = "tp";
/// }
/// assert_eq!(Tp::NAME, "tp");
/// ```
pub trait GroupTag: Copy + Debug + Eq + Ord + Hash + Send + Sync + 'static {
    /// The name in messages and reports.
    ///
    /// ```
    /// # use symm_core::GroupTag;
    /// # use symm_core::{Dyn, groups};
    /// groups! { pub Tp = "tp"; }
    /// assert_eq!((Tp::NAME, Dyn::NAME), ("tp", "dyn"));
    /// ```
    const NAME: &'static str;
    /// The name of the arena that groups of this tag share with others; `None`: each group has its
    /// own.
    ///
    /// ```
    /// # use symm_core::GroupTag;
    /// # use symm_core::groups;
    /// groups! { pub Tp = "tp"; pub Cp = "cp"; pub Ep = "ep"; arena(Tp, Cp); }
    /// assert!(Tp::ARENA.is_some() && Tp::ARENA == Cp::ARENA);
    /// assert_eq!(Ep::ARENA, None);
    /// ```
    const ARENA: Option<&'static str> = None;
}

/// A group that is chosen at run time, and checked at run time.
///
/// Made by [`World::split_dyn`](crate::World::split_dyn) or [`Group::erase`](crate::Group::erase).
///
/// ```
/// use symm_core::{Dyn, Group, Host, World, symm};
///
/// World::<Host>::run(2, |world| {
///     let group: Group<Dyn, Host> = world.split_dyn("experts", 0, 0)?;
///     let x = symm!(group = group, { group.zeros::<f32>(4)? })?;
///     assert_eq!(x.len(), 4);
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dyn {}

impl GroupTag for Dyn {
    const NAME: &'static str = "dyn";
}
