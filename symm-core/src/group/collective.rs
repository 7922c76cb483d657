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
/// [`Error::Poisoned`] and those of the backend. Counts and in-place rules are NCCL's
/// (<https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api/colls.html>).
impl<G: GroupTag, B: Backend> Group<G, B> {
    /// `dst` on every rank becomes the reduction of all ranks' `src`.
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
    /// # Errors
    /// See above.
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
    /// # Errors
    /// See above.
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
    /// # Errors
    /// See above.
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
    /// # Errors
    /// See above.
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
    /// # Errors
    /// See above.
    #[track_caller]
    pub fn send<T: Element>(&self, src: impl Src<T, G, B>, peer: usize) -> Result<Path> {
        self.one(prepare::send::<T, B>(src, peer))
    }

    /// Receives `dst` from the rank `peer`.
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
