//! One rank calls another collective than its peers, or the same with other operands.

use symm_core::{Buf, Host, ReduceOp, Result, plain, plain_mut, symm};

use crate::Case;
use crate::harness::{Rank, Step, Tp, differs, lines_of};
use libtest_mimic::Failed;

const LEN: usize = 64;

pub(crate) const CASES: &[Case] = &[
    ("another_operation", another_operation),
    ("another_root", another_root),
    ("another_reduction", another_reduction),
    ("another_type", another_type),
    ("another_count", another_count),
    ("plain_on_one_rank", plain_on_one_rank),
    ("another_offset", another_offset),
    ("another_send_offset", another_send_offset),
    ("an_extra_allocation", an_extra_allocation),
    ("other_order", other_order),
    ("skips_one", skips_one),
    ("skips_one_of_the_same_kind", skips_one_of_the_same_kind),
    ("longer_batch", longer_batch),
    ("no_batch", no_batch),
    ("reserves_instead", reserves_instead),
    ("names_groups_ranks_bytes_and_lines", names_everything),
];

/// A buffer of this rank's number plus one.
fn ours(rank: &Rank, len: usize) -> Result<symm_core::SymmBuf<f32, Tp, Host>> {
    symm!(group = rank.tp, {
        rank.tp.from_slice(&vec![rank.me() as f32 + 1.0; len])?
    })
}

/// Three ranks differ; two of them are named with what they came to and their lines.
fn shows(step: Step, says: &[&str]) -> Result<(), Failed> {
    for cause in differs(3, step, says)? {
        let named = (0..3).filter(|rank| cause.contains(&format!("rank {rank} came to ")));
        if named.count() != 2 || lines_of("collectives.rs", &cause).is_empty() {
            return Err(format!("two ranks and their lines should be named: {cause}").into());
        }
    }
    Ok(())
}

fn another_operation() -> Result<(), Failed> {
    let step: Step = |rank, odd| {
        let mut x = ours(rank, LEN)?;
        match odd {
            true => rank.tp.broadcast_in_place(&mut x, 0)?,
            false => rank.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?,
        };
        x.to_vec()
    };
    shows(step, &["broadcast from rank 0", "all_reduce of 256 bytes"])
}

fn another_root() -> Result<(), Failed> {
    let step: Step = |rank, odd| {
        let mut x = ours(rank, LEN)?;
        match odd {
            true => rank.tp.broadcast_in_place(&mut x, 1)?,
            false => rank.tp.broadcast_in_place(&mut x, 2)?,
        };
        x.to_vec()
    };
    shows(step, &["broadcast from rank 1", "broadcast from rank 2"])
}

fn another_reduction() -> Result<(), Failed> {
    let step: Step = |rank, odd| {
        let mut x = ours(rank, LEN)?;
        match odd {
            true => rank.tp.all_reduce_in_place(&mut x, ReduceOp::Max)?,
            false => rank.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?,
        };
        x.to_vec()
    };
    shows(step, &["sum", "max"])
}

fn another_type() -> Result<(), Failed> {
    let step: Step = |rank, odd| {
        let (mut x, mut y) = symm!(group = rank.tp, {
            (
                rank.tp.from_slice(&[1.0f32; LEN])?,
                rank.tp.from_slice(&[1i32; LEN])?,
            )
        })?;
        match odd {
            true => rank.tp.broadcast_in_place(&mut y, 0)?,
            false => rank.tp.broadcast_in_place(&mut x, 0)?,
        };
        x.to_vec()
    };
    shows(step, &["(f32", "(i32"])
}

fn another_count() -> Result<(), Failed> {
    let step: Step = |rank, odd| {
        let mut x = ours(rank, LEN)?;
        match odd {
            true => rank
                .tp
                .all_reduce_in_place(x.view_mut(0..LEN / 2)?, ReduceOp::Sum)?,
            false => rank.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?,
        };
        x.to_vec()
    };
    shows(step, &["256 bytes", "128 bytes"])
}

fn plain_on_one_rank() -> Result<(), Failed> {
    let step: Step = |rank, odd| {
        let mut x = ours(rank, LEN)?;
        let mut y = rank.world.pool().from_slice(&[0.0f32; LEN])?;
        match odd {
            true => rank
                .tp
                .all_reduce_in_place(plain_mut(&mut y), ReduceOp::Sum)?,
            false => rank.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?,
        };
        x.to_vec()
    };
    shows(
        step,
        &["symmetric at offset", "plain: an operand is in no window"],
    )
}

fn another_offset() -> Result<(), Failed> {
    let step: Step = |rank, odd| {
        let mut x = ours(rank, 2 * LEN)?;
        match odd {
            true => rank
                .tp
                .all_reduce_in_place(x.view_mut(LEN..2 * LEN)?, ReduceOp::Sum)?,
            false => rank
                .tp
                .all_reduce_in_place(x.view_mut(0..LEN)?, ReduceOp::Sum)?,
        };
        x.to_vec()
    };
    shows(
        step,
        &["at offset 0 of segment 0", "at offset 256 of segment 0"],
    )
}

