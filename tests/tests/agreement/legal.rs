//! What looks like a difference and is none: every program here is right, and computes.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use libtest_mimic::Failed;
use symm_core::{
    Buf, GraphPool, Host, Path, Reason, ReduceOp, Result, SymmBuf, World, plain, plain_mut, symm,
};

use crate::Case;
use crate::harness::{Cp, Rank, Tp, config};

pub(crate) const CASES: &[Case] = &[
    ("a_buffer_of_the_root_alone", a_buffer_of_the_root_alone),
    ("padded_buffers", padded_buffers),
    ("scopes_with_nothing_to_do", scopes_with_nothing_to_do),
    ("frees_in_other_orders", frees_in_other_orders),
    ("overlapping_groups", overlapping_groups),
    ("far_ahead_of_the_slowest", far_ahead_of_the_slowest),
    ("ends_early", ends_early),
    (
        "groups_dropped_in_other_orders",
        groups_dropped_in_other_orders,
    ),
    ("switched_off_scopes", switched_off_scopes),
    ("without_checks", without_checks),
    ("agreeing_first", agreeing_first),
    ("rebuilt_again_and_again", rebuilt_again_and_again),
    ("rebuilt_with_shared_buffers", rebuilt_with_shared_buffers),
];

fn each(ranks: usize, f: impl Fn(Rank) -> Result<()> + Sync) -> Result<(), Failed> {
    config().run(ranks, |world| f(Rank::new(world)?))?;
    Ok(())
}

fn a_buffer_of_the_root_alone() -> Result<(), Failed> {
    each(3, |rank| {
        let scope = rank.tp.scope()?;
        let x = scope.from_slice(&[rank.me() as f32; 8])?;
        let mut all: Buf<f32, Host> = {
            let _ordinary = rank.tp.suspend()?;
            Buf::empty(if rank.me() == 1 { 24 } else { 0 })?
        };
        let mut next = scope.zeros::<f32>(8)?; // at the same place on all ranks
        scope.close()?;
        rank.tp.gather(&x, plain_mut(&mut all), 1)?;
        assert_eq!(
            rank.tp.all_reduce(&x, &mut next, ReduceOp::Sum)?,
            Path::Symmetric
        );
        assert_eq!(next.to_vec()?, [3.0; 8]);
        if rank.me() == 1 {
            assert_eq!(all.to_vec()?[8..], [[1.0; 8], [2.0; 8]].concat());
        }
        Ok(())
    })
}

fn padded_buffers() -> Result<(), Failed> {
    each(3, |rank| {
        let (uneven, mut x) = symm!(group = rank.tp, {
            let uneven: SymmBuf<f32, Tp, Host> = SymmBuf::empty_padded(1 + 9 * rank.me(), 2000)?;
            (uneven, rank.tp.from_slice(&[1.0f32; 8])?)
        })?;
        rank.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
        assert_eq!(
            (uneven.len(), x.to_vec()?),
            (1 + 9 * rank.me(), vec![3.0; 8])
        );
        Ok(())
    })
}

fn scopes_with_nothing_to_do() -> Result<(), Failed> {
    each(3, |rank| {
        let mut x = symm!(group = rank.tp, { rank.tp.from_slice(&[1.0f32; 8])? })?;
        for round in 0..20 {
            for _ in 0..(rank.me() * round) % 4 {
                rank.tp.scope()?.close()?;
                symm!(group = rank.tp, {})?;
            }
            rank.tp.all_reduce_in_place(&mut x, ReduceOp::Max)?;
        }
        assert_eq!(x.to_vec()?, [1.0; 8]);
        Ok(())
    })
}

fn frees_in_other_orders() -> Result<(), Failed> {
    each(3, |rank| {
        for round in 0..20 {
            let mut all = symm!(group = rank.tp, {
                let some = (0..8).map(|at| rank.tp.from_slice(&vec![1.0f32; 100 * (at + 1)]));
                some.collect::<Result<Vec<_>>>()?
            })?;
            // Half of them go, on each rank in another order.
            for at in 0..4 {
                let from = if rank.me() % 2 == 0 { 0 } else { 3 - at };
                drop(all.remove(from));
            }
            let mut x = symm!(group = rank.tp, { rank.tp.from_slice(&[1.0f32; 50])? })?;
            let path = rank.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
            assert_eq!(
                (path, x.to_vec()?),
                (Path::Symmetric, vec![3.0; 50]),
                "{round}"
            );
        }
        Ok(())
    })
}

