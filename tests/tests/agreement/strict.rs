//! Strict groups: what would go without the window is an error on all ranks, and everything is
//! counted.

use libtest_mimic::Failed;
use symm_core::{Error, Path, PathCount, Reason, ReduceOp, Result, Strict, plain, plain_mut, symm};

use crate::Case;
use crate::harness::{Rank, Step, config, differs};

pub(crate) const CASES: &[Case] = &[
    ("refused_on_all_ranks", refused_on_all_ranks),
    ("allowed_by_reason", allowed_by_reason),
    ("one_rank_is_a_difference", one_rank_is_a_difference),
    ("counts_are_exact", counts_are_exact),
];

/// An all_reduce of ordinary memory.
fn foreign(rank: &Rank) -> Result<Path> {
    let mut x = rank.world.pool().from_slice(&[1.0f32; 8])?;
    let path = rank
        .tp
        .all_reduce_in_place(plain_mut(&mut x), ReduceOp::Sum)?;
    x.to_vec()?;
    Ok(path)
}

fn refused_on_all_ranks() -> Result<(), Failed> {
    config().strict(true).run(3, |world| {
        let rank = Rank::new(world)?;
        for _ in 0..5 {
            let refused = foreign(&rank);
            assert!(
                matches!(&refused, Err(Error::NotSymmetric { operation: "all_reduce", reason: Reason::Foreign, site, .. }) if site.file().ends_with("strict.rs")),
                "{refused:?}"
            );
            // The world goes on.
            let mut x = symm!(group = rank.tp, { rank.tp.from_slice(&[1.0f32; 8])? })?;
            let path = rank.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
            assert_eq!((path, x.to_vec()?), (Path::Symmetric, vec![3.0; 8]));
            // There is no kernel to be had.
            let path = rank.tp.broadcast_in_place(&mut x, 0)?;
            assert_eq!(path, Path::Plain(Reason::NoKernel));
            let mut off = symm!(group = rank.tp, when = false, { rank.tp.zeros::<f32>(8)? })?;
            let refused = rank.tp.all_reduce_in_place(&mut off, ReduceOp::Sum);
            assert!(
                matches!(refused, Err(Error::NotSymmetric { reason: Reason::Disabled, .. })),
                "{refused:?}"
            );
        }
        rank.world.check()
    })?;
    Ok(())
}

fn allowed_by_reason() -> Result<(), Failed> {
    config().run(3, |world| {
        let rank = Rank::new(world)?;
        assert_eq!(foreign(&rank)?, Path::Plain(Reason::Foreign));
        rank.tp.set_strict(Strict::new());
        assert!(foreign(&rank).is_err());
        rank.tp.set_strict(Strict::new().allow(Reason::Foreign));
        foreign(&rank)?;
        rank.tp.set_strict(Strict::off().forbid(Reason::NoKernel));
        foreign(&rank)?;
        let mut x = symm!(group = rank.tp, { rank.tp.zeros::<f32>(8)? })?;
        let refused = rank.tp.broadcast_in_place(&mut x, 0);
        assert!(
            matches!(
                refused,
                Err(Error::NotSymmetric {
                    reason: Reason::NoKernel,
                    ..
                })
            ),
            "{refused:?}"
        );
        rank.tp.set_strict(Strict::off());
        rank.tp.broadcast_in_place(&mut x, 0)?;
        x.to_vec().map(drop)
    })?;
    Ok(())
}

fn one_rank_is_a_difference() -> Result<(), Failed> {
    let step: Step = |rank, odd| {
        rank.tp.set_strict(Strict::new());
        let mut x = symm!(group = rank.tp, { rank.tp.from_slice(&[1.0f32; 8])? })?;
        let mut y = rank.world.pool().from_slice(&[1.0f32; 8])?;
        match odd {
            true => rank
                .tp
                .all_reduce_in_place(plain_mut(&mut y), ReduceOp::Sum)?,
            false => rank.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?,
        };
        x.to_vec()
    };
    differs(3, step, &["symmetric at offset", "plain: "]).map(drop)
}

fn counts_are_exact() -> Result<(), Failed> {
    config().run(3, |world| {
        let rank = Rank::new(world)?;
        let (x, mut y) = symm!(group = rank.tp, {
            (
                rank.tp.from_slice(&[1.0f32; 64])?,
                rank.tp.zeros::<f32>(192)?,
            )
        })?;
        let mut z = rank.world.pool().from_slice(&[1.0f32; 64])?;
        assert_eq!(rank.tp.counts(), []);
        for _ in 0..7 {
            rank.tp.all_reduce(&x, y.view_mut(0..64)?, ReduceOp::Sum)?;
        }
        for _ in 0..3 {
            rank.tp
                .all_reduce(plain(&x), plain_mut(&mut z), ReduceOp::Sum)?;
        }
        rank.tp.all_gather(&x, &mut y)?;
        rank.tp.broadcast_in_place(&mut y, 1)?;
        // What is refused does not run, and does not count.
        rank.tp.set_strict(Strict::new());
        assert!(
            rank.tp
                .all_reduce_in_place(plain_mut(&mut z), ReduceOp::Sum)
                .is_err()
        );
        let mut batch = rank.tp.batch();
        batch.broadcast_in_place(y.view_mut(0..8)?, 0);
        batch.broadcast_in_place(plain_mut(&mut z), 0);
        batch.launch()?;
        rank.world.synchronize()?;
        let mut counts: Vec<_> = rank.tp.counts().iter().map(row).collect();
        let plain = Path::Plain;
        let mut expected = vec![
            ("all_reduce", Path::Symmetric, 7, 7 * 256),
            ("all_reduce", plain(Reason::Foreign), 3, 3 * 256),
            ("all_gather", Path::Symmetric, 1, 256),
            ("broadcast", plain(Reason::NoKernel), 3, 768 + 32 + 256),
        ];
        expected.sort_by_key(key);
        counts.sort_by_key(key);
        assert_eq!(counts, expected);
        Ok(())
    })?;
    Ok(())
}

type Row = (&'static str, Path, u64, u64);

fn row(count: &PathCount) -> Row {
    (count.operation, count.path, count.calls, count.bytes)
}

fn key(row: &Row) -> (&'static str, u64) {
    (row.0, row.2)
}
