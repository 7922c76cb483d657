//! What a capture refuses: before CUDA would, with an error that says what to do, and without harm
//! to the pool.

use std::mem;

use symm_core::{
    Backend, Buf, Capture, CaptureMode, Error, GraphOptions, GraphPool, Group, Need, Pass, Prime,
    ReduceOp, Result, World, plain, symm,
};

use super::steps::{
    MIB, captured_sum, eager, growing, paths, registers_in_captures, summed, sums, usable, warm,
};
use super::{Case, Cp, Outcome, Tp};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        a_miss_says_what_was_needed,
        a_miss_of_private_memory,
        after_a_reservation_the_same_capture_succeeds,
        a_group_that_was_not_named_is_a_miss,
        growth_takes_what_is_missing,
        a_sealed_pool_stays_as_it_is,
        global_mode_is_refused,
        captures_do_not_nest,
        reading_and_waiting_are_refused,
        copies_from_the_host_are_refused,
        what_waits_for_peers_is_refused,
        launches_in_a_capture_are_refused,
        swallowed_errors_refuse_the_capture,
        what_was_not_registered_before_is_refused,
        open_scopes_are_refused,
        bad_input_is_refused_in_captures_too,
    ]
}

const LEN: usize = 3000;

/// A capture without a prime, of what takes blocks of so many bytes and keeps them.
fn taking<B: Backend>(
    world: &World<B>,
    graphs: &GraphPool<B>,
    tp: &Group<Tp, B>,
    sizes: &[usize],
) -> Result<()> {
    let need = Need::new().group(tp, 1);
    let graph = graphs.capture_reserved(&need, world.stream(), |_| {
        symm!(group = tp, {
            sizes
                .iter()
                .map(|size| tp.empty::<u8>(*size))
                .collect::<Result<Vec<_>>>()?
        })
    });
    graph.map(drop)
}

fn a_miss_says_what_was_needed<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    graphs.reserve(&Need::new().group(&tp, 1))?; // 8 MiB, the size of first segments
    let before = (graphs.stats(), world.pool().stats());
    for (sizes, needed, left) in [
        (&[9 << 20][..], 9 * MIB, 8 * MIB),
        (&[3 << 20, (6 << 20) - 5][..], 6 * MIB, 5 * MIB),
        (&[8 << 20, 1][..], 512, 0),
    ] {
        match taking(world, &graphs, &tp, sizes) {
            Err(Error::CaptureMiss {
                arena,
                need,
                have,
                site,
            }) => {
                ensure_eq!((&*arena, need, have), (tp.arena(), needed, left));
                ensure!(site.to_string().contains("capture_errors.rs"), "{site}");
            }
            other => ensure!(false, "{sizes:?}: {other:?}"),
        }
        let now = (graphs.stats(), world.pool().stats());
        ensure_eq!(now.1, before.1, "nothing grew");
        ensure_eq!((now.0.graphs, now.0.live_bytes()), (0, 0));
    }
    taking(world, &graphs, &tp, &[3 << 20, 5 << 20])?;
    usable(world, &graphs, &tp)
}

fn a_miss_of_private_memory<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let outcome =
        graphs.capture_reserved(&Need::new(), world.stream(), |_| Buf::<u8, B>::empty(1000));
    ensure_matches!(
        outcome,
        Err(Error::CaptureMiss { arena, need: 1024, have: 0, .. }) if *arena == *"private"
    );
    let need = Need::new().plain(1000);
    let fits = graphs.capture_reserved(&need, world.stream(), |_| Buf::<u8, B>::empty(1000))?;
    drop(fits);
    usable(world, &graphs, &tp)
}

fn after_a_reservation_the_same_capture_succeeds<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let len = 3 << 18; // 3 MiB, of which the step needs two and keeps one more
    warm(&tp, len)?;
    let mut x = eager(&tp, len)?;
    let need = Need::new().group(&tp, 1);
    let capture = || graphs.capture_reserved(&need, world.stream(), |_| summed(&tp, &x));
    let (first, second) = (capture()?, capture());
    // The first's temporary and output leave 2 MiB that nobody writes, and 5 that are free.
    ensure_matches!(second, Err(Error::CaptureMiss { need, .. }) if need == 3 * MIB);
    ensure_eq!(graphs.stats().graphs, 1);
    graphs.reserve(&Need::new().group(&tp, 20 * MIB))?;
    let reserved = graphs.stats().reserved_bytes();
    let mut again = capture()?;
    ensure_eq!(graphs.stats().reserved_bytes(), reserved);
    drop(first);
    sums(&tp, &mut x, &mut again)
}

fn a_group_that_was_not_named_is_a_miss<B: Backend>(world: &World<B>) -> Outcome {
    let (tp, cp) = (world.split::<Tp>(0, 0)?, world.split::<Cp>(0, 0)?);
    let graphs = GraphPool::new(world.pool());
    let need = Need::new().group(&tp, MIB);
    let outcome = graphs.capture_reserved(&need, world.stream(), |_| {
        symm!(group = cp, { cp.empty::<f32>(LEN)? })
    });
    ensure_matches!(
        outcome,
        Err(Error::CaptureMiss { arena, have: 0, .. }) if *arena == *cp.arena()
    );
    usable(world, &graphs, &tp)
}

