//! Captures: which runs of the step there are, what they leave behind, and how they end.

use symm_core::{
    Backend, Buf, Capture, CaptureMode, GraphOptions, GraphPool, Need, Pass, Path, Prime, Reason,
    ReduceOp, Result, SymmBuf, World, plain, symm,
};

use super::steps::{
    Buffer, captured_sum, disk_full, eager, part, paths, reserved_sum, summed, sums, total, warm,
};
use super::{Case, Cp, Failure, Outcome, Tp};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        a_step_is_primed_and_then_captured,
        a_reserved_one_is_captured_alone,
        guards_do_the_same,
        a_prime_says_what_the_step_needs,
        a_need_holds_for_many_captures,
        passes_may_differ_by_what_is_made_once,
        an_empty_step_is_a_graph,
        any_stream_can_be_captured,
        relaxed_mode_is_no_different,
        statistics_say_what_is_in_it,
        batches_are_in_it,
        a_group_of_one_rank_takes_part,
        groups_capture_programs_of_their_own from 4,
    ]
}

const LEN: usize = 3000;

fn a_step_is_primed_and_then_captured<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut x = symm!(group = tp, { tp.from_slice(&[1.0f32; LEN])? })?;
    let ranks = tp.size() as f32;
    let graphs = GraphPool::new(world.pool());
    let mut passes = Vec::new();
    let mut graph = graphs.capture(world.stream(), |pass| -> Result<_> {
        passes.push(pass);
        tp.all_reduce_in_place(&mut x, ReduceOp::Sum)
    })?;
    ensure_eq!(passes, [Pass::Prime, Pass::Capture]);
    ensure_same!(x.to_vec()?, [ranks; LEN], "after one run, not two");
    for launch in 2..5 {
        graph.launch()?;
        ensure_same!(x.to_vec()?, [ranks.powi(launch); LEN], "run {launch}");
    }
    ensure_eq!(graph.stats().launches, 3);
    Ok(())
}

fn a_reserved_one_is_captured_alone<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    warm(&tp, LEN)?;
    let mut x = symm!(group = tp, { tp.from_slice(&[1.0f32; LEN])? })?;
    let graphs = GraphPool::new(world.pool());
    let mut passes = Vec::new();
    let need = Need::new().group(&tp, 1);
    let mut graph = graphs.capture_reserved(&need, world.stream(), |pass| -> Result<_> {
        passes.push(pass);
        tp.all_reduce_in_place(&mut x, ReduceOp::Sum)
    })?;
    ensure_eq!(passes, [Pass::Capture]);
    ensure_same!(x.to_vec()?, [1.0; LEN], "nothing has run");
    graph.launch()?;
    ensure_same!(x.to_vec()?, [tp.size() as f32; LEN], "after the launch");
    Ok(())
}

fn guards_do_the_same<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut x = eager(&tp, LEN)?;
    let graphs = GraphPool::new(world.pool());
    x.copy_from_slice(&part(9, tp.rank(), LEN))?;

    let prime = Prime::begin(&graphs, world.stream())?;
    let primed = summed(&tp, &x)?;
    let need = prime.end()?;
    ensure_same!(
        primed.to_vec()?,
        total(9, tp.size(), LEN),
        "a prime executes"
    );
    drop(primed);

    let capture = Capture::begin(&graphs, &need, world.stream())?;
    let output = summed(&tp, &x)?;
    let mut graph = capture.end(output)?;
    sums(&tp, &mut x, &mut graph)?;
    ensure_eq!(graphs.stats().graphs, 1);
    Ok(())
}

fn a_prime_says_what_the_step_needs<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let prime = Prime::begin(&graphs, world.stream())?;
    let kept = symm!(group = tp, {
        drop((tp.empty::<u8>(4000)?, tp.empty::<u8>(100)?)); // 4096 + 512 at a time
        tp.empty::<u8>(8000)? // 8192, once they are gone
    })?;
    drop(Buf::<f32, B>::empty(300)?); // 1536 outside scopes
    let need = prime.end()?;
    ensure_eq!(need.bytes(), 8192 + 1536);
    drop(kept);
    ensure_eq!(Need::<B>::new().bytes(), 0);
    ensure_eq!(
        Need::new().group(&tp, 700).plain(10).group(&tp, 1).bytes(),
        1024 + 512 + 512
    );
    Ok(())
}

