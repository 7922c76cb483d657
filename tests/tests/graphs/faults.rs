//! What goes wrong with graphs on purpose: typed errors, on the peers too, and nothing hangs or
//! stays behind.

use std::any::Any;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use symm_core::host::{At, CallKind, Fault, Options, What};
use symm_core::{
    Config, Error, Graph, GraphOptions, GraphPool, Group, Host, Need, Pass, ReduceOp, Result,
    SymmBuf, World, plain, symm,
};

use crate::rank::Tp;

type Buffer = SymmBuf<f32, Tp, Host>;

pub(crate) fn trials() -> Vec<Trial> {
    let trial = |name: &str, run: fn() -> Outcome| {
        Trial::test(format!("faults::{name}"), move || {
            run().map_err(Failed::from)
        })
    };
    vec![
        trial(
            "a_rank_without_memory_is_named_to_its_peers",
            no_memory_on_one_rank,
        ),
        trial("a_full_device_leaves_the_pool_as_it_was", full_device),
        trial("the_budget_holds_for_graphs", budget),
        trial("a_capture_that_does_not_begin_on_one_rank", begin_fails),
        trial("a_capture_that_does_not_end_on_one_rank", end_fails),
        trial("a_rank_that_leaves_in_its_prime_is_named", leaves_in_prime),
        trial("nothing_is_launched_in_a_failed_world", poisoned),
        trial("the_world_may_go_in_any_order", any_order),
        trial("every_call_may_fail", || every_call(What::Fail)),
        trial("every_call_may_hang", || every_call(What::Hang)),
        trial("every_call_may_find_no_memory", || {
            every_call(What::OutOfMemory)
        }),
    ]
}

type Outcome = std::result::Result<(), String>;

fn config() -> Config<Host> {
    Config::default().deadline(Duration::from_secs(60))
}

fn faulty(fault: Fault) -> Config<Host> {
    config().options(Options::default().fault(fault))
}

/// Fails with what was found instead.
fn wrong<T>(found: impl std::fmt::Debug) -> Result<T> {
    Err(Error::Config {
        what: format!("found {found:?}").into(),
    })
}

fn ended(outcome: Result<Vec<()>>) -> Outcome {
    outcome.map(drop).map_err(|error| error.to_string())
}

fn summed(tp: &Group<Tp, Host>, x: &Buffer) -> Result<Buffer> {
    let mut temporary = symm!(group = tp, { tp.empty(x.len())? })?;
    tp.all_reduce(x, &mut temporary, ReduceOp::Sum)?;
    let mut sum = symm!(group = tp, { tp.empty(x.len())? })?;
    sum.copy_from(plain(&temporary))?;
    Ok(sum)
}

/// Captures that step and fails unless its launches are right.
fn works(world: &World<Host>, graphs: &GraphPool<Host>, tp: &Group<Tp, Host>) -> Result<()> {
    let mut x = symm!(group = tp, { tp.zeros::<f32>(300)? })?;
    let mut graph = graphs.capture(world.stream(), |_| summed(tp, &x))?;
    for round in 0..3 {
        x.copy_from_slice(&[round as f32; 300])?;
        graph.launch()?;
        let sum = graph.output().to_vec()?;
        if sum != [(round * tp.size()) as f32; 300] {
            return wrong(&sum[..5]);
        }
    }
    Ok(())
}

/// Rank 1 gets its own error, its peers are told that it was rank 1, and the next capture works.
fn one_rank_fails(fault: Fault, expected: impl Fn(&Error) -> bool + Sync) -> Outcome {
    let outcome = faulty(fault).run(3, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let x = symm!(group = tp, { tp.zeros::<f32>(300)? })?;
        let graphs = GraphPool::new(world.pool());
        let before = graphs.stats();
        let need = Need::new().group(&tp, 1 << 20);
        let outcome = graphs.capture_reserved(&need, world.stream(), |_| summed(&tp, &x));
        match (outcome.map(drop), world.rank()) {
            (Err(error), 1) if expected(&error) => {}
            (Err(Error::PeerFailed { rank: 1, .. } | Error::Poisoned { rank: 1, .. }), 0 | 2) => {}
            (other, _) => return wrong(other),
        }
        let stats = graphs.stats();
        if (stats.graphs, stats.live_bytes()) != (before.graphs, before.live_bytes()) {
            return wrong(stats);
        }
        works(&world, &graphs, &tp)
    });
    ended(outcome)
}

fn no_memory_on_one_rank() -> Outcome {
    // The first segment is the eager arena's.
    let fault = Fault::new(1, At::Call(CallKind::AllocSegment, 2), What::OutOfMemory);
    one_rank_fails(fault, |error| matches!(error, Error::OutOfMemory { .. }))
}

fn begin_fails() -> Outcome {
    let fault = Fault::new(1, At::Call(CallKind::BeginCapture, 1), What::Fail);
    one_rank_fails(fault, |error| matches!(error, Error::Backend { .. }))
}

fn end_fails() -> Outcome {
    let fault = Fault::new(1, At::Call(CallKind::EndCapture, 1), What::Fail);
    one_rank_fails(fault, |error| matches!(error, Error::Backend { .. }))
}

fn full_device() -> Outcome {
    let small = config().options(Options::default().memory(30 << 20));
    let outcome = small.run(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let graphs = GraphPool::new(world.pool());
        works(&world, &graphs, &tp)?;
        let before = (graphs.stats(), world.pool().stats());
        let reserved = graphs.reserve(&Need::new().group(&tp, 20 << 20).plain(1 << 20));
        let captured = graphs.capture(world.stream(), |_| {
            symm!(group = tp, { tp.empty::<u8>(20 << 20)? })
        });
        match (reserved, captured) {
            (Err(Error::OutOfMemory { .. }), Err(Error::OutOfMemory { .. })) => {}
            other => return wrong(other),
        }
        if graphs.stats().reserved_bytes() != before.0.reserved_bytes() {
            return wrong(graphs.stats());
        }
        works(&world, &graphs, &tp)
    });
    ended(outcome)
}

