//! Captures that do not come to their end: errors, panics, guards that are dropped.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use symm_core::{
    Backend, Buf, Capture, Error, GraphPool, Need, Pass, Prime, ReduceOp, Result, World, symm,
};

use super::steps::{MIB, disk_full, eager, summed, usable, warm};
use super::{Case, Outcome, Tp};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        a_dropped_prime_ends,
        a_dropped_capture_is_discarded,
        an_error_ends_either_pass,
        an_error_of_the_steps_own_type_comes_out,
        a_panic_ends_either_pass,
    ]
}

const LEN: usize = 3000;

fn a_dropped_prime_ends<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let prime = Prime::begin(&graphs, world.stream())?;
    let x = eager(&tp, LEN)?;
    drop(prime);
    ensure_eq!(graphs.stats().live_bytes(), 12_288, "what it made lives on");
    let y = Buf::<u8, B>::empty(99)?;
    ensure_eq!(
        world.pool().stats().plain_live_bytes,
        99,
        "allocation is as before"
    );
    drop((x, y));
    usable(world, &graphs, &tp)
}

fn a_dropped_capture_is_discarded<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    warm(&tp, LEN)?;
    let mut x = symm!(group = tp, { tp.from_slice(&[1.0f32; LEN])? })?;
    let graphs = GraphPool::new(world.pool());
    let capture = Capture::begin(&graphs, &Need::new().group(&tp, MIB), world.stream())?;
    tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    let made = eager(&tp, LEN)?;
    drop(capture);
    ensure_same!(x.to_vec()?, [1.0; LEN], "nothing has run");
    drop(made);
    usable(world, &graphs, &tp)
}

fn an_error_ends_either_pass<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let x = eager(&tp, LEN)?;
    let graphs = GraphPool::new(world.pool());
    for failing in [Pass::Prime, Pass::Capture] {
        let mut passes = Vec::new();
        let outcome = graphs.capture(world.stream(), |pass| {
            passes.push(pass);
            let sum = summed(&tp, &x)?;
            let _scope = tp.scope()?;
            match pass == failing {
                true => Err(disk_full()),
                false => Ok(sum),
            }
        });
        ensure_matches!(outcome, Err(Error::Config { what }) if *what == *"disk full");
        ensure_eq!(passes.last(), Some(&failing));
        usable(world, &graphs, &tp)?;
    }
    Ok(())
}

fn an_error_of_the_steps_own_type_comes_out<B: Backend>(world: &World<B>) -> Outcome {
    #[derive(Debug, PartialEq)]
    enum Own {
        Tokens(usize),
        Of(String),
    }
    impl From<Error> for Own {
        fn from(error: Error) -> Self {
            Own::Of(error.to_string())
        }
    }
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let outcome = graphs.capture(world.stream(), |pass| match pass {
        Pass::Prime => Ok(()),
        Pass::Capture => Err(Own::Tokens(7)),
    });
    ensure_eq!(outcome.err(), Some(Own::Tokens(7)));
    let outcome = graphs.capture(world.stream(), |_| -> Result<_, Own> {
        let mut x = symm!(group = tp, { tp.zeros::<f32>(LEN)? })?;
        tp.broadcast_in_place(&mut x, 99)?;
        Ok(())
    });
    ensure_matches!(outcome, Err(Own::Of(text)) if text.contains("rank 99 does not exist"));
    usable(world, &graphs, &tp)
}

fn a_panic_ends_either_pass<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let x = eager(&tp, LEN)?;
    let graphs = GraphPool::new(world.pool());
    for failing in [Pass::Prime, Pass::Capture] {
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            graphs.capture(world.stream(), |pass| -> Result<_> {
                let sum = summed(&tp, &x)?;
                let _scope = tp.scope()?;
                // As a panic, but without a message on the terminal.
                if pass == failing {
                    resume_unwind(Box::new("boom"));
                }
                Ok(sum)
            })
        }));
        let panic = panicked.err().and_then(|panic| panic.downcast().ok());
        ensure_eq!(panic, Some(Box::new("boom")));
        usable(world, &graphs, &tp)?;
    }
    Ok(())
}
