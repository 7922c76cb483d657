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
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let peer = 1 - tp.rank();
    /// let (mine, mut theirs) = symm!(group = tp, {
    ///     (tp.from_slice(&[tp.rank() as f32; 2])?, tp.empty::<f32>(2)?)
    /// })?;
    /// let mut exchange = tp.batch();
    /// exchange.send(&mine, peer).recv(&mut theirs, peer);
    /// exchange.launch()?;
    /// assert_eq!(theirs.to_vec()?, [peer as f32; 2]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn batch(&self) -> Batch<'_, G, B> {
        Batch {
            group: self,
            calls: Vec::new(),
        }
    }
}

impl<'a, G: GroupTag, B: Backend> Batch<'a, G, B> {
    /// Adds [`Group::send`].
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(3, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let (x, mut y) = symm!(group = tp, { (tp.from_slice(&[7, 8, 9])?, tp.zeros::<i32>(2)?) })?;
    /// let mut parts = tp.batch();
    /// match tp.rank() {
    ///     0 => parts.send(x.view(0..1)?, 1).send(x.view(1..3)?, 2),
    ///     1 => parts.recv(y.view_mut(0..1)?, 0),
    ///     _ => parts.recv(&mut y, 0),
    /// };
    /// parts.launch()?;
    /// assert_eq!(y.to_vec()?, [[0, 0], [7, 0], [8, 9]][tp.rank()]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn send<T: Element>(&mut self, src: impl Src<T, G, B> + 'a, peer: usize) -> &mut Self {
        self.push(prepare::send::<T, B>(src, peer))
    }

    /// Adds [`Group::recv`].
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(3, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let mut x = symm!(group = tp, { tp.from_slice(&[tp.rank() as i32; 2])? })?;
    /// let (mut first, mut second) = x.split_at_mut(1)?;
    /// let mut parts = tp.batch();
    /// match tp.rank() {
    ///     0 => parts.recv(&mut first, 1).recv(&mut second, 2),
    ///     _ => parts.send(first.as_view(), 0),
    /// };
    /// parts.launch()?;
    /// assert_eq!(x.to_vec()?, [[1, 2], [1, 1], [2, 2]][tp.rank()]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn recv<T: Element>(&mut self, dst: impl Dst<T, G, B> + 'a, peer: usize) -> &mut Self {
        self.push(prepare::recv::<T, B>(dst, peer))
    }

    /// Adds [`Group::all_reduce`].
    ///
    /// ```
    /// # use symm_core::{Host, ReduceOp, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let x = symm!(group = tp, { tp.from_slice(&[tp.rank() as f32, 4.0])? })?;
    /// let (mut sum, mut max) = symm!(group = tp, { (tp.empty::<f32>(2)?, tp.empty::<f32>(2)?) })?;
    /// let mut both = tp.batch();
    /// both.all_reduce(&x, &mut sum, ReduceOp::Sum).all_reduce(&x, &mut max, ReduceOp::Max);
    /// both.launch()?;
    /// assert_eq!((sum.to_vec()?, max.to_vec()?), (vec![1.0, 8.0], vec![1.0, 4.0]));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn all_reduce<T: Element>(
        &mut self,
        src: impl Src<T, G, B> + 'a,
        dst: impl Dst<T, G, B> + 'a,
        op: ReduceOp,
    ) -> &mut Self {
        self.push(prepare::all_reduce::<T, B>(src, dst, op))
    }

    /// Adds [`Group::all_reduce_in_place`].
    ///
    /// ```
    /// # use symm_core::{Host, ReduceOp, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let mut gradients = symm!(group = tp, {
    ///     [tp.from_slice(&[1.0f32])?, tp.from_slice(&[2.0f32; 9])?]
    /// })?;
    /// let mut all = tp.batch();
    /// for gradient in &mut gradients {
    ///     all.all_reduce_in_place(gradient, ReduceOp::Avg);
    /// }
    /// all.launch()?;
    /// assert_eq!((gradients[0].to_vec()?, gradients[1].to_vec()?), (vec![1.0], vec![2.0; 9]));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn all_reduce_in_place<T: Element>(
        &mut self,
        buf: impl Dst<T, G, B> + 'a,
        op: ReduceOp,
    ) -> &mut Self {
        self.push(prepare::all_reduce_in_place::<T, B>(buf, op))
    }

    /// Adds [`Group::all_gather`].
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let (k, v) = symm!(group = tp, { (tp.from_slice(&[tp.rank() as i32])?, tp.from_slice(&[5])?) })?;
    /// let (mut ks, mut vs) = symm!(group = tp, { (tp.empty::<i32>(2)?, tp.empty::<i32>(2)?) })?;
    /// let mut cache = tp.batch();
    /// cache.all_gather(&k, &mut ks).all_gather(&v, &mut vs);
    /// cache.launch()?;
    /// assert_eq!((ks.to_vec()?, vs.to_vec()?), (vec![0, 1], vec![5, 5]));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn all_gather<T: Element>(
        &mut self,
        src: impl Src<T, G, B> + 'a,
        dst: impl Dst<T, G, B> + 'a,
    ) -> &mut Self {
        self.push(prepare::all_gather::<T, B>(src, dst))
    }

    /// Adds [`Group::reduce_scatter`].
    ///
    /// ```
    /// # use symm_core::{Host, ReduceOp, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let (x, mut part) = symm!(group = tp, { (tp.from_slice(&[1, 2, 3, 4])?, tp.empty::<i32>(2)?) })?;
    /// let mut total = symm!(group = tp, { tp.from_slice(&[1])? })?;
    /// let mut both = tp.batch();
    /// both.reduce_scatter(&x, &mut part, ReduceOp::Sum).all_reduce_in_place(&mut total, ReduceOp::Sum);
    /// both.launch()?;
    /// assert_eq!((part.to_vec()?, total.to_vec()?), ([[2, 4], [6, 8]][tp.rank()].to_vec(), vec![2]));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn reduce_scatter<T: Element>(
        &mut self,
        src: impl Src<T, G, B> + 'a,
        dst: impl Dst<T, G, B> + 'a,
        op: ReduceOp,
    ) -> &mut Self {
        self.push(prepare::reduce_scatter::<T, B>(src, dst, op))
    }

    /// Adds [`Group::broadcast_in_place`].
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let r = tp.rank() as i32;
    /// let (mut x, mut y) = symm!(group = tp, { (tp.from_slice(&[r])?, tp.from_slice(&[r])?) })?;
    /// let mut both = tp.batch();
    /// both.broadcast_in_place(&mut x, 0).broadcast_in_place(&mut y, 1); // one root each
    /// both.launch()?;
    /// assert_eq!((x.to_vec()?, y.to_vec()?), (vec![0], vec![1]));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
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
    /// ```
    /// # use symm_core::{Error, Host, Path, Reason, ReduceOp, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let (mut x, mut y) = symm!(group = tp, { (tp.from_slice(&[1.0f32])?, tp.zeros::<f32>(1)?) })?;
    /// let mut both = tp.batch();
    /// both.all_reduce_in_place(&mut x, ReduceOp::Sum).broadcast_in_place(&mut y, 0);
    /// assert_eq!(both.launch()?, [Path::Symmetric, Path::Plain(Reason::NoKernel)]);
    ///
    /// let mut refused = tp.batch();
    /// refused.all_reduce_in_place(&mut x, ReduceOp::Sum).broadcast_in_place(&mut y, 2);
    /// assert!(matches!(refused.launch(), Err(Error::NoSuchRank { rank: 2, .. })));
    /// assert_eq!(x.to_vec()?, [2.0]); // the sum of the first batch alone
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
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