fn growth_takes_what_is_missing<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (_, captured) = paths(&tp)?;
    let graphs = growing(world)?;
    let len = 3 << 20; // 12 MiB
    warm(&tp, len)?;
    let mut x = eager(&tp, len)?;
    let need = Need::new().group(&tp, 1);
    let outcome = graphs.capture_reserved(&need, world.stream(), |_| summed(&tp, &x));
    if !registers_in_captures() {
        ensure_matches!(outcome, Err(Error::CaptureMiss { need, .. }) if need == 12 * MIB);
        return usable(world, &graphs, &tp);
    }
    let mut graph = outcome?;
    ensure_eq!(graphs.stats().arenas[0].segments, 3);
    ensure_eq!(graph.stats().calls[0].path, captured);
    sums(&tp, &mut x, &mut graph)?;
    drop(graph);
    // Private memory needs no peers, and grows with every version.
    let private =
        graphs.capture_reserved(&Need::new(), world.stream(), |_| Buf::<u8, B>::zeros(1000))?;
    drop(private);
    usable(world, &graphs, &tp)
}

fn a_sealed_pool_stays_as_it_is<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let x = eager(&tp, LEN)?;
    let before = world.pool().stats();
    world.pool().seal();
    let reserved = graphs.reserve(&Need::new().group(&tp, MIB));
    let captured = captured_sum(world, &graphs, &tp, &x);
    world.pool().unseal();
    ensure_matches!(reserved, Err(Error::Sealed { .. }));
    ensure_matches!(captured, Err(Error::Sealed { .. }));
    ensure_eq!(world.pool().stats(), before);
    usable(world, &graphs, &tp)
}

fn global_mode_is_refused<B: Backend>(world: &World<B>) -> Outcome {
    let global = GraphOptions::default().mode(CaptureMode::Global);
    let refused = GraphPool::with(world.pool(), global).map(drop);
    ensure_matches!(
        refused,
        Err(Error::Config { what }) if what.contains("other ranks") && what.contains("ThreadLocal")
    );
    Ok(())
}

fn captures_do_not_nest<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (graphs, other) = (GraphPool::new(world.pool()), GraphPool::new(world.pool()));
    let none = Need::new();
    for pool in [&graphs, &other] {
        for pass in [Pass::Prime, Pass::Capture] {
            let outcome = graphs.capture(world.stream(), |now| -> Result<_> {
                if now == pass {
                    pool.capture(world.stream(), |_| Ok::<_, Error>(()))?;
                }
                Ok(())
            });
            ensure_matches!(outcome, Err(Error::InCapture { what, .. }) if what.contains("prime"));
        }
        let prime = Prime::begin(&graphs, world.stream())?;
        ensure_matches!(
            Prime::begin(pool, world.stream()),
            Err(Error::InCapture { .. })
        );
        drop(prime);
        let capture = Capture::begin(&graphs, &none, world.stream())?;
        ensure_matches!(
            Capture::begin(pool, &none, world.stream()),
            Err(Error::InCapture { .. })
        );
        drop(capture);
    }
    usable(world, &graphs, &tp)
}

/// Fails unless the call is refused in a capture: as the call's own error, and as the capture's
/// where the step goes on as if nothing had happened.
fn refused<B: Backend>(
    world: &World<B>,
    tp: &Group<Tp, B>,
    expected: &str,
    mut call: impl FnMut() -> Result<()>,
) -> Outcome {
    let graphs = GraphPool::new(world.pool());
    let need = Need::new().group(tp, MIB).plain(MIB);
    for swallowed in [false, true] {
        let mut own = None;
        let outcome = graphs.capture_reserved(&need, world.stream(), |_| -> Result<()> {
            let result = call();
            own = result.clone().err();
            match swallowed {
                true => Ok(()),
                false => result,
            }
        });
        for error in [own, outcome.err()] {
            ensure_matches!(
                error,
                Some(Error::InCapture { what, why, site }) if what.contains(expected)
                    && !why.is_empty() && site.to_string().contains("capture_errors.rs")
            );
        }
    }
    usable(world, &graphs, tp)
}

fn reading_and_waiting_are_refused<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (x, ordinary) = (eager(&tp, LEN)?, world.pool().zeros::<f32>(LEN)?);
    refused(world, &tp, "reading a buffer", || x.to_vec().map(drop))?;
    refused(world, &tp, "reading a buffer", || {
        ordinary.to_vec().map(drop)
    })?;
    refused(world, &tp, "reading a buffer", || {
        x.view(0..10)?.to_vec().map(drop)
    })?;
    refused(world, &tp, "waiting for a stream", || world.synchronize())
}

