//! Several operations in one NCCL group: they progress together.

use super::Group;
use super::call::run;
use super::path::Path;
use super::prepare;
use super::tag::GroupTag;
use crate::backend::Backend;
use crate::backend::call::ReduceOp;
use crate::buffer::launch::Prepared;
use crate::buffer::{Dst, Src};
use crate::element::Element;
use crate::error::Result;
use crate::site::Site;

/// Operations that are launched together, as between `ncclGroupStart` and `ncclGroupEnd`. Made with
/// [`Group::batch`].
///
/// Nothing runs before [`launch`](Batch::launch); a batch that is dropped has no effect.
///
/// ```
/// use symm_core::{Host, World, groups, symm};
/// groups! { pub Pp = "pp"; }
/// World::<Host>::run(3, |world| {
///     let pp = world.split::<Pp>(0, 0)?;
///     let (next, last) = ((pp.rank() + 1) % 3, (pp.rank() + 2) % 3);
///     let (mine, mut theirs) = symm!(group = pp, { (pp.from_slice(&[pp.rank() as i32])?, pp.empty::<i32>(1)?) })?;
///     let mut ring = pp.batch();
///     ring.send(&mine, next);
///     ring.recv(&mut theirs, last);
///     ring.launch()?;
///     assert_eq!(theirs.to_vec()?, [last as i32]);
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a batch does nothing until it is launched"]
pub struct Batch<'a, G: GroupTag, B: Backend> {
    group: &'a Group<G, B>,
    calls: Vec<Prepared<'a, B>>,
}

impl<G: GroupTag, B: Backend> Group<G, B> {
    /// Collects several operations, to launch them as one. For sends and receives that need each
    /// other, and for fewer launches.
    pub fn batch(&self) -> Batch<'_, G, B> {
        Batch {
            group: self,
            calls: Vec::new(),
        }
    }
}

impl<'a, G: GroupTag, B: Backend> Batch<'a, G, B> {
    /// Adds [`Group::send`].
    pub fn send<T: Element>(&mut self, src: impl Src<T, G, B> + 'a, peer: usize) -> &mut Self {
        self.push(prepare::send::<T, B>(src, peer))
    }

    /// Adds [`Group::recv`].
    pub fn recv<T: Element>(&mut self, dst: impl Dst<T, G, B> + 'a, peer: usize) -> &mut Self {
        self.push(prepare::recv::<T, B>(dst, peer))
    }

    /// Adds [`Group::all_reduce`].
    pub fn all_reduce<T: Element>(
        &mut self,
        src: impl Src<T, G, B> + 'a,
        dst: impl Dst<T, G, B> + 'a,
        op: ReduceOp,
    ) -> &mut Self {
        self.push(prepare::all_reduce::<T, B>(src, dst, op))
    }

    /// Adds [`Group::all_reduce_in_place`].
    pub fn all_reduce_in_place<T: Element>(
        &mut self,
        buf: impl Dst<T, G, B> + 'a,
        op: ReduceOp,
    ) -> &mut Self {
        self.push(prepare::all_reduce_in_place::<T, B>(buf, op))
    }

    /// Adds [`Group::all_gather`].
    pub fn all_gather<T: Element>(
        &mut self,
        src: impl Src<T, G, B> + 'a,
        dst: impl Dst<T, G, B> + 'a,
    ) -> &mut Self {
        self.push(prepare::all_gather::<T, B>(src, dst))
    }

    /// Adds [`Group::reduce_scatter`].
    pub fn reduce_scatter<T: Element>(
        &mut self,
        src: impl Src<T, G, B> + 'a,
        dst: impl Dst<T, G, B> + 'a,
        op: ReduceOp,
    ) -> &mut Self {
        self.push(prepare::reduce_scatter::<T, B>(src, dst, op))
    }

    /// Adds [`Group::broadcast_in_place`].
    pub fn broadcast_in_place<T: Element>(
        &mut self,
        buf: impl Dst<T, G, B> + 'a,
        root: usize,
    ) -> &mut Self {
        self.push(prepare::broadcast_in_place::<T, B>(buf, root))
    }

    /// Launches what was added, and says which path each operation took, in the order in which they
    /// were added.
    ///
    /// # Errors
    /// Those of the operations; nothing is launched then.
    #[track_caller]
    pub fn launch(mut self) -> Result<Vec<Path>> {
        run(self.group.core(), Site::caller(), &mut self.calls)?;
        Ok(self.calls.iter().map(|call| call.choice.path).collect())
    }

    fn push(&mut self, call: Prepared<'a, B>) -> &mut Self {
        self.calls.push(call);
        self
    }
}
