//! Which collectives are faster on the twin: a bit for each operation, type class and size.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::backend::call::{Op, ReduceOp};
use crate::element::Dtype;

/// Operations and types that symmetric kernels take, as far as they differ in speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// all_reduce of `f16` and `bf16`.
    ReduceHalf,
    /// all_reduce of `f32`.
    ReduceFloat,
    /// all_gather, which moves bytes.
    Gather,
    /// reduce_scatter of `f16` and `bf16`.
    ScatterHalf,
    /// reduce_scatter of `f32`.
    ScatterFloat,
}

impl Row {
    pub(crate) const ALL: [Row; 5] = [
        Row::ReduceHalf,
        Row::ReduceFloat,
        Row::Gather,
        Row::ScatterHalf,
        Row::ScatterFloat,
    ];

    /// The row of a call that has a symmetric kernel; `None` for any other.
    #[inline]
    pub(crate) fn of(op: Op, dtype: Dtype) -> Option<Self> {
        match (op, dtype) {
            (Op::AllGather, _) => Some(Row::Gather),
            (Op::AllReduce(_), Dtype::F32) => Some(Row::ReduceFloat),
            (Op::AllReduce(_), Dtype::F16 | Dtype::Bf16) => Some(Row::ReduceHalf),
            (Op::ReduceScatter(_), Dtype::F32) => Some(Row::ScatterFloat),
            (Op::ReduceScatter(_), Dtype::F16 | Dtype::Bf16) => Some(Row::ScatterHalf),
            _ => None,
        }
    }

    /// The call that is measured for the row.
    pub(crate) fn call(self) -> (Op, Dtype) {
        match self {
            Row::ReduceHalf => (Op::AllReduce(ReduceOp::Sum), Dtype::Bf16),
            Row::ReduceFloat => (Op::AllReduce(ReduceOp::Sum), Dtype::F32),
            Row::Gather => (Op::AllGather, Dtype::Bf16),
            Row::ScatterHalf => (Op::ReduceScatter(ReduceOp::Sum), Dtype::Bf16),
            Row::ScatterFloat => (Op::ReduceScatter(ReduceOp::Sum), Dtype::F32),
        }
    }

    /// The types of the row, in reports and in the cache.
    pub(crate) fn types(self) -> &'static str {
        match self {
            Row::ReduceHalf | Row::ScatterHalf => "f16,bf16",
            Row::ReduceFloat | Row::ScatterFloat => "f32",
            Row::Gather => "any",
        }
    }
}

/// Bytes of the whole buffer: operations that split it by rank count one rank's part.
#[inline]
pub(crate) fn whole(op: Op, bytes: u64, ranks: usize) -> u64 {
    match op {
        Op::AllReduce(_) => bytes,
        _ => bytes.saturating_mul(ranks as u64),
    }
}

/// The power of 2 that is nearest to a size, as its exponent: three quarters of the next power belong
/// to that already.
#[inline]
fn octave(whole: u64) -> u32 {
    (whole.saturating_add(whole / 2) | 1).ilog2()
}

/// A whole table: by row, a bit for each power of 2, set where the twin is faster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Choices(pub(crate) [u64; Row::ALL.len()]);

impl Choices {
    /// Enters what was found for a row at some sizes, which ascend. Below the first and above the
    /// last, these two hold; between two that are not neighbours, the twin has to be faster at both.
    pub(crate) fn enter(&mut self, row: Row, found: impl IntoIterator<Item = (u64, bool)>) {
        let mut mask = 0;
        let mut last: Option<(u32, bool)> = None;
        for (whole, twin) in found {
            let at = octave(whole);
            let (from, between) = match last {
                None => (0, twin),
                Some((before, was)) => (before + 1, was && twin),
            };
            for bit in from..at {
                mask |= u64::from(between) << bit;
            }
            mask |= u64::from(twin) << at;
            last = Some((at, twin));
        }
        if let Some((at, true)) = last {
            mask |= u64::MAX << at;
        }
        self.0[row as usize] = mask;
    }

    /// Whether the twin is faster at this size.
    pub(crate) fn has_twin(&self, row: Row, whole: u64) -> bool {
        self.0[row as usize] >> octave(whole) & 1 == 1
    }

