//! What is known of GPUs without having been measured on this machine.

use super::table::{Choices, Row};

/// A win of the twin by less than this, in percent, does not displace NCCL's own choice.
const WIN: u64 = 3;

/// Whether the twin's time is enough below that of windows.
pub(crate) fn is_faster(twin: u64, windowed: u64) -> bool {
    twin.saturating_mul(100) < windowed.saturating_mul(100 - WIN)
}

/// One size: KiB of the whole buffer, then nanoseconds on windows and on the twin, of all_reduce,
/// all_gather and reduce_scatter.
type Line = (u64, [[u64; 2]; 3]);

/// 4 NVIDIA H200 of one host, NVLink between every pair, NCCL 2.30.7, bf16, sum, no multicast
/// (`../shared/reference/measured.md`, "NCCL 2.30.7, 4 ranks").
const H200_4: [Line; 11] = [
    (1, [[3_980, 8_740], [3_580, 6_480], [3_920, 6_430]]),
    (8, [[4_420, 9_150], [3_810, 6_810], [4_290, 6_740]]),
    (32, [[6_790, 10_590], [4_380, 8_250], [4_860, 7_560]]),
    (128, [[14_340, 10_780], [5_010, 8_390], [5_350, 7_730]]),
    (512, [[16_460, 13_940], [9_050, 10_130], [18_160, 9_250]]),
    (
        1 << 10,
        [[20_460, 17_470], [9_820, 12_990], [9_380, 10_890]],
    ),
    (
        2 << 10,
        [[24_450, 26_300], [12_600, 18_110], [13_360, 16_340]],
    ),
    (
        4 << 10,
        [[37_130, 39_450], [16_640, 34_600], [25_940, 31_770]],
    ),
    (
        8 << 10,
        [[58_560, 59_630], [26_050, 42_450], [36_790, 37_840]],
    ),
    (
        16 << 10,
        [[104_150, 95_040], [44_120, 58_820], [66_240, 56_820]],
    ),
    (
        64 << 10,
        [[400_400, 319_200], [156_400, 169_900], [259_900, 187_500]],
    ),
];

/// 2 of them ("NCCL 2.30.7, 2 ranks"); 64 and 256 KiB, and from 64 MiB on, by `device bench
/// collectives` since.
const H200_2: [Line; 14] = [
    (1, [[3_680, 5_750], [3_470, 4_900], [3_710, 4_820]]),
    (8, [[4_050, 6_340], [3_780, 5_690], [4_210, 5_460]]),
    (32, [[6_250, 6_930], [4_210, 6_150], [4_580, 5_900]]),
    (64, [[8_740, 7_520], [4_920, 6_720], [5_310, 6_480]]),
    (128, [[11_570, 7_220], [6_200, 6_240], [6_860, 6_150]]),
    (256, [[9_590, 8_910], [8_440, 7_710], [7_370, 7_280]]),
    (512, [[13_820, 9_840], [9_220, 7_980], [12_440, 7_750]]),
    (
        1 << 10,
        [[16_310, 13_460], [10_130, 10_570], [12_080, 9_730]],
    ),
    (
        2 << 10,
        [[20_100, 27_740], [12_210, 15_980], [12_220, 14_550]],
    ),
    (
        4 << 10,
        [[29_000, 32_540], [16_370, 25_760], [21_320, 23_120]],
    ),
    (
        8 << 10,
        [[46_550, 44_430], [25_210, 31_690], [32_800, 31_050]],
    ),
    (
        16 << 10,
        [[80_410, 69_880], [42_490, 43_600], [54_150, 49_670]],
    ),
    (
        64 << 10,
        [[311_760, 244_980], [154_260, 156_720], [204_910, 165_260]],
    ),
    (
        256 << 10,
        [[1_188_880, 887_070], [584_590, 546_550], [778_790, 589_070]],
    ),
];

/// The rows that were measured, in the order of the figures: `f32` was not.
const MEASURED: [Row; 3] = [Row::ReduceHalf, Row::Gather, Row::ScatterHalf];

/// The table for ranks on such GPUs, if there is one. Kernels that multicast were not measured, so
/// without `NCCL_NVLS_ENABLE=0` there is none.
pub(crate) fn choices(model: &str, ranks: usize, multicast: bool) -> Option<Choices> {
    let lines: &[Line] = match (model.contains("H200"), multicast, ranks) {
        (true, false, 2) => &H200_2,
        (true, false, 4) => &H200_4,
        _ => return None,
    };
    let mut choices = Choices::default();
    for (at, row) in MEASURED.into_iter().enumerate() {
        let found = lines.iter().map(|(kib, times)| {
            let [windowed, twin] = times[at];
            (kib << 10, is_faster(twin, windowed))
        });
        choices.enter(row, found);
    }
    Some(choices)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::call::{Op, ReduceOp};
    use crate::element::Dtype;
    use crate::group::table::Table;

    #[test]
    fn a_win_is_more_than_three_percent() {
        assert!(is_faster(96, 100) && !is_faster(97, 100) && !is_faster(0, 0));
        assert!(!is_faster(u64::MAX, u64::MAX));
    }

    /// The bold figures of the sources, and their neighbours.
    #[test]
    fn what_the_source_has_in_bold_takes_the_twin() {
        let of = |ranks| {
            let table = Table::default();
            table.store(choices("NVIDIA H200", ranks, false).expect("a table"));
            move |op: Op, kib: u64| {
                let parts = if matches!(op, Op::AllReduce(_)) {
                    1
                } else {
                    ranks as u64
                };
                table.prefers_twin(op, Dtype::Bf16, (kib << 10) / parts, ranks)
            }
        };
        let (sum, scatter) = (
            Op::AllReduce(ReduceOp::Sum),
            Op::ReduceScatter(ReduceOp::Sum),
        );
        let sizes = [
            1, 8, 32, 64, 128, 256, 512, 1024, 2048, 8192, 16384, 32768, 65536,
        ];
        let twins = |twin: &dyn Fn(Op, u64) -> bool, op| -> Vec<u64> {
            let sizes = sizes.into_iter();
            sizes.filter(|&kib| twin(op, kib)).collect()
        };
        let four = of(4);
        assert_eq!(
            twins(&four, sum),
            [128, 256, 512, 1024, 16384, 32768, 65536]
        );
        assert_eq!(twins(&four, Op::AllGather), [0; 0]);
        assert_eq!(twins(&four, scatter), [512, 16384, 32768, 65536]);
        let two = of(2);
        // 8 MiB is won by 4.6%.
        assert_eq!(
            twins(&two, sum),
            [64, 128, 256, 512, 1024, 8192, 16384, 32768, 65536]
        );
        assert_eq!(twins(&two, Op::AllGather), [256, 512]);
        assert!(two(scatter, 128) && two(scatter, 1024) && !two(scatter, 2048));
        assert!(!two(sum, 4) && two(sum, 256 << 10));
    }

    #[test]
    fn other_machines_have_none() {
        assert_eq!(choices("NVIDIA H100 80GB HBM3", 4, false), None);
        assert_eq!(choices("NVIDIA H200", 8, false), None);
        assert_eq!(choices("NVIDIA H200", 4, true), None);
    }
}