fn copies_from_the_host_are_refused<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let what = "a copy from host memory";
    let mut x = eager(&tp, LEN)?;
    refused(world, &tp, what, || x.copy_from_slice(&[1.0; LEN]))?;
    refused(world, &tp, what, || {
        x.view_mut(0..2)?.copy_from_slice(&[1.0; 2])
    })?;
    refused(world, &tp, what, || {
        symm!(group = tp, { tp.from_slice(&[1.0; LEN])? }).map(drop)
    })?;
    refused(world, &tp, what, || {
        Buf::<f32, B>::from_slice(&[1.0; LEN]).map(drop)
    })?;
    ensure_same!(x.to_vec()?, [0.0; LEN], "nothing was copied");
    Ok(())
}

fn what_waits_for_peers_is_refused<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    refused(world, &tp, "splitting a world", || {
        world.split::<Cp>(0, 0).map(drop)
    })?;
    refused(world, &tp, "reserving memory", || tp.reserve(MIB))?;
    refused(world, &tp, "reserving memory", || {
        graphs.reserve(&Need::new().group(&tp, MIB))
    })
}

fn launches_in_a_capture_are_refused<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let mut x = eager(&tp, LEN)?;
    let mut graph = captured_sum(world, &graphs, &tp, &x)?;
    refused(world, &tp, "launching a graph", || graph.launch())?;
    ensure_eq!(graph.stats().launches, 0);
    sums(&tp, &mut x, &mut graph)
}

fn swallowed_errors_refuse_the_capture<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let x = eager(&tp, LEN)?;
    let need = Need::new().group(&tp, MIB);
    // Whatever comes later, the first error is the one that is told.
    let outcome = graphs.capture_reserved(&need, world.stream(), |_| -> Result<_> {
        let missed = symm!(group = tp, { tp.empty::<u8>(99 << 20) });
        let later = x.to_vec();
        match (missed, later) {
            (Ok(Err(_)), Err(_)) => Ok(()),
            other => Err(Error::Config {
                what: format!("{other:?}").into(),
            }),
        }
    });
    ensure_matches!(outcome, Err(Error::CaptureMiss { need, .. }) if need == 99 * MIB);
    usable(world, &graphs, &tp)
}

fn what_was_not_registered_before_is_refused<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let scope = tp.scope()?;
    let mut x = scope.empty::<f32>(LEN)?; // its segment has no window before the scope closes
    let mut reduce = |need: &Need<B>| {
        graphs.capture_reserved(need, world.stream(), |_| {
            tp.all_reduce_in_place(&mut x, ReduceOp::Sum)
        })
    };
    ensure_matches!(
        reduce(&Need::new()),
        Err(Error::InCapture {
            what: "registering a window",
            ..
        })
    );
    // A need that names the group registers it.
    reduce(&Need::new().group(&tp, 1))?;
    scope.close()?;
    drop(x);
    usable(world, &graphs, &tp)
}

fn open_scopes_are_refused<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let side = world.new_stream()?;
    let mut left = None;
    let need = Need::new().group(&tp, MIB);
    let outcome = graphs.capture_reserved(&need, world.stream(), |_| -> Result<()> {
        left = Some(tp.scope()?);
        Ok(())
    });
    ensure_matches!(outcome, Err(Error::ScopeOrder { .. }));
    drop(left.take());
    usable(world, &graphs, &tp)?;

    let outcome = graphs.capture_reserved(&need, world.stream(), |_| -> Result<()> {
        mem::forget(world.on_stream(&side)?);
        Ok(())
    });
    ensure_matches!(outcome, Err(Error::ScopeOrder { .. }));
    usable(world, &graphs, &tp)?;

    let prime = Prime::begin(&graphs, world.stream())?;
    let open = tp.suspend()?;
    ensure_matches!(prime.end(), Err(Error::ScopeOrder { .. }));
    drop(open);
    usable(world, &graphs, &tp)
}

fn bad_input_is_refused_in_captures_too<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let (mut x, short) = (eager(&tp, LEN)?, eager(&tp, 7)?);
    let need = Need::new().group(&tp, MIB);
    warm(&tp, LEN)?;
    // None of these is the capture's fault: a step that sees to them is captured.
    let mut graph = graphs.capture_reserved(&need, world.stream(), |_| -> Outcome<_> {
        let mut sum = summed(&tp, &x)?;
        ensure_matches!(
            tp.all_reduce(&short, &mut sum, ReduceOp::Sum),
            Err(Error::Length {
                got: LEN,
                expected: 7,
                ..
            })
        );
        ensure_matches!(
            tp.broadcast_in_place(&mut sum, 99),
            Err(Error::NoSuchRank { rank: 99, .. })
        );
        ensure_matches!(sum.copy_from(plain(&short)), Err(Error::CopyLength { .. }));
        ensure_matches!(tp.empty::<f32>(1), Err(Error::NoScope { .. }));
        Ok(sum)
    })?;
    ensure_eq!(graph.stats().calls.len(), 1);
    sums(&tp, &mut x, &mut graph)
}