fn another_send_offset() -> Result<(), Failed> {
    let step: Step = |rank, odd| {
        let x = ours(rank, 2 * LEN)?;
        let mut y = ours(rank, LEN)?;
        match odd {
            true => rank
                .tp
                .all_reduce(x.view(LEN..2 * LEN)?, &mut y, ReduceOp::Sum)?,
            false => rank.tp.all_reduce(x.view(0..LEN)?, &mut y, ReduceOp::Sum)?,
        };
        y.to_vec()
    };
    shows(
        step,
        &["all_reduce of 256 bytes", "its source lies elsewhere"],
    )
}

fn an_extra_allocation() -> Result<(), Failed> {
    let step: Step = |rank, odd| {
        let scope = rank.tp.scope()?;
        // The peer's next one lies elsewhere, in the same segment.
        let _extra = odd.then(|| scope.empty::<f32>(LEN)).transpose()?;
        let mut x = scope.from_slice(&[1.0f32; LEN])?;
        scope.close()?;
        rank.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
        x.to_vec()
    };
    shows(step, &["empty_padded", "suspend()"])
}

fn other_order() -> Result<(), Failed> {
    let step: Step = |rank, odd| {
        let mut x = ours(rank, LEN)?;
        for reduces in [odd, !odd] {
            match reduces {
                true => rank.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?,
                false => rank.tp.broadcast_in_place(&mut x, 0)?,
            };
        }
        x.to_vec()
    };
    shows(step, &["all_reduce", "broadcast"])
}

fn skips_one() -> Result<(), Failed> {
    let step: Step = |rank, odd| {
        let mut x = ours(rank, LEN)?;
        if !odd {
            rank.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
        }
        rank.tp.broadcast_in_place(&mut x, 0)?;
        x.to_vec()
    };
    shows(step, &["all_reduce", "broadcast"])
}

fn skips_one_of_the_same_kind() -> Result<(), Failed> {
    let step: Step = |rank, odd| {
        let mut x = ours(rank, LEN)?;
        for _ in usize::from(odd)..3 {
            rank.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
        }
        // Only here is it seen: three equal calls are two and one more.
        rank.tp.broadcast_in_place(&mut x, 0)?;
        x.to_vec()
    };
    shows(step, &["all_reduce", "broadcast"])
}

fn longer_batch() -> Result<(), Failed> {
    let step: Step = |rank, odd| {
        let (mut x, mut y, mut z) = (ours(rank, LEN)?, ours(rank, LEN)?, ours(rank, LEN)?);
        {
            let mut batch = rank.tp.batch();
            batch.all_reduce_in_place(&mut x, ReduceOp::Sum);
            batch.all_reduce_in_place(&mut y, ReduceOp::Sum);
            if odd {
                batch.all_reduce_in_place(&mut z, ReduceOp::Sum);
            }
            batch.launch()?;
        }
        y.to_vec()
    };
    shows(
        step,
        &["1 call more in its batch", "2 calls more in its batch"],
    )
}

fn no_batch() -> Result<(), Failed> {
    let step: Step = |rank, odd| {
        let (mut x, mut y) = (ours(rank, LEN)?, ours(rank, LEN)?);
        match odd {
            true => {
                rank.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
                rank.tp.all_reduce_in_place(&mut y, ReduceOp::Sum)?;
            }
            false => {
                let mut batch = rank.tp.batch();
                batch.all_reduce_in_place(&mut x, ReduceOp::Sum);
                batch.all_reduce_in_place(&mut y, ReduceOp::Sum);
                batch.launch()?;
            }
        }
        y.to_vec()
    };
    shows(step, &["all_reduce", "1 call more in its batch"])
}

fn reserves_instead() -> Result<(), Failed> {
    let step: Step = |rank, odd| {
        let mut x = ours(rank, LEN)?;
        match odd {
            true => rank.tp.reserve(1 << 20)?,
            false => drop(rank.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?),
        }
        x.to_vec()
    };
    shows(step, &["all_reduce", "a round with 1 segment pending"])
}

fn names_everything() -> Result<(), Failed> {
    const ODD: u32 = line!() + 5;
    const USUAL: u32 = line!() + 5;
    let step: Step = |rank, odd| {
        let mut x = ours(rank, LEN)?;
        match odd {
            true => rank.tp.broadcast_in_place(x.view_mut(0..32)?, 1)?,
            false => rank.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?,
        };
        // The buffer lives on, as it would in a model.
        let copy: Buf<f32, Host> = {
            let mut copy = Buf::empty(LEN)?;
            copy.copy_from(plain(&x))?;
            copy
        };
        copy.to_vec()
    };
    for (at, cause) in differs(3, step, &[])?.into_iter().enumerate() {
        let odd = [0, 2][at / 2];
        let words = [
            "the ranks of tp#",
            "at step ",
            &format!("rank {odd} came to broadcast from rank 1 of 128 bytes (f32, plain: "),
            "came to all_reduce of 256 bytes (f32, sum, symmetric at offset 0 of segment 0)",
            "call the same on all ranks",
        ];
        let missing = words.iter().find(|word| !cause.contains(**word));
        let lines = lines_of("tests/agreement/collectives.rs", &cause);
        if missing.is_some() || lines != [ODD, USUAL].into() {
            let expected = (ODD, USUAL);
            return Err(format!("{missing:?} or {expected:?} is not in {cause:?}").into());
        }
    }
    Ok(())
}
