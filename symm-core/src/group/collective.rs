//! The collectives: each checks its operands, registers what it needs and says which path it took.

use super::Group;
use super::call::run;
use super::path::Path;
use super::prepare;
use super::tag::GroupTag;
use crate::backend::Backend;
use crate::backend::call::{Op, ReduceOp};
use crate::buffer::launch::{Prepared, Send};
use crate::buffer::operand::Operand;
use crate::buffer::{Dst, Src, SymmBuf, SymmViewMut};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::site::Site;

/// Collectives of the group. All ranks call them in the same order with the same lengths.
///
/// Work is enqueued on the thread's current stream (see
/// [`World::on_stream`](crate::World::on_stream)); nothing waits for the device. What the call
/// needs registered and is not yet, it registers first. Common errors: [`Error::Length`],
/// [`Error::Overlap`], [`Error::GroupMismatch`] (another group of the same tag),
/// [`Error::WrongDevice`], [`Error::NoSuchRank`], [`Error::GroupBusy`], [`Error::Registration`],
/// [`Error::RanksDiffer`], [`Error::NotSymmetric`] (in a strict group), [`Error::Suspended`],
/// [`Error::Poisoned`] and those of the backend. Counts and in-place rules are NCCL's
/// (<https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api/colls.html>).
impl<G: GroupTag, B: Backend> Group<G, B> {
    /// `dst` on every rank becomes the reduction of all ranks' `src`.
    ///
    /// ```
    /// # use symm_core::{Host, Path, ReduceOp, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(3, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let x = symm!(group = tp, { tp.from_slice(&[1.0f32, tp.rank() as f32])? })?;
    /// let mut sum = symm!(group = tp, { tp.empty::<f32>(2)? })?;
    /// let path = tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?;
    /// assert_eq!((sum.to_vec()?, path), (vec![3.0, 3.0], Path::Symmetric));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// See above; both operands have the same length.
    #[track_caller]
    pub fn all_reduce<T: Element>(
        &self,
        src: impl Src<T, G, B>,
        dst: impl Dst<T, G, B>,
        op: ReduceOp,
    ) -> Result<Path> {
        self.one(prepare::all_reduce::<T, B>(src, dst, op))
    }

    /// `all_reduce` of a buffer into itself.
    ///
    /// ```
    /// # use symm_core::{Host, ReduceOp, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(3, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let mut x = symm!(group = tp, { tp.from_slice(&[7, 10 * tp.rank() as i32])? })?;
    /// tp.all_reduce_in_place(&mut x, ReduceOp::Max)?;
    /// assert_eq!(x.to_vec()?, [7, 20]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// See above.
    #[track_caller]
    pub fn all_reduce_in_place<T: Element>(
        &self,
        buf: impl Dst<T, G, B>,
        op: ReduceOp,
    ) -> Result<Path> {
        self.one(prepare::all_reduce_in_place::<T, B>(buf, op))
    }

    /// `dst` becomes all ranks' `src` one after another, by rank.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(3, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let r = tp.rank() as i32;
    /// let (mine, mut all) = symm!(group = tp, {
    ///     (tp.from_slice(&[10 * r, 10 * r + 1])?, tp.empty::<i32>(6)?)
    /// })?;
    /// tp.all_gather(&mine, &mut all)?;
    /// assert_eq!(all.to_vec()?, [0, 1, 10, 11, 20, 21]); // on every rank
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// See above; `dst` is as many times longer as the group has ranks.
    #[track_caller]
    pub fn all_gather<T: Element>(
        &self,
        src: impl Src<T, G, B>,
        dst: impl Dst<T, G, B>,
    ) -> Result<Path> {
        self.one(prepare::all_gather::<T, B>(src, dst))
    }