fn overlapping_groups() -> Result<(), Failed> {
    config().run(4, |world| {
        let me = world.rank();
        let tp = world.split::<Tp>(me / 2, me % 2)?; // {0, 1} and {2, 3}
        let cp = world.split::<Cp>(me % 2, me / 2)?; // {0, 2} and {1, 3}
        for round in 1..30 {
            // The two tensor-parallel groups have sequences of their own lengths, and numbers.
            let len = 10 * round * (1 + me / 2);
            for _ in 0..1 + me / 2 {
                let mut x = symm!(group = tp, { tp.from_slice(&vec![me as f32; len])? })?;
                tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
                assert_eq!(x.to_vec()?, vec![if me < 2 { 1.0 } else { 5.0 }; len]);
            }
            let mut y = symm!(group = cp, { cp.from_slice(&[me as f32; 64])? })?;
            cp.all_reduce_in_place(&mut y, ReduceOp::Sum)?;
            let mut part = world.pool().from_slice(&vec![1.0f32; 8 + me % 2])?;
            cp.all_reduce_in_place(plain_mut(&mut part), ReduceOp::Sum)?;
            assert_eq!(y.to_vec()?, [(2 * (me % 2) + 2) as f32; 64]);
        }
        Ok(())
    })?;
    Ok(())
}

fn far_ahead_of_the_slowest() -> Result<(), Failed> {
    each(3, |rank| {
        let mut x = symm!(group = rank.tp, { rank.tp.from_slice(&[1.0f32; 8])? })?;
        for round in 0..1000 {
            // Four laps of the ring: the others come to its end, and wait for room.
            if rank.me() == 2 && round % 300 == 1 {
                thread::sleep(Duration::from_millis(100));
            }
            rank.tp.all_reduce_in_place(&mut x, ReduceOp::Max)?;
        }
        assert_eq!(x.to_vec()?, [1.0; 8]);
        Ok(())
    })
}

fn ends_early() -> Result<(), Failed> {
    config().run(3, |world| {
        let me = world.rank();
        let all = world.split::<Cp>(0, 0)?;
        let tp = world.split::<Tp>(me / 2, 0)?; // {0, 1} and {2}
        let mut x = symm!(group = all, { all.from_slice(&[1.0f32; 8])? })?;
        all.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
        if me == 2 {
            x.to_vec()?;
            return Ok(());
        }
        let mut y = symm!(group = tp, { tp.from_slice(&[1.0f32; 8])? })?;
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(10));
            tp.all_reduce_in_place(&mut y, ReduceOp::Max)?;
            world.check()?;
        }
        assert_eq!((x.to_vec()?, y.to_vec()?), (vec![3.0; 8], vec![1.0; 8]));
        Ok(())
    })?;
    Ok(())
}

fn groups_dropped_in_other_orders() -> Result<(), Failed> {
    config().run(2, |world| {
        for _ in 0..5 {
            let (a, b) = (world.split::<Tp>(0, 0)?, world.split::<Cp>(0, 0)?);
            let mut x = symm!(group = a, { a.from_slice(&[1.0f32; 8])? })?;
            let mut y = symm!(group = b, { b.from_slice(&[1.0f32; 8])? })?;
            a.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
            b.all_reduce_in_place(&mut y, ReduceOp::Sum)?;
            let sums = (x.to_vec()?, y.to_vec()?);
            assert_eq!(sums, (vec![2.0; 8], vec![2.0; 8]));
            match world.rank() {
                0 => drop((a, x, b, y)),
                _ => drop((y, b, x, a)),
            }
        }
        Ok(())
    })?;
    Ok(())
}

fn switched_off_scopes() -> Result<(), Failed> {
    each(3, |rank| {
        for round in 0..10 {
            let on = round % 2 == 0;
            // Ordinary memory is nobody else's business.
            let mut x = symm!(group = rank.tp, when = on, {
                rank.tp.from_slice(&[1.0f32; 8])?
            })?;
            let expected = match on {
                true => Path::Symmetric,
                false => Path::Plain(Reason::Disabled),
            };
            assert_eq!(
                rank.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?,
                expected
            );
            assert_eq!(x.to_vec()?, [3.0; 8]);
        }
        Ok(())
    })
}

