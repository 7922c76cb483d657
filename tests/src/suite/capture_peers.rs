//! Ranks whose captures differ: an error on all of them that says which rank did what, and no
//! graph.

use symm_core::{
    Backend, Capture, Error, GraphPool, Group, Need, Pass, ReduceOp, Result, World, symm,
};

use super::steps::{
    Buffer, MIB, captured_sum, disk_full, eager, reserved_sum, summed, sums, usable, warm,
};
use super::{Case, Outcome, Tp, settles};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        ranks_that_allocate_other_sizes,
        ranks_that_call_other_collectives,
        ranks_that_call_one_more,
        a_rank_whose_step_fails,
        a_rank_whose_prime_fails,
        a_rank_that_discards_its_capture,
        ranks_that_reserve_other_sizes,
        a_rank_that_ends_its_graph_early,
    ]
}

const LEN: usize = 3000;

/// Captures a step that may differ by rank, behind a need that does not.
fn differing<B: Backend>(
    world: &World<B>,
    graphs: &GraphPool<B>,
    tp: &Group<Tp, B>,
    mut step: impl FnMut(&mut Buffer<B>) -> Result<()>,
) -> Outcome<Result<()>> {
    warm(tp, LEN)?;
    let mut x = eager(tp, LEN)?;
    tp.broadcast_in_place(&mut x, 0)?;
    tp.all_gather_in_place(&mut x)?;
    let need = Need::new().group(tp, 2 * MIB);
    let outcome = graphs.capture_reserved(&need, world.stream(), |_| step(&mut x));
    Ok(outcome.map(drop))
}

fn ranks_that_allocate_other_sizes<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let bytes = 1000 + 5000 * (tp.rank() / (tp.size() - 1)); // the last rank's is larger
    let outcome = differing(world, &graphs, &tp, |_| {
        symm!(group = tp, { tp.empty::<u8>(bytes)? }).map(drop)
    })?;
    match outcome {
        Err(Error::RanksDiffer {
            group,
            what,
            detail,
        }) => {
            ensure!(group.starts_with("tp#"), "{group}");
            ensure!(what.contains("capture_peers.rs"), "{what}");
            let last = tp.size() - 1;
            ensure!(
                detail.contains("1024 bytes")
                    && detail.contains("6144 bytes")
                    && (tp.rank() == last || detail.contains(&format!("rank {last}"))),
                "{detail}"
            );
        }
        other => ensure!(false, "{other:?}"),
    }
    usable(world, &graphs, &tp)
}

fn ranks_that_call_other_collectives<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let outcome = differing(world, &graphs, &tp, |x| match tp.rank() {
        0 => tp.broadcast_in_place(x, 0).map(drop),
        _ => tp.all_gather_in_place(x).map(drop),
    })?;
    ensure_matches!(
        outcome,
        Err(Error::RanksDiffer { detail, .. })
            if detail.contains("broadcas") && detail.contains("all_gath")
    );
    usable(world, &graphs, &tp)?;
    // The same collective, of another size.
    let outcome = differing(world, &graphs, &tp, |x| {
        let part = x.view_mut(0..LEN - 4 * (tp.rank() % 2))?;
        tp.all_reduce_in_place(part, ReduceOp::Sum).map(drop)
    })?;
    ensure_matches!(outcome, Err(Error::RanksDiffer { .. }));
    usable(world, &graphs, &tp)
}

fn ranks_that_call_one_more<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let outcome = differing(world, &graphs, &tp, |x| {
        for _ in 0..1 + tp.rank() {
            tp.all_reduce_in_place(&mut *x, ReduceOp::Sum)?;
        }
        Ok(())
    })?;
    ensure_matches!(
        outcome,
        Err(Error::RanksDiffer { detail, .. }) if detail.contains("nothing more") || tp.rank() > 0
    );
    usable(world, &graphs, &tp)
}

fn a_rank_whose_step_fails<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let failing = tp.size() - 1;
    let outcome = differing(world, &graphs, &tp, |x| match tp.rank() == failing {
        true => Err(disk_full()),
        false => tp.all_reduce_in_place(x, ReduceOp::Sum).map(drop),
    })?;
    match (outcome, tp.rank() == failing) {
        (Err(Error::Config { what }), true) => ensure_eq!(&*what, "disk full"),
        (Err(Error::PeerFailed { rank, cause }), false) => {
            ensure_eq!(rank, failing);
            ensure!(cause.contains("ended early"), "{cause}");
        }
        (other, _) => ensure!(false, "{other:?}"),
    }
    usable(world, &graphs, &tp)?;

    // An error of ours in the step is named.
    let outcome = differing(world, &graphs, &tp, |x| match tp.rank() == failing {
        true => x.to_vec().map(drop),
        false => tp.all_reduce_in_place(x, ReduceOp::Sum).map(drop),
    })?;
    match (outcome, tp.rank() == failing) {
        (Err(Error::InCapture { .. }), true) => {}
        (Err(Error::PeerFailed { rank, cause }), false) => {
            ensure_eq!(rank, failing);
            ensure!(cause.contains("reading a buffer"), "{cause}");
        }
        (other, _) => ensure!(false, "{other:?}"),
    }
    usable(world, &graphs, &tp)
}

fn a_rank_whose_prime_fails<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let (x, failing) = (eager(&tp, LEN)?, tp.size() - 1);
    let mut last = None;
    let outcome = graphs.capture(world.stream(), |pass| {
        last = Some(pass);
        let sum = summed(&tp, &x)?;
        match tp.rank() == failing {
            true => Err(disk_full()),
            false => Ok(sum),
        }
    });
    ensure_eq!(last, Some(Pass::Prime), "no rank captured");
    match (outcome, tp.rank() == failing) {
        (Err(Error::Config { what }), true) => ensure_eq!(&*what, "disk full"),
        (Err(Error::PeerFailed { rank, .. }), false) => ensure_eq!(rank, failing),
        (other, _) => ensure!(false, "{other:?}"),
    }
    usable(world, &graphs, &tp)
}

fn a_rank_that_discards_its_capture<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    warm(&tp, LEN)?;
    let mut x = eager(&tp, LEN)?;
    let need = Need::new().group(&tp, MIB);
    let capture = Capture::begin(&graphs, &need, world.stream())?;
    tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    if tp.rank() == 0 {
        drop(capture);
    } else {
        ensure_matches!(capture.end(()), Err(Error::PeerFailed { rank: 0, .. }));
    }
    usable(world, &graphs, &tp)
}

fn ranks_that_reserve_other_sizes<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let before = world.pool().stats();
    // Segments of 8 and 24 MiB: registered, NCCL would compute garbage.
    let bytes = if tp.rank() == 0 { 1 } else { 24 * MIB };
    ensure_matches!(
        graphs.reserve(&Need::new().group(&tp, bytes)),
        Err(Error::RanksDiffer { .. })
    );
    ensure_eq!(tp.windows(), 0);
    settles(world, |stats| *stats == before)?;
    usable(world, &graphs, &tp)
}

fn a_rank_that_ends_its_graph_early<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let mut x = eager(&tp, LEN)?;
    let first = reserved_sum(world, &graphs, &tp, &x)?;
    // Where blocks go depends on the graphs that are there, so ranks must drop them alike.
    let kept = (tp.rank() == 0).then_some(first);
    let outcome = reserved_sum(world, &graphs, &tp, &x).map(drop);
    ensure_matches!(outcome, Err(Error::RanksDiffer { .. }));
    drop(kept);
    let mut again = captured_sum(world, &graphs, &tp, &x)?;
    sums(&tp, &mut x, &mut again)
}
