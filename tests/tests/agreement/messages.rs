//! Point-to-point: a pair that differs is told, with all other ranks, and a pair that does not
//! concerns nobody else.

use libtest_mimic::Failed;
use symm_core::{Host, ReduceOp, Result, SymmBuf, symm};

use crate::Case;
use crate::harness::{Rank, Step, Tp, config, differs};

const LEN: usize = 64;

pub(crate) const CASES: &[Case] = &[
    ("another_length", another_length),
    ("another_type", another_type),
    ("another_order", another_order),
    ("pairs_are_apart", pairs_are_apart),
    ("a_ring_of_uneven_messages", a_ring_of_uneven_messages),
    ("one_way_far_ahead", one_way_far_ahead),
];

fn buffer(rank: &Rank, len: usize) -> Result<SymmBuf<f32, Tp, Host>> {
    symm!(group = rank.tp, { rank.tp.from_slice(&vec![1.0; len])? })
}

/// The first and the last rank exchange something; the one between has no part in it.
fn exchange(rank: &Rank, x: &mut SymmBuf<f32, Tp, Host>, len: usize) -> Result<()> {
    let last = rank.tp.size() - 1;
    match rank.me() {
        0 => drop(rank.tp.send(x.view(0..len)?, last)?),
        me if me == last => drop(rank.tp.recv(x.view_mut(0..len)?, 0)?),
        _ => {}
    }
    Ok(())
}

fn another_length() -> Result<(), Failed> {
    let step: Step = |rank, odd| {
        let mut x = buffer(rank, LEN)?;
        exchange(rank, &mut x, if odd { LEN / 2 } else { LEN })?;
        x.to_vec()
    };
    let says = [
        "the ranks of tp#",
        "between ranks",
        "another length or type",
    ];
    differs(3, step, &says).map(drop)
}

fn another_type() -> Result<(), Failed> {
    let step: Step = |rank, odd| {
        let (mut x, mut y) = symm!(group = rank.tp, {
            (
                rank.tp.from_slice(&[1.0f32; LEN])?,
                rank.tp.from_slice(&[1i32; LEN])?,
            )
        })?;
        match (rank.me(), odd) {
            (0, true) => drop(rank.tp.send(&y, 2)?),
            (2, true) => drop(rank.tp.recv(&mut y, 0)?),
            _ => exchange(rank, &mut x, LEN)?,
        }
        x.to_vec()
    };
    differs(3, step, &["of 256 bytes", "messages.rs:"]).map(drop)
}

fn another_order() -> Result<(), Failed> {
    let step: Step = |rank, odd| {
        let mut x = buffer(rank, LEN)?;
        for len in if odd { [8, 16] } else { [16, 8] } {
            exchange(rank, &mut x, len)?;
        }
        x.to_vec()
    };
    differs(3, step, &["another length or type"]).map(drop)
}

fn pairs_are_apart() -> Result<(), Failed> {
    config().run(4, |world| {
        let rank = Rank::new(world)?;
        let mut x = buffer(&rank, LEN)?;
        // Nobody else takes part, and rank 3 goes its own way in messages of its own.
        for round in 0..100 {
            match rank.me() {
                0 => drop(rank.tp.send(x.view(0..1 + round % LEN)?, 1)?),
                1 => drop(rank.tp.recv(x.view_mut(0..1 + round % LEN)?, 0)?),
                2 if round < 10 => drop(rank.tp.send(&x, 3)?),
                3 if round < 10 => drop(rank.tp.recv(&mut x, 2)?),
                _ => {}
            }
        }
        rank.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
        assert_eq!(x.to_vec()?, [4.0; LEN]);
        Ok(())
    })?;
    Ok(())
}

fn a_ring_of_uneven_messages() -> Result<(), Failed> {
    config().run(3, |world| {
        let rank = Rank::new(world)?;
        let me = rank.me();
        let (next, last) = ((me + 1) % 3, (me + 2) % 3);
        let mine = buffer(&rank, 30)?;
        let mut theirs = buffer(&rank, 30)?;
        for round in 0..50 {
            // Each pair has a length of its own.
            let len = |from: usize| 1 + (from * 7 + round) % 30;
            let mut ring = rank.tp.batch();
            ring.send(mine.view(0..len(me))?, next);
            ring.recv(theirs.view_mut(0..len(last))?, last);
            ring.launch()?;
        }
        let mut sum = buffer(&rank, 1)?;
        rank.tp.all_reduce_in_place(&mut sum, ReduceOp::Sum)?;
        assert_eq!(
            (theirs.to_vec()?, sum.to_vec()?),
            (vec![1.0; 30], vec![3.0])
        );
        Ok(())
    })?;
    Ok(())
}

fn one_way_far_ahead() -> Result<(), Failed> {
    config().run(2, |world| {
        let rank = Rank::new(world)?;
        let mut x = buffer(&rank, LEN)?;
        if rank.me() == 1 {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        for _ in 0..200 {
            match rank.me() {
                0 => rank.tp.send(&x, 1)?,
                _ => rank.tp.recv(&mut x, 0)?,
            };
        }
        assert_eq!(x.to_vec()?, [1.0; LEN]);
        Ok(())
    })?;
    Ok(())
}
