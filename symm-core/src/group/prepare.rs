//! The operations by name: their operands, counts and in-place forms, as NCCL has them
//! (<https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api/colls.html>).

use crate::backend::Backend;
use crate::backend::call::{Op, ReduceOp};
use crate::buffer::launch::{Prepared, Send};
use crate::buffer::operand::{Operand, sealed::IntoOperand};
use crate::element::Element;

/// An operation from one operand to another; `count` is taken of them.
fn between<'a, T: Element, B: Backend>(
    op: Op,
    src: impl IntoOperand<B> + 'a,
    dst: impl IntoOperand<B> + 'a,
    count: impl FnOnce(&Operand<'a, B>, &Operand<'a, B>) -> usize,
) -> Prepared<'a, B> {
    let (src, dst) = (src.into_operand(), dst.into_operand());
    let count = count(&src, &dst);
    Prepared::new(op, T::DTYPE, count, Send::From(src), Some(dst))
}

/// An operation of a whole buffer with itself.
fn in_place<'a, T: Element, B: Backend>(op: Op, buf: impl IntoOperand<B> + 'a) -> Prepared<'a, B> {
    let buf = buf.into_operand();
    Prepared::new(op, T::DTYPE, buf.len, Send::InPlace(0), Some(buf))
}

macro_rules! operations {
    ($($name:ident($($argument:ident: $type:ty),*) = $op:expr, $count:ident;)*) => { $(
        pub(super) fn $name<'a, T: Element, B: Backend>(
            src: impl IntoOperand<B> + 'a,
            dst: impl IntoOperand<B> + 'a,
            $($argument: $type),*
        ) -> Prepared<'a, B> {
            between::<T, B>($op, src, dst, $count)
        }
    )* };
}

/// Counts are elements of the source, or of the destination.
fn of_src<B: Backend>(src: &Operand<'_, B>, _: &Operand<'_, B>) -> usize {
    src.len
}

fn of_dst<B: Backend>(_: &Operand<'_, B>, dst: &Operand<'_, B>) -> usize {
    dst.len
}

operations! {
    all_reduce(op: ReduceOp) = Op::AllReduce(op), of_src;
    all_gather() = Op::AllGather, of_src;
    reduce_scatter(op: ReduceOp) = Op::ReduceScatter(op), of_dst;
    broadcast(root: usize) = Op::Broadcast { root }, of_dst;
    reduce(op: ReduceOp, root: usize) = Op::Reduce { op, root }, of_src;
    gather(root: usize) = Op::Gather { root }, of_src;
    scatter(root: usize) = Op::Scatter { root }, of_dst;
}

pub(super) fn all_reduce_in_place<'a, T: Element, B: Backend>(
    buf: impl IntoOperand<B> + 'a,
    op: ReduceOp,
) -> Prepared<'a, B> {
    in_place::<T, B>(Op::AllReduce(op), buf)
}

pub(super) fn broadcast_in_place<'a, T: Element, B: Backend>(
    buf: impl IntoOperand<B> + 'a,
    root: usize,
) -> Prepared<'a, B> {
    in_place::<T, B>(Op::Broadcast { root }, buf)
}

pub(super) fn reduce_in_place<'a, T: Element, B: Backend>(
    buf: impl IntoOperand<B> + 'a,
    op: ReduceOp,
    root: usize,
) -> Prepared<'a, B> {
    in_place::<T, B>(Op::Reduce { op, root }, buf)
}

pub(super) fn send<'a, T: Element, B: Backend>(
    src: impl IntoOperand<B> + 'a,
    peer: usize,
) -> Prepared<'a, B> {
    let src = src.into_operand();
    Prepared::new(Op::Send { peer }, T::DTYPE, src.len, Send::From(src), None)
}

pub(super) fn recv<'a, T: Element, B: Backend>(
    dst: impl IntoOperand<B> + 'a,
    peer: usize,
) -> Prepared<'a, B> {
    let dst = dst.into_operand();
    Prepared::new(
        Op::Recv { peer },
        T::DTYPE,
        dst.len,
        Send::Nothing,
        Some(dst),
    )
}