    /// `all_gather` of the parts of one buffer: this rank's part is the one at its rank.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(3, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let r = tp.rank();
    /// let mut all = symm!(group = tp, { tp.zeros::<u32>(6)? })?;
    /// all.view_mut(2 * r..2 * r + 2)?.copy_from_slice(&[10 * r as u32, 10 * r as u32 + 1])?;
    /// tp.all_gather_in_place(&mut all)?;
    /// assert_eq!(all.to_vec()?, [0, 1, 10, 11, 20, 21]); // on every rank
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// See above; the length is a multiple of the group's size.
    #[track_caller]
    pub fn all_gather_in_place<T: Element>(&self, buf: impl Dst<T, G, B>) -> Result<Path> {
        let buf = buf.into_operand();
        let count = self.part(Op::AllGather, "the buffer", &buf)?;
        self.one(Prepared::new(
            Op::AllGather,
            T::DTYPE,
            count,
            Send::InPlace((self.rank() * count) as isize),
            Some(buf),
        ))
    }

    /// `dst` becomes this rank's part of the reduction of all ranks' `src`.
    ///
    /// ```
    /// # use symm_core::{Host, ReduceOp, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let r = tp.rank() as i32; // x is [0, 1, 2, 3] on rank 0, and [1, 2, 3, 4] on rank 1
    /// let (x, mut part) = symm!(group = tp, {
    ///     (tp.from_slice(&[r, r + 1, r + 2, r + 3])?, tp.empty::<i32>(2)?)
    /// })?;
    /// tp.reduce_scatter(&x, &mut part, ReduceOp::Sum)?;
    /// assert_eq!(part.to_vec()?, [[1, 3], [5, 7]][tp.rank()]); // of [1, 3, 5, 7]
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// See above; `src` is as many times longer as the group has ranks.
    #[track_caller]
    pub fn reduce_scatter<T: Element>(
        &self,
        src: impl Src<T, G, B>,
        dst: impl Dst<T, G, B>,
        op: ReduceOp,
    ) -> Result<Path> {
        self.one(prepare::reduce_scatter::<T, B>(src, dst, op))
    }

