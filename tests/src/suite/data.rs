//! Seeded data, and what reductions of it must give, computed on the CPU.
//!
//! Values are such that results are exact in every type and in every order of summation, in worlds
//! of 2, 4 or 8 ranks; so they are compared bit by bit.

use symm_core::{Element, ReduceOp, bf16, f16};

/// All reductions.
pub(super) const REDUCTIONS: [ReduceOp; 5] = [
    ReduceOp::Sum,
    ReduceOp::Prod,
    ReduceOp::Max,
    ReduceOp::Min,
    ReduceOp::Avg,
];

/// SplitMix64.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// A type with arithmetic on the CPU.
pub(super) trait Number: Element + PartialOrd {
    const SIGNED: bool;

    /// Any value of the whole range that is equal to itself.
    fn any(bits: u64) -> Self;
    /// A small whole number.
    fn small(value: i8) -> Self;
    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    /// Rounds whole numbers towards zero.
    fn over(self, ranks: usize) -> Self;
}

macro_rules! whole_numbers {
    ($($type:ty),*) => { $(
        impl Number for $type {
            #[allow(unused_comparisons)] // that of unsigned types is the answer
            const SIGNED: bool = <$type>::MIN < 0;

            fn any(bits: u64) -> Self {
                bits as $type
            }

            fn small(value: i8) -> Self {
                value as $type
            }

            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            fn times(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }

            fn over(self, ranks: usize) -> Self {
                self / ranks as $type
            }
        }
    )* };
}

macro_rules! floats {
    ($($type:ty, $of:expr;)*) => { $(
        impl Number for $type {
            const SIGNED: bool = true;

            fn any(bits: u64) -> Self {
                $of(f32::from((bits % 60_000) as u16) - 30_000.0)
            }

            fn small(value: i8) -> Self {
                $of(f32::from(value))
            }

            fn plus(self, other: Self) -> Self {
                self + other
            }

            fn times(self, other: Self) -> Self {
                self * other
            }

            fn over(self, ranks: usize) -> Self {
                self / $of(ranks as f32)
            }
        }
    )* };
}

whole_numbers!(i8, u8, i32, u32, i64, u64);
floats! {
    f16, f16::from_f32;
    bf16, bf16::from_f32;
    f32, f32::from;
    f64, f64::from;
}

/// `len` elements of one rank, for what moves them or compares them.
pub(super) fn elements<T: Number>(seed: u64, rank: usize, len: usize) -> Vec<T> {
    let mut rng = Rng::new(seed << 8 | rank as u64);
    (0..len).map(|_| T::any(rng.next())).collect()
}

/// What `ranks` ranks put into the reduction, by rank.
pub(super) fn summands<T: Number>(op: ReduceOp, ranks: usize, len: usize) -> Vec<Vec<T>> {
    let factors: &[i8] = if T::SIGNED { &[-2, -1, 1, 2] } else { &[1, 2] };
    let one = |rng: &mut Rng| match op {
        ReduceOp::Max | ReduceOp::Min => T::any(rng.next()),
        ReduceOp::Prod => T::small(factors[rng.below(factors.len())]),
        ReduceOp::Sum | ReduceOp::Avg => {
            T::small(rng.below(17) as i8 - if T::SIGNED { 8 } else { 0 })
        }
    };
    let of_rank = |rank| {
        let mut rng = Rng::new((len as u64) << 8 | rank as u64);
        (0..len).map(|_| one(&mut rng)).collect()
    };
    (0..ranks).map(of_rank).collect()
}

/// What the reduction of the ranks' elements is.
pub(super) fn reduced<T: Number>(op: ReduceOp, parts: &[Vec<T>]) -> Vec<T> {
    let combine = |a: T, b: T| match op {
        ReduceOp::Sum | ReduceOp::Avg => a.plus(b),
        ReduceOp::Prod => a.times(b),
        ReduceOp::Max if b > a => b,
        ReduceOp::Min if b < a => b,
        ReduceOp::Max | ReduceOp::Min => a,
    };
    let mut result = parts[0].clone();
    for part in &parts[1..] {
        result
            .iter_mut()
            .zip(part)
            .for_each(|(a, &b)| *a = combine(*a, b));
    }
    if op == ReduceOp::Avg {
        result.iter_mut().for_each(|a| *a = a.over(parts.len()));
    }
    result
}