fn a_need_holds_for_many_captures<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut x = eager(&tp, LEN)?;
    let graphs = GraphPool::new(world.pool());
    let prime = Prime::begin(&graphs, world.stream())?;
    drop(summed(&tp, &x)?);
    let need = prime.end()?;
    let mut captured = Vec::new();
    for _ in 0..5 {
        let stream = world.stream();
        captured.push(graphs.capture_reserved(&need, stream, |_| summed(&tp, &x))?);
    }
    for graph in &mut captured {
        sums(&tp, &mut x, graph)?;
    }
    ensure_eq!(graphs.stats().graphs, 5);
    Ok(())
}

fn passes_may_differ_by_what_is_made_once<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut x = eager(&tp, LEN)?;
    let graphs = GraphPool::new(world.pool());
    let mut workspace: Option<Buffer<B>> = None;
    let mut capture = || {
        graphs.capture(world.stream(), |_| -> Result<_> {
            if workspace.is_none() {
                workspace = Some(symm!(group = tp, { tp.empty(LEN)? })?);
            }
            let Some(workspace) = &mut workspace else {
                return Err(disk_full());
            };
            tp.all_reduce(&x, &mut *workspace, ReduceOp::Sum)?;
            let mut sum = symm!(group = tp, { tp.empty(LEN)? })?;
            sum.copy_from(plain(&*workspace))?;
            Ok(sum)
        })
    };
    let (mut a, mut b) = (capture()?, capture()?);
    ensure_eq!((a.stats().leases, b.stats().leases), (2, 2));
    ensure_eq!(
        (a.stats().owned_bytes, b.stats().owned_bytes),
        (12_288, 12_288)
    );
    sums(&tp, &mut x, &mut a)?;
    sums(&tp, &mut x, &mut b)?;
    drop(workspace.take());
    sums(&tp, &mut x, &mut a)?;
    drop((a, b));
    ensure_eq!(graphs.stats().live_bytes(), 0);
    Ok(())
}

fn an_empty_step_is_a_graph<B: Backend>(world: &World<B>) -> Outcome {
    let graphs = GraphPool::new(world.pool());
    let mut graph = graphs.capture(world.stream(), |_| Ok::<_, Failure>(7))?;
    for _ in 0..3 {
        graph.launch()?;
    }
    ensure_eq!((*graph.output(), graph.stats().launches), (7, 3));
    ensure_eq!(graphs.stats().reserved_bytes(), 0);
    ensure_eq!(graph.into_output(), 7);
    Ok(())
}

fn any_stream_can_be_captured<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut x = eager(&tp, 50_000)?;
    let (side, other) = (world.new_stream()?, world.new_stream()?);
    let graphs = GraphPool::new(world.pool());
    // Whatever stream is current outside, the captured one is in the step: work on the other one
    // would run now, and not in launches.
    let on_other = world.on_stream(&other)?;
    let mut graph = graphs.capture(&side, |_| summed(&tp, &x))?;
    ensure_eq!(
        format!("{:?}", graph.stream()),
        format!("{side:?}"),
        "the stream of launches"
    );
    sums(&tp, &mut x, &mut graph)?;
    on_other.end()?;
    sums(&tp, &mut x, &mut graph)
}

fn relaxed_mode_is_no_different<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut x = eager(&tp, LEN)?;
    let options = GraphOptions::default().mode(CaptureMode::Relaxed);
    let graphs = GraphPool::with(world.pool(), options)?;
    let mut graph = captured_sum(world, &graphs, &tp, &x)?;
    sums(&tp, &mut x, &mut graph)?;
    let mut reserved = reserved_sum(world, &graphs, &tp, &x)?;
    sums(&tp, &mut x, &mut reserved)
}