fn budget() -> Outcome {
    let outcome = config().budget(20 << 20).run(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let graphs = GraphPool::new(world.pool());
        works(&world, &graphs, &tp)?; // two segments of 8 MiB
        match graphs.reserve(&Need::new().group(&tp, 9 << 20)) {
            Err(Error::BudgetExceeded {
                reserved, budget, ..
            }) if (reserved, budget) == (16 << 20, 20 << 20) => {}
            other => return wrong(other),
        }
        works(&world, &graphs, &tp)
    });
    ended(outcome)
}

fn leaves_in_prime() -> Outcome {
    let results = config().run_each(3, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let graphs = GraphPool::new(world.pool());
        graphs.capture(world.stream(), |pass| {
            if world.rank() == 2 && pass == Pass::Prime {
                return Err(Error::Config {
                    what: "disk full".into(),
                });
            }
            symm!(group = tp, { tp.zeros::<f32>(10)? })
        })?;
        Ok(())
    });
    let told = |result: &Result<()>| match result {
        Err(Error::PeerFailed { rank: 2, cause } | Error::Poisoned { rank: 2, cause }) => {
            cause.contains("disk full")
        }
        Err(Error::Registration { cause, .. }) => cause.to_string().contains("disk full"),
        _ => false,
    };
    match &results[..] {
        [a, b, Err(Error::Config { .. })] if told(a) && told(b) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

fn poisoned() -> Outcome {
    // The third registration is one of growth in a capture.
    let fault = Fault::new(0, At::Call(CallKind::Register, 3), What::Fail);
    let results = faulty(fault).run_each(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let graphs = GraphPool::with(world.pool(), GraphOptions::default().growth(true))?;
        let x = symm!(group = tp, { tp.zeros::<f32>(300)? })?;
        let mut graph = graphs.capture(world.stream(), |_| summed(&tp, &x))?;
        graph.launch()?;
        graph.output().to_vec()?;
        let grown = graphs.capture_reserved(&Need::new(), world.stream(), |_| {
            symm!(group = tp, { tp.empty::<u8>(20 << 20)? })
        });
        if grown.is_ok() {
            return wrong("a capture of memory that one rank could not register");
        }
        match (graph.launch(), graph.output().to_vec()) {
            (Err(Error::Poisoned { .. }), Err(Error::Poisoned { .. })) => Ok(()),
            other => wrong(other),
        }
    });
    match results.iter().all(Result::is_ok) {
        true => Ok(()),
        false => Err(format!("{results:?}")),
    }
}

/// The n-th of the orders of five things.
fn order(n: usize) -> [usize; 5] {
    let mut left = vec![0, 1, 2, 3, 4];
    [n % 5, n / 5 % 4, n / 20 % 3, n / 60 % 2, 0].map(|pick| left.remove(pick))
}

fn any_order() -> Outcome {
    for n in 0..120 {
        let outcome = config().run(2, |world| {
            let tp = world.split::<Tp>(0, 0)?;
            let graphs = GraphPool::new(world.pool());
            let x = symm!(group = tp, { tp.from_slice(&[1.0f32; 300])? })?;
            let mut graph: Graph<Buffer, Host> =
                graphs.capture(world.stream(), |_| summed(&tp, &x))?;
            graph.launch()?;
            graph.launch()?;
            let all: [Box<dyn Any>; 5] = [
                Box::new(graph),
                Box::new(tp),
                Box::new(world),
                Box::new(graphs),
                Box::new(x),
            ];
            let mut all = all.map(Some);
            for thing in order(n) {
                all[thing] = None;
            }
            Ok(())
        });
        ended(outcome).map_err(|error| format!("order {:?}: {error}", order(n)))?;
    }
    Ok(())
}

/// A program that does with graphs what can be done.
fn program(world: World<Host>) -> Result<f32> {
    let tp = world.split::<Tp>(0, 0)?;
    let side = world.new_stream()?;
    let graphs = GraphPool::new(world.pool());
    let x = symm!(group = tp, { tp.from_slice(&[2.0f32; 64])? })?;
    let mut first = graphs.capture(world.stream(), |_| {
        let on_side = world.on_stream(&side)?;
        let sum = summed(&tp, &x)?;
        on_side.end()?;
        Ok::<_, Error>(sum)
    })?;
    let mut second = graphs.capture(&side, |_| summed(&tp, first.output()))?;
    first.launch()?;
    drop(x);
    second.launch()?;
    drop(first);
    let sum = second.output().to_vec()?[0];
    drop(second);
    drop(graphs);
    Ok(sum)
}

fn every_call(what: What) -> Outcome {
    for rank in 0..2 {
        let mut reached = 0;
        for k in 1.. {
            let options = Options::default().fault(Fault::new(rank, At::Nth(k), what));
            // Nothing waits for longer than this, so a run that hangs shows.
            let config = config()
                .deadline(Duration::from_millis(300))
                .options(options);
            let results = config.run_each(2, program);
            let expected = |result: &Result<f32>| matches!(result, Ok(sum) if *sum != 8.0);
            if results.iter().any(expected) {
                return Err(format!("call {k} of rank {rank}: {results:?}"));
            }
            match results.iter().any(Result::is_err) {
                true => reached = k,
                false => break,
            }
        }
        println!("{what:?} on rank {rank}: {reached} calls");
        if reached < 30 {
            return Err(format!("only {reached} calls of rank {rank}"));
        }
    }
    Ok(())
}
