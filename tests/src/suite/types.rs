//! Every element type: each reduction of it, and each way to move it.

use symm_core::{Backend, World, bf16, f16, symm};

use super::data::{Number, REDUCTIONS, elements, reduced, summands};
use super::{Case, Outcome, Tp};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    macro_rules! of_types {
        ($($type:ident),*) => {
            vec![$(Case::new(module_path!(), stringify!($type), 2, of_type::<$type, B>)),*]
        };
    }
    of_types![i8, u8, i32, u32, i64, u64, f16, bf16, f32, f64]
}

const LEN: usize = 1021;

fn of_type<T: Number, B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (ranks, me) = (tp.size(), tp.rank());
    for op in REDUCTIONS {
        let parts = summands::<T>(op, ranks, LEN * ranks);
        let expected = reduced(op, &parts);
        let (mut x, mut part) = symm!(group = tp, {
            (tp.from_slice(&parts[me])?, tp.zeros::<T>(LEN)?)
        })?;
        tp.reduce_scatter(&x, &mut part, op)?;
        ensure_same!(
            part.to_vec()?,
            expected[me * LEN..][..LEN],
            "reduce_scatter {op:?}"
        );
        let root = ranks - 1;
        tp.reduce_in_place(&mut x, op, root)?;
        ensure_same!(
            x.to_vec()?,
            if me == root { &expected } else { &parts[me] },
            "reduce {op:?}"
        );
        x.copy_from_slice(&parts[me])?;
        tp.all_reduce_in_place(&mut x, op)?;
        ensure_same!(x.to_vec()?, expected, "all_reduce {op:?}");
    }

    let mine: Vec<T> = elements(8, me, LEN);
    let all: Vec<T> = (0..ranks).flat_map(|rank| elements(8, rank, LEN)).collect();
    let (src, mut dst) = symm!(group = tp, {
        (tp.from_slice(&mine)?, tp.zeros::<T>(LEN * ranks)?)
    })?;
    tp.all_gather(&src, &mut dst)?;
    ensure_same!(dst.to_vec()?, all, "all_gather");
    let exchanged = symm!(group = tp, { tp.zeros::<T>(LEN * ranks)? });
    let mut exchanged = exchanged?;
    tp.all_to_all(&dst, &mut exchanged)?;
    // All ranks hold the same, so each gets its own part from everybody.
    ensure_same!(exchanged.to_vec()?, mine.repeat(ranks), "all_to_all");
    tp.broadcast_in_place(&mut exchanged, 1)?;
    ensure_same!(
        exchanged.to_vec()?,
        elements(8, 1, LEN).repeat(ranks),
        "broadcast"
    );
    Ok(())
}