fn statistics_say_what_is_in_it<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (_, captured) = paths(&tp)?;
    let x = eager(&tp, LEN)?;
    let graphs = GraphPool::new(world.pool());
    let mut told = Vec::new();
    let graph = graphs.capture(world.stream(), |_| -> Result<_> {
        let mut sum = symm!(group = tp, { tp.empty(LEN)? })?;
        let mut all = Buf::<f32, B>::empty(LEN)?;
        told = vec![
            tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?,
            tp.broadcast_in_place(&mut sum, 0)?,
        ];
        all.copy_from(plain(&sum))?;
        Ok((sum, all))
    })?;
    ensure_eq!(told, [captured, Path::Plain(Reason::NoKernel)]);
    let stats = graph.stats();
    let calls: Vec<_> = stats
        .calls
        .iter()
        .map(|call| (call.operation, &*call.group, call.bytes, call.path))
        .collect();
    ensure_eq!(
        calls,
        [
            ("all_reduce", "tp", 12_000, told[0]),
            ("broadcast", "tp", 12_000, told[1])
        ]
    );
    ensure_eq!((stats.leases, stats.launches), (1, 0));
    ensure_eq!(stats.owned_bytes, 2 * 12_288);
    ensure!(stats.nodes.len() >= 3, "{:?}", stats.nodes);
    ensure!(stats.to_string().contains("2 collectives"), "{stats}");
    let pool = graphs.stats();
    let names: Vec<&str> = pool.arenas.iter().map(|arena| &*arena.name).collect();
    ensure_eq!(names, [tp.arena(), "private"]);
    let live: Vec<u64> = pool.arenas.iter().map(|arena| arena.live_bytes).collect();
    ensure_eq!(live, [12_288, 12_288]);
    Ok(())
}

fn batches_are_in_it<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (mut x, mut y) = (eager(&tp, LEN)?, eager(&tp, LEN)?);
    let graphs = GraphPool::new(world.pool());
    let (next, last) = (
        (tp.rank() + 1) % tp.size(),
        (tp.rank() + tp.size() - 1) % tp.size(),
    );
    let mut graph = graphs.capture(world.stream(), |_| -> Result<_> {
        let mut got = symm!(group = tp, { tp.empty(LEN)? })?;
        let mut sums = tp.batch();
        sums.all_reduce_in_place(&mut x, ReduceOp::Sum)
            .all_reduce_in_place(&mut y, ReduceOp::Sum);
        sums.launch()?;
        let mut ring = tp.batch();
        ring.send(&x, next).recv(&mut got, last);
        ring.launch()?;
        Ok(got)
    })?;
    ensure_eq!(graph.stats().calls.len(), 4);
    for round in 0..3 {
        x.copy_from_slice(&part(round, tp.rank(), LEN))?;
        y.copy_from_slice(&part(50 + round, tp.rank(), LEN))?;
        graph.launch()?;
        let sum = total(round, tp.size(), LEN);
        ensure_same!(graph.output().to_vec()?, sum, "sent on in round {round}");
        ensure_same!(y.to_vec()?, total(50 + round, tp.size(), LEN), "the second");
    }
    Ok(())
}

fn a_group_of_one_rank_takes_part<B: Backend>(world: &World<B>) -> Outcome {
    let alone = world.split::<Cp>(world.rank(), 0)?;
    let mut x = symm!(group = alone, { alone.zeros::<f32>(LEN)? })?;
    let graphs = GraphPool::new(world.pool());
    let mut graph = graphs.capture(world.stream(), |_| -> Result<_> {
        let mut y: SymmBuf<f32, Cp, B> = symm!(group = alone, { alone.empty(LEN)? })?;
        alone.all_reduce(&x, &mut y, ReduceOp::Sum)?;
        Ok(y)
    })?;
    ensure_eq!(graph.stats().calls[0].path, Path::Plain(Reason::SingleRank));
    for round in 0..3 {
        let data = part(round, world.rank(), LEN);
        x.copy_from_slice(&data)?;
        graph.launch()?;
        ensure_same!(graph.output().to_vec()?, data, "round {round}");
    }
    Ok(())
}

fn groups_capture_programs_of_their_own<B: Backend>(world: &World<B>) -> Outcome {
    let (team, key) = (world.rank() / 2, world.rank() % 2);
    let tp = world.split::<Tp>(team, key)?;
    let mut x = eager(&tp, LEN)?;
    let graphs = GraphPool::new(world.pool());
    // As pipeline stages do: one captures more often than the other, and larger.
    for turn in 0..=2 * team {
        let len = LEN * (1 + team);
        let mut own = eager(&tp, len)?;
        let mut graph = captured_sum(world, &graphs, &tp, &own)?;
        sums(&tp, &mut own, &mut graph)?;
        ensure_eq!(graphs.stats().graphs, 1, "turn {turn}");
    }
    let mut graph = captured_sum(world, &graphs, &tp, &x)?;
    sums(&tp, &mut x, &mut graph)
}