    /// `reduce_scatter` of a buffer into this rank's part of it, which is returned. The rest of the
    /// buffer is left as it was.
    ///
    /// ```
    /// # use symm_core::{Host, ReduceOp, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let r = tp.rank() as i32;
    /// let mut x = symm!(group = tp, { tp.from_slice(&[r, r + 1, r + 2, r + 3])? })?;
    /// let (part, _path) = tp.reduce_scatter_in_place(&mut x, ReduceOp::Sum)?;
    /// assert_eq!(part.as_view().to_vec()?, [[1, 3], [5, 7]][tp.rank()]);
    /// assert_eq!(x.to_vec()?, [[1, 3, 2, 3], [1, 2, 5, 7]][tp.rank()]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// See above; the length is a multiple of the group's size.
    #[track_caller]
    pub fn reduce_scatter_in_place<'a, T: Element>(
        &self,
        buf: &'a mut SymmBuf<T, G, B>,
        op: ReduceOp,
    ) -> Result<(SymmViewMut<'a, T, G, B>, Path)> {
        let count = self.part(
            Op::ReduceScatter(op),
            "the buffer",
            &Operand::ours(&buf.buf, 0..buf.len(), true),
        )?;
        let start = self.rank() * count;
        let mine = start..start + count;
        let recv = Operand::ours(&buf.buf, mine.clone(), true);
        let send = Send::InPlace(-(start as isize));
        let call = Prepared::new(Op::ReduceScatter(op), T::DTYPE, count, send, Some(recv));
        let path = self.one(call)?;
        Ok((buf.view_mut(mine)?, path))
    }

    /// `dst` on every rank becomes `src` of the rank `root`. On other ranks `src` is not read and
    /// may have any length.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(3, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let r = tp.rank() as i32;
    /// let (x, mut y) = symm!(group = tp, { (tp.from_slice(&[r, 10 * r])?, tp.empty::<i32>(2)?) })?;
    /// tp.broadcast(&x, &mut y, 2)?;
    /// assert_eq!(y.to_vec()?, [2, 20]); // on every rank
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// See above; `dst` is as long as `src` of the rank `root`.
    #[track_caller]
    pub fn broadcast<T: Element>(
        &self,
        src: impl Src<T, G, B>,
        dst: impl Dst<T, G, B>,
        root: usize,
    ) -> Result<Path> {
        self.one(prepare::broadcast::<T, B>(src, dst, root))
    }

    /// `buf` on every rank becomes that of the rank `root`.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(3, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let mut seed = symm!(group = tp, { tp.from_slice(&[tp.rank() as u64 + 7])? })?;
    /// tp.broadcast_in_place(&mut seed, 0)?;
    /// assert_eq!(seed.to_vec()?, [7]); // that of rank 0
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// See above.
    #[track_caller]
    pub fn broadcast_in_place<T: Element>(
        &self,
        buf: impl Dst<T, G, B>,
        root: usize,
    ) -> Result<Path> {
        self.one(prepare::broadcast_in_place::<T, B>(buf, root))
    }

    /// `dst` on the rank `root` becomes the reduction of all ranks' `src`. On other ranks `dst` is
    /// not written and may have any length.
    ///
    /// ```
    /// # use symm_core::{Host, ReduceOp, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(3, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let r = tp.rank() as i32;
    /// let (x, mut sum) = symm!(group = tp, { (tp.from_slice(&[r, 10 * r])?, tp.zeros::<i32>(2)?) })?;
    /// tp.reduce(&x, &mut sum, ReduceOp::Sum, 1)?;
    /// assert_eq!(sum.to_vec()?, [[0, 0], [3, 30], [0, 0]][tp.rank()]); // written on rank 1 alone
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// See above; on `root` both operands have the same length.
    #[track_caller]
    pub fn reduce<T: Element>(
        &self,
        src: impl Src<T, G, B>,
        dst: impl Dst<T, G, B>,
        op: ReduceOp,
        root: usize,
    ) -> Result<Path> {
        self.one(prepare::reduce::<T, B>(src, dst, op, root))
    }

    /// `buf` on the rank `root` becomes the reduction of all ranks' `buf`; on others it is left as
    /// it was.
    ///
    /// ```
    /// # use symm_core::{Host, ReduceOp, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(3, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let mut x = symm!(group = tp, { tp.from_slice(&[2, tp.rank() as i32 + 1])? })?;
    /// tp.reduce_in_place(&mut x, ReduceOp::Prod, 0)?;
    /// assert_eq!(x.to_vec()?, [[8, 6], [2, 2], [2, 3]][tp.rank()]); // ranks 1 and 2 keep theirs
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// See above.
    #[track_caller]
    pub fn reduce_in_place<T: Element>(
        &self,
        buf: impl Dst<T, G, B>,
        op: ReduceOp,
        root: usize,
    ) -> Result<Path> {
        self.one(prepare::reduce_in_place::<T, B>(buf, op, root))
    }

    /// Part `i` of `src` goes to rank `i`; part `i` of `dst` comes from rank `i`.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let r = 10 * tp.rank() as i32;
    /// let (x, mut y) = symm!(group = tp, {
    ///     (tp.from_slice(&[r, r + 1, r + 2, r + 3])?, tp.empty::<i32>(4)?)
    /// })?;
    /// tp.all_to_all(&x, &mut y)?; // two parts, each of two elements
    /// assert_eq!(y.to_vec()?, [[0, 1, 10, 11], [2, 3, 12, 13]][tp.rank()]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// See above; both have the same length, a multiple of the group's size.
    #[track_caller]
    pub fn all_to_all<T: Element>(
        &self,
        src: impl Src<T, G, B>,
        dst: impl Dst<T, G, B>,
    ) -> Result<Path> {
        let (src, dst) = (src.into_operand(), dst.into_operand());
        let count = self.part(Op::AllToAll, "the source", &src)?;
        self.one(Prepared::new(
            Op::AllToAll,
            T::DTYPE,
            count,
            Send::From(src),
            Some(dst),
        ))
    }

    /// `dst` on the rank `root` becomes all ranks' `src` one after another. On other ranks `dst` is
    /// not written and may have any length.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let r = 10 * tp.rank() as i32;
    /// let (x, mut all) = symm!(group = tp, { (tp.from_slice(&[r, r + 1])?, tp.zeros::<i32>(4)?) })?;
    /// tp.gather(&x, &mut all, 1)?;
    /// assert_eq!(all.to_vec()?, [[0, 0, 0, 0], [0, 1, 10, 11]][tp.rank()]); // written on rank 1 alone
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// See above; on `root`, `dst` is as many times longer as the group has ranks.
    #[track_caller]
    pub fn gather<T: Element>(
        &self,
        src: impl Src<T, G, B>,
        dst: impl Dst<T, G, B>,
        root: usize,
    ) -> Result<Path> {
        self.one(prepare::gather::<T, B>(src, dst, root))
    }

    /// `dst` becomes this rank's part of `src` on the rank `root`. On other ranks `src` is not read
    /// and may have any length.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let all: &[i32] = if tp.rank() == 0 { &[1, 2, 3, 4] } else { &[0; 4] };
    /// let (x, mut part) = symm!(group = tp, { (tp.from_slice(all)?, tp.empty::<i32>(2)?) })?;
    /// tp.scatter(&x, &mut part, 0)?;
    /// assert_eq!(part.to_vec()?, [[1, 2], [3, 4]][tp.rank()]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// See above; on `root`, `src` is as many times longer as the group has ranks.
    #[track_caller]
    pub fn scatter<T: Element>(
        &self,
        src: impl Src<T, G, B>,
        dst: impl Dst<T, G, B>,
        root: usize,
    ) -> Result<Path> {
        self.one(prepare::scatter::<T, B>(src, dst, root))
    }

    /// Sends `src` to the rank `peer`, which receives as many elements. Ranks that send to each
    /// other do so in one [`batch`](Group::batch), or they wait for each other for ever.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let mut x = symm!(group = tp, { tp.zeros::<f32>(3)? })?;
    /// if tp.rank() == 0 {
    ///     x.copy_from_slice(&[1.0, 2.0, 3.0])?;
    ///     tp.send(&x, 1)?;
    /// } else {
    ///     tp.recv(&mut x, 0)?;
    /// }
    /// assert_eq!(x.to_vec()?, [1.0, 2.0, 3.0]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// See above.
    #[track_caller]
    pub fn send<T: Element>(&self, src: impl Src<T, G, B>, peer: usize) -> Result<Path> {
        self.one(prepare::send::<T, B>(src, peer))
    }

    /// Receives `dst` from the rank `peer`, which sends as many elements.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let r = tp.rank() as i32;
    /// let mut x = symm!(group = tp, { tp.from_slice(&[r, r + 1, r + 2, r + 3])? })?;
    /// match tp.rank() {
    ///     0 => tp.recv(x.view_mut(2..4)?, 1)?, // into a part of the buffer
    ///     _ => tp.send(x.view(0..2)?, 0)?,
    /// };
    /// assert_eq!(x.to_vec()?, [[0, 1, 1, 2], [1, 2, 3, 4]][tp.rank()]);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// See above.
    #[track_caller]
    pub fn recv<T: Element>(&self, dst: impl Dst<T, G, B>, peer: usize) -> Result<Path> {
        self.one(prepare::recv::<T, B>(dst, peer))
    }

    #[track_caller]
    fn one(&self, call: Prepared<'_, B>) -> Result<Path> {
        let mut call = [call];
        run(self.core(), Site::caller(), &mut call)?;
        let [call] = call;
        Ok(call.choice.path)
    }

    /// Elements of one rank's part of the operand.
    pub(crate) fn part(
        &self,
        op: Op,
        what: &'static str,
        operand: &Operand<'_, B>,
    ) -> Result<usize> {
        let count = operand.len / self.size();
        match count * self.size() == operand.len {
            true => Ok(count),
            false => {
                let (what, group) = (
                    format!("{}, {what}", op.name()).into(),
                    self.core().label().into(),
                );
                Err(Error::Length {
                    what,
                    group,
                    got: operand.len,
                    expected: (count + 1) * self.size(),
                })
            }
        }
    }
}
