//! Views: ranges of a buffer, apart from the rest of it.

use symm_core::{Backend, Error, ReduceOp, World, bf16, symm};

use super::data::{elements, reduced, summands};
use super::{Case, Outcome, Tp};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        read_their_range,
        write_their_range_alone,
        nest,
        stay_inside,
        disjoint_parts_meet_in_a_collective,
        take_part_at_odd_offsets,
        gather_bytes_from_odd_offsets,
        in_place_on_a_part,
    ]
}

fn read_their_range<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let data: Vec<i32> = elements(1, tp.rank(), 1000);
    let x = symm!(group = tp, { tp.from_slice(&data)? })?;
    for range in [0..1000, 0..1, 999..1000, 333..777, 500..500] {
        let view = x.view(range.clone())?;
        ensure_same!(view.to_vec()?, data[range.clone()], "a view");
        ensure_same!(view.clone().to_vec()?, data[range.clone()], "its clone");
        ensure_eq!(
            (view.len(), view.num_bytes()),
            (range.len(), 4 * range.len())
        );
        ensure_eq!(view.address(), x.address() + 4 * range.start as u64);
    }
    Ok(())
}

fn write_their_range_alone<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut expected = [7i8; 100];
    let mut x = symm!(group = tp, { tp.from_slice(&expected)? })?;
    x.view_mut(10..20)?.copy_from_slice(&[1; 10])?;
    x.view_mut(50..53)?.fill_zero()?;
    ensure_matches!(
        x.view_mut(0..5)?.copy_from_slice(&[9; 6]),
        Err(Error::CopyLength { .. })
    );
    expected[10..20].fill(1);
    expected[50..53].fill(0);
    ensure_same!(x.to_vec()?, expected, "what two views wrote");
    Ok(())
}

fn nest<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut x = symm!(group = tp, { tp.from_slice(&[0i64, 1, 2, 3, 4, 5, 6, 7])? })?;
    ensure_eq!(x.view(2..7)?.view(1..4)?.view(1..3)?.to_vec()?, [4, 5]);
    let mut outer = x.view_mut(2..7)?;
    outer.view_mut(1..3)?.copy_from_slice(&[30, 40])?;
    let (mut low, high) = outer.split_at_mut(1)?;
    low.copy_from_slice(&[20])?;
    ensure_eq!(high.as_view().to_vec()?, [30, 40, 5, 6]);
    ensure_eq!(x.to_vec()?, [0, 1, 20, 30, 40, 5, 6, 7]);
    Ok(())
}

fn stay_inside<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut x = symm!(group = tp, { tp.zeros::<u8>(10)? })?;
    ensure_matches!(
        x.view(0..11),
        Err(Error::Range {
            start: 0,
            end: 11,
            len: 10
        })
    );
    #[allow(clippy::reversed_empty_ranges)]
    let reversed = 5..4;
    ensure_matches!(x.view(reversed.clone()), Err(Error::Range { .. }));
    ensure_matches!(x.view(usize::MAX - 1..usize::MAX), Err(Error::Range { .. }));
    ensure_matches!(
        x.view(2..5)?.view(0..4),
        Err(Error::Range {
            start: 0,
            end: 4,
            len: 3
        })
    );
    ensure_matches!(x.view_mut(3..11), Err(Error::Range { .. }));
    ensure_matches!(x.view_mut(reversed), Err(Error::Range { .. }));
    ensure_matches!(x.split_at_mut(11), Err(Error::Range { .. }));
    Ok(())
}

fn disjoint_parts_meet_in_a_collective<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (len, ranks) = (257, tp.size());
    let mut x = symm!(group = tp, { tp.zeros::<f32>(len * (1 + ranks))? })?;
    let (mut mine, mut all) = x.split_at_mut(len)?;
    mine.copy_from_slice(&elements(3, tp.rank(), len))?;
    tp.all_gather(mine.as_view(), &mut all)?;
    let expected: Vec<f32> = (0..ranks).flat_map(|rank| elements(3, rank, len)).collect();
    ensure_same!(
        all.as_view().to_vec()?,
        expected,
        "gathered from one part into the other"
    );
    Ok(())
}

fn take_part_at_odd_offsets<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    for (start, len) in [(1, 1), (3, 100), (7, 513), (129, 2000)] {
        let parts = summands::<bf16>(ReduceOp::Sum, tp.size(), len);
        let (mut x, mut y) = symm!(group = tp, {
            (tp.zeros(start + len + 5)?, tp.zeros(2 * start + len + 5)?)
        })?;
        x.view_mut(start..start + len)?
            .copy_from_slice(&parts[tp.rank()])?;
        tp.all_reduce(
            x.view(start..start + len)?,
            y.view_mut(2 * start..2 * start + len)?,
            ReduceOp::Sum,
        )?;
        let mut expected = vec![bf16::ZERO; y.len()];
        expected[2 * start..2 * start + len].copy_from_slice(&reduced(ReduceOp::Sum, &parts));
        ensure_same!(
            y.to_vec()?,
            expected,
            "{len} elements from {start} to {}",
            2 * start
        );
    }
    Ok(())
}

fn gather_bytes_from_odd_offsets<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let ranks = tp.size();
    for (start, len) in [(1, 3), (3, 100), (5, 1021)] {
        let (mut x, mut y) = symm!(group = tp, {
            (
                tp.zeros::<u8>(start + len)?,
                tp.zeros::<u8>(start + len * ranks)?,
            )
        })?;
        let part = |rank: usize| (0..len).map(move |i| (i * 7 + rank * 31 + 1) as u8);
        let mine: Vec<u8> = part(tp.rank()).collect();
        x.view_mut(start..start + len)?.copy_from_slice(&mine)?;
        let mut all = y.view_mut(start..start + len * ranks)?;
        tp.all_gather(x.view(start..start + len)?, &mut all)?;
        let expected: Vec<u8> = (0..ranks).flat_map(part).collect();
        ensure_same!(
            all.as_view().to_vec()?,
            expected,
            "{len} bytes from {start}"
        );
    }
    Ok(())
}

fn in_place_on_a_part<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let parts = summands::<f32>(ReduceOp::Sum, tp.size(), 1001);
    let mut x = symm!(group = tp, { tp.from_slice(&parts[tp.rank()])? })?;
    tp.all_reduce_in_place(x.view_mut(100..900)?, ReduceOp::Sum)?;
    let mut expected = parts[tp.rank()].clone();
    expected[100..900].copy_from_slice(&reduced(ReduceOp::Sum, &parts)[100..900]);
    ensure_same!(x.to_vec()?, expected, "a part reduced in place");
    Ok(())
}