/// Every part once. `all` are the ranks, who meet before a rebuild: that ends whatever a peer is
/// still at.
fn program(world: World<Host>, all: &Barrier) -> Result<()> {
    let (rank, ranks) = (Rank::new(world)?, 3);
    let (next, last) = ((rank.me() + 1) % ranks, (rank.me() + 2) % ranks);
    let mut x = symm!(group = rank.tp, { rank.tp.from_slice(&[1.0f32; 64])? })?;
    let mut y = symm!(group = rank.tp, { rank.tp.zeros::<f32>(64)? })?;
    for _ in 0..300 {
        rank.tp.all_reduce(&x, &mut y, ReduceOp::Sum)?;
    }
    rank.tp.broadcast_in_place(&mut x, 1)?;
    let mut ring = rank.tp.batch();
    ring.send(&x, next);
    ring.recv(&mut y, last);
    ring.launch()?;
    assert_eq!(y.to_vec()?, [1.0; 64]);
    let graphs = GraphPool::new(rank.world.pool());
    let mut graph = graphs.capture(rank.world.stream(), |_| -> Result<_> {
        let mut sum = symm!(group = rank.tp, { rank.tp.empty::<f32>(64)? })?;
        rank.tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?;
        Ok(sum)
    })?;
    for _ in 0..5 {
        graph.launch()?;
    }
    y.copy_from(plain(graph.output()))?;
    assert_eq!(y.to_vec()?, [3.0; 64]);
    let large = symm!(group = rank.tp, { rank.tp.zeros::<u8>(20 << 20)? })?;
    drop((large, graph, graphs));
    all.wait();
    rank.world.rebuild()?;
    rank.tp.all_reduce(&x, &mut y, ReduceOp::Sum)?;
    assert_eq!(y.to_vec()?, [3.0; 64]);
    Ok(())
}

fn without_checks() -> Result<(), Failed> {
    let all = Barrier::new(3);
    config()
        .checks(false)
        .run(3, |world| program(world, &all))?;
    Ok(())
}

fn agreeing_first() -> Result<(), Failed> {
    let all = Barrier::new(3);
    config()
        .agree_first(true)
        .run(3, |world| program(world, &all))?;
    Ok(())
}

fn rebuilt_again_and_again() -> Result<(), Failed> {
    let all = Barrier::new(3);
    config().run(3, |world| program(world, &all))?;
    each(3, |rank| {
        let mut x = symm!(group = rank.tp, { rank.tp.from_slice(&[1.0f32; 8])? })?;
        let held = rank.holds();
        for _ in 0..10 {
            rank.tp.all_reduce_in_place(&mut x, ReduceOp::Max)?;
            assert_eq!(x.to_vec()?, [1.0; 8]);
            all.wait();
            rank.world.rebuild()?;
            rank.comes_to_hold(held);
        }
        Ok(())
    })
}

/// Some ranks may be past a round that gives shared buffers back when the world fails, and others
/// not: they agree on it when it is rebuilt.
fn rebuilt_with_shared_buffers() -> Result<(), Failed> {
    let all = Barrier::new(3);
    each(3, |rank| {
        let weights = |len| symm!(group = rank.tp, { rank.tp.zeros::<f32>(len)? });
        for _ in 0..8 {
            let shared = weights(1000)?.share().map_err(|(_, error)| error)?;
            if rank.me() == 1 {
                drop(shared);
            } else {
                thread::spawn(move || drop(shared));
            }
            let step = || -> Result<()> {
                // In a segment of its own, which a rebuild gives back: so there is a round each time.
                let mut large = weights(1 << 22)?;
                match rank.me() {
                    2 => rank.tp.broadcast_in_place(&mut large, 0)?,
                    _ => rank.tp.all_reduce_in_place(&mut large, ReduceOp::Sum)?,
                };
                large.to_vec().map(drop)
            };
            assert!(step().is_err());
            all.wait();
            rank.world.rebuild()?;
        }
        Ok(())
    })
}