    /// Whether the twin is faster at some size.
    pub(crate) fn want_twin(&self) -> bool {
        self.0.iter().any(|mask| *mask != 0)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(|mask| mask.to_le_bytes()).collect()
    }

    pub(crate) fn decode(told: &[u8]) -> Option<Self> {
        let (masks, []) = told.as_chunks::<8>() else {
            return None;
        };
        let masks: [[u8; 8]; Row::ALL.len()] = masks.try_into().ok()?;
        Some(Self(masks.map(u64::from_le_bytes)))
    }
}

/// A group's table, as its calls read it. Changed where all ranks meet, while nobody calls.
#[derive(Debug, Default)]
pub(crate) struct Table([AtomicU64; Row::ALL.len()]);

impl Table {
    pub(crate) fn store(&self, choices: Choices) {
        for (place, mask) in self.0.iter().zip(choices.0) {
            place.store(mask, Ordering::Relaxed);
        }
    }

    pub(crate) fn load(&self) -> Choices {
        let mut choices = Choices::default();
        for (mask, place) in choices.0.iter_mut().zip(&self.0) {
            *mask = place.load(Ordering::Relaxed);
        }
        choices
    }

    /// Whether the twin is faster for a call that has a symmetric kernel.
    #[inline]
    pub(crate) fn prefers_twin(&self, op: Op, dtype: Dtype, bytes: u64, ranks: usize) -> bool {
        Row::of(op, dtype).is_some_and(|row| {
            let mask = self.0[row as usize].load(Ordering::Relaxed);
            mask >> octave(whole(op, bytes, ranks)) & 1 == 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: Op = Op::AllReduce(ReduceOp::Sum);

    fn table(found: &[(u64, bool)]) -> Table {
        let mut choices = Choices::default();
        choices.enter(Row::ReduceHalf, found.iter().copied());
        let table = Table::default();
        table.store(choices);
        assert_eq!(table.load(), choices);
        table
    }

    #[test]
    fn sizes_belong_to_the_nearest_that_was_measured() {
        let table = table(&[(1 << 10, false), (2 << 10, true), (4 << 10, false)]);
        let twin = |bytes| table.prefers_twin(SUM, Dtype::Bf16, bytes, 4);
        let sizes = [0, 1, 1000, 1024, 1500, 2048, 2700, 3000, 4096, 1 << 40];
        let twins = [
            false, false, false, false, true, true, true, false, false, false,
        ];
        assert_eq!(sizes.map(twin), twins);
        assert!(!table.prefers_twin(SUM, Dtype::F32, 2048, 4));
        assert!(!table.prefers_twin(Op::AllToAll, Dtype::Bf16, 2048, 4));
    }

    #[test]
    fn beyond_what_was_measured_the_ends_hold_and_gaps_need_both() {
        let twin =
            |found: &[(u64, bool)], bytes| table(found).prefers_twin(SUM, Dtype::F16, bytes, 2);
        let ends = [
            (1 << 10, true),
            (1 << 12, true),
            (1 << 16, false),
            (1 << 20, true),
        ];
        let sizes = [
            1,
            1 << 10,
            1 << 11,
            1 << 12,
            1 << 14,
            1 << 16,
            1 << 18,
            1 << 20,
            1 << 35,
        ];
        let twins = [true, true, true, true, false, false, false, true, true];
        assert_eq!(sizes.map(|bytes| twin(&ends, bytes)), twins);
        assert!(!twin(&[], 1 << 20));
        assert!(twin(&[(1, true)], u64::MAX));
    }

    #[test]
    fn parts_count_as_the_whole() {
        let mut choices = Choices::default();
        choices.enter(Row::Gather, [(1 << 10, false), (2 << 10, true)]);
        let table = Table::default();
        table.store(choices);
        let twin = |ranks| table.prefers_twin(Op::AllGather, Dtype::I64, 512, ranks);
        assert_eq!([2, 4].map(twin), [false, true]);
    }

    #[test]
    fn a_table_comes_back_as_it_was() {
        let choices = Choices([1, u64::MAX, 0, 7 << 20, 3]);
        assert_eq!(Choices::decode(&choices.encode()), Some(choices));
        for wrong in [&[][..], &[0; 39], &[0; 41], &[0; 48]] {
            assert_eq!(Choices::decode(wrong), None);
        }
        assert!(choices.want_twin() && !Choices::default().want_twin());
    }
}
