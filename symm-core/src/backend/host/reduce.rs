//! Arithmetic of reductions: by rank order, so that every rank gets the same bits; half floats
//! accumulate in `f32`.

use half::{bf16, f16};

use crate::backend::call::ReduceOp;
use crate::element::Dtype;

/// A number as it is kept, and as it is accumulated.
trait Number: Sized {
    type Sum: Copy;
    const BYTES: usize = size_of::<Self>();
    fn load(bytes: &[u8]) -> Self::Sum;
    fn store(sum: Self::Sum, bytes: &mut [u8]);
    fn add(a: Self::Sum, b: Self::Sum) -> Self::Sum;
    fn multiply(a: Self::Sum, b: Self::Sum) -> Self::Sum;
    fn max(a: Self::Sum, b: Self::Sum) -> Self::Sum;
    fn min(a: Self::Sum, b: Self::Sum) -> Self::Sum;
    fn divide(sum: Self::Sum, ranks: usize) -> Self::Sum;
}

macro_rules! number {
    ($type:ty as $sum:ty, $widen:expr, $narrow:expr, $add:expr, $multiply:expr, $divide:expr) => {
        impl Number for $type {
            type Sum = $sum;
            fn load(bytes: &[u8]) -> $sum {
                let mut own = [0; size_of::<$type>()];
                own.copy_from_slice(bytes);
                $widen(<$type>::from_ne_bytes(own))
            }
            fn store(sum: $sum, bytes: &mut [u8]) {
                bytes.copy_from_slice(&<$type>::to_ne_bytes($narrow(sum)));
            }
            fn add(a: $sum, b: $sum) -> $sum {
                $add(a, b)
            }
            fn multiply(a: $sum, b: $sum) -> $sum {
                $multiply(a, b)
            }
            fn max(a: $sum, b: $sum) -> $sum {
                a.max(b)
            }
            fn min(a: $sum, b: $sum) -> $sum {
                a.min(b)
            }
            fn divide(sum: $sum, ranks: usize) -> $sum {
                $divide(sum, ranks)
            }
        }
    };
}

macro_rules! integers {
    ($($type:ty),*) => { $(
        number!($type as $type, |x| x, |x| x, <$type>::wrapping_add, <$type>::wrapping_mul, |sum, ranks| {
            // More ranks than the type can count: nothing is left of the quotient.
            <$type>::try_from(ranks).map_or(0, |ranks| sum / ranks)
        });
    )* };
}

macro_rules! floats {
    ($($type:ty as $sum:ty, $widen:expr, $narrow:expr;)*) => { $(
        number!($type as $sum, $widen, $narrow, |a, b| a + b, |a, b| a * b, |sum, ranks| sum / ranks as $sum);
    )* };
}

integers!(i8, u8, i32, u32, i64, u64);
floats! {
    f32 as f32, |x| x, |x| x;
    f64 as f64, |x| x, |x| x;
    f16 as f32, f16::to_f32, f16::from_f32;
    bf16 as f32, bf16::to_f32, bf16::from_f32;
}

/// Combines the parts, one from each rank and of equal length, into `out`.
pub(super) fn reduce(op: ReduceOp, dtype: Dtype, parts: &[&[u8]], out: &mut [u8]) {
    match dtype {
        Dtype::I8 => typed::<i8>(op, parts, out),
        Dtype::U8 => typed::<u8>(op, parts, out),
        Dtype::I32 => typed::<i32>(op, parts, out),
        Dtype::U32 => typed::<u32>(op, parts, out),
        Dtype::I64 => typed::<i64>(op, parts, out),
        Dtype::U64 => typed::<u64>(op, parts, out),
        Dtype::F16 => typed::<f16>(op, parts, out),
        Dtype::F32 => typed::<f32>(op, parts, out),
        Dtype::F64 => typed::<f64>(op, parts, out),
        Dtype::Bf16 => typed::<bf16>(op, parts, out),
    }
}

fn typed<N: Number>(op: ReduceOp, parts: &[&[u8]], out: &mut [u8]) {
    match op {
        ReduceOp::Sum => fold::<N>(parts, out, N::add, |sum| sum),
        ReduceOp::Avg => fold::<N>(parts, out, N::add, |sum| N::divide(sum, parts.len())),
        ReduceOp::Prod => fold::<N>(parts, out, N::multiply, |sum| sum),
        ReduceOp::Max => fold::<N>(parts, out, N::max, |sum| sum),
        ReduceOp::Min => fold::<N>(parts, out, N::min, |sum| sum),
    }
}

fn fold<N: Number>(
    parts: &[&[u8]],
    out: &mut [u8],
    combine: impl Fn(N::Sum, N::Sum) -> N::Sum,
    last: impl Fn(N::Sum) -> N::Sum,
) {
    let Some((first, others)) = parts.split_first() else {
        return;
    };
    let mut sums: Vec<N::Sum> = first.chunks_exact(N::BYTES).map(N::load).collect();
    for part in others {
        for (sum, bytes) in sums.iter_mut().zip(part.chunks_exact(N::BYTES)) {
            *sum = combine(*sum, N::load(bytes));
        }
    }
    for (sum, bytes) in sums.into_iter().zip(out.chunks_exact_mut(N::BYTES)) {
        N::store(last(sum), bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<const N: usize>(op: ReduceOp, dtype: Dtype, parts: &[[u8; N]]) -> [u8; N] {
        let parts: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
        let mut out = [0; N];
        reduce(op, dtype, &parts, &mut out);
        out
    }

    #[test]
    fn integers_wrap_and_averages_round_towards_zero() {
        assert_eq!(of(ReduceOp::Sum, Dtype::U8, &[[200], [100]]), [44]);
        assert_eq!(
            of(ReduceOp::Avg, Dtype::I8, &[[-3_i8 as u8], [0]]),
            [-1_i8 as u8]
        );
        assert_eq!(
            of(
                ReduceOp::Max,
                Dtype::I32,
                &[(-5_i32).to_ne_bytes(), 3_i32.to_ne_bytes()]
            ),
            3_i32.to_ne_bytes()
        );
        assert_eq!(
            of(
                ReduceOp::Prod,
                Dtype::U64,
                &[3_u64.to_ne_bytes(), 5_u64.to_ne_bytes()]
            ),
            15_u64.to_ne_bytes()
        );
    }

    #[test]
    fn half_floats_accumulate_in_f32() {
        // In bf16 each 1 would be lost beside 256.
        let parts = [256.0, 1.0, 1.0].map(|x| bf16::from_f32(x).to_ne_bytes());
        assert_eq!(
            of(ReduceOp::Sum, Dtype::Bf16, &parts),
            bf16::from_f32(258.0).to_ne_bytes()
        );
        let parts = [1.0, 4.0].map(|x| f16::from_f32(x).to_ne_bytes());
        assert_eq!(
            of(ReduceOp::Avg, Dtype::F16, &parts),
            f16::from_f32(2.5).to_ne_bytes()
        );
        assert_eq!(
            of(
                ReduceOp::Min,
                Dtype::F64,
                &[2.0_f64.to_ne_bytes(), 1.0_f64.to_ne_bytes()]
            ),
            1.0_f64.to_ne_bytes()
        );
    }
}
