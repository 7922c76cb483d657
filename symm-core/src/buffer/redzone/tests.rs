//! What is found, where, and what is no alarm.

use std::thread;
use std::time::Duration;

use super::*;
use crate::backend::driver::Seat;
use crate::rendezvous::Rendezvous;
use crate::{Buf, Config, Cuda, Dyn, GraphPool, Group, Host, Pass, SymmBuf, World, host, plain};

type Tp<B> = Group<Dyn, B>;

/// What a rank returns with redzones on, alone in its world.
fn alone_on<B: Backend, R: Send>(
    config: Config<B>,
    rank: impl Fn(&World<B>, &Tp<B>) -> Result<R> + Sync,
) -> Result<R> {
    let mut ranks = config.redzones(true).run(1, |world| {
        let tp = world.split_dyn("tp", 0, 0)?;
        rank(&world, &tp)
    })?;
    Ok(ranks.remove(0))
}

/// The same on the host backend, for several orders of streams.
fn alone<R: Send>(rank: impl Fn(&World<Host>, &Tp<Host>) -> Result<R> + Sync) -> Vec<Result<R>> {
    let options = (0..20).map(|seed| host::Options::default().seed(seed));
    let configs = options.map(|options| Config::default().options(options));
    configs.map(|config| alone_on(config, &rank)).collect()
}

fn buffer<B: Backend>(tp: &Tp<B>, len: usize) -> Result<SymmBuf<u8, Dyn, B>> {
    let scope = tp.scope()?;
    let buffer = scope.empty(len)?;
    scope.close()?;
    Ok(buffer)
}

/// What a kernel does that is given a wrong size.
fn overrun<B: Backend>(stream: &B::Stream, end: u64, bytes: u64) -> Result<()> {
    // SAFETY: in the same segment; that it is wrong is the point.
    unsafe { B::fill(stream, end, 7, bytes) }
}

fn end<B: Backend>(buffer: &Buf<u8, B>) -> u64 {
    buffer.address() + buffer.len() as u64
}

#[track_caller]
fn found<R>(outcomes: Vec<Result<R>>, of: &str, at: [u64; 4]) {
    for outcome in outcomes {
        match outcome.err() {
            Some(Error::Redzone {
                rank: 0,
                arena,
                segment: 0,
                offset,
                bytes,
                first,
                changed,
            }) => {
                assert!(arena.starts_with(of), "{arena}");
                assert_eq!([offset, bytes, first, changed.into()], at);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[track_caller]
fn fine<R>(outcomes: Vec<Result<R>>) {
    for outcome in outcomes {
        assert!(outcome.is_ok(), "{:?}", outcome.err());
    }
}

#[test]
fn every_byte_behind_a_buffer_is_looked_at() {
    for (len, first, bytes) in [(100, 0, 1), (1000, 3, 5), (512, 511, 1), (0, 0, 1024)] {
        let outcomes = alone(|world, tp| {
            let _before = buffer(tp, 1)?;
            let x = buffer(tp, len)?;
            let _behind = buffer(tp, 1)?;
            overrun::<Host>(world.stream(), x.address() + len as u64 + first, bytes)
        });
        found(outcomes, "tp#", [1024, len as u64, first, bytes]);
    }
}

#[test]
fn what_the_neighbours_do_is_no_alarm() {
    fine(alone(|world, tp| {
        for len in [1, 511, 512, 513, 4000] {
            let mut x = buffer(tp, len)?;
            let mut y = buffer(tp, len)?;
            assert_eq!(
                y.address() - x.address(),
                (len as u64).next_multiple_of(512) + 512
            );
            x.copy_from_slice(&vec![1; len])?;
            drop(x);
            y.copy_from_slice(&vec![2; len])?;
            let live = world.pool().stats().live_bytes();
            assert_eq!(live, (len as u64).next_multiple_of(512) + 512);
        }
        Ok(())
    }));
}

#[test]
fn ordinary_memory_has_none() {
    fine(alone(|world, _| {
        let x = world.pool().empty::<u8>(100)?;
        assert_eq!(world.pool().stats().plain_live_bytes, 100);
        drop(x);
        Ok(())
    }));
}

#[test]
fn the_next_call_says_what_was_found() {
    for outcome in alone(|world, tp| {
        let x = buffer(tp, 100)?;
        overrun::<Host>(world.stream(), end(&x), 1)?;
        drop(x);
        world
            .pool()
            .rank()
            .pool
            .reaper
            .flush(Duration::from_secs(20))?;
        buffer(tp, 100).map(drop)
    }) {
        match outcome {
            Err(Error::Poisoned { cause, .. }) => {
                assert!(cause.contains("behind a buffer of 100 bytes"), "{cause}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_error_of_a_run_is_the_owners() {
    let config = Config::<Host>::default().redzones(true);
    let outcome = config.run(3, |world| {
        let tp = world.split_dyn("tp", 0, 0)?;
        let x = buffer(&tp, 100)?;
        if world.rank() == 1 {
            overrun::<Host>(world.stream(), end(&x), 2)?;
            return Ok(());
        }
        // The others hear of it, and fail before that rank has ended.
        world.split_dyn("again", 0, 0).map(drop)
    });
    assert!(
        matches!(outcome, Err(Error::Redzone { rank: 1, .. })),
        "{outcome:?}"
    );
}

#[test]
fn uses_on_other_streams_come_before_the_look() {
    let outcomes = alone(|world, tp| {
        let side = world.new_stream()?;
        let mut x = buffer(tp, 100)?;
        let on = world.on_stream(&side)?;
        x.fill_zero()?;
        overrun::<Host>(&side, end(&x), 1)?;
        x.fill_zero()?;
        on.end()?;
        Ok(())
    });
    found(outcomes, "tp#", [0, 100, 0, 1]);
}

/// A capture whose step frees a buffer of the group and one outside scopes, and returns one of
/// each; `overrun_at` says behind which of them it writes too much.
fn graph<B: Backend>(
    world: &World<B>,
    tp: &Tp<B>,
    overrun_at: usize,
    launches: usize,
) -> Result<()> {
    let graphs = GraphPool::new(world.pool());
    let side = world.new_stream()?;
    let input: Buf<u8, B> = Buf::zeros(300)?;
    let mut graph = graphs.capture(world.stream(), |pass| -> Result<_> {
        let on = world.on_stream(&side)?;
        let kept = (buffer(tp, 300)?, Buf::<u8, B>::empty(300)?);
        on.end()?;
        let freed = (buffer(tp, 300)?, Buf::<u8, B>::empty(300)?);
        let mut all = [freed, kept].map(|(x, y)| [x.into_buf(), y]);
        let wrong = pass == Pass::Capture;
        for (i, x) in all.iter_mut().flatten().enumerate() {
            x.copy_from(plain(&input))?;
            if wrong && i == overrun_at {
                overrun::<B>(world.stream(), end(x), 4)?;
                x.copy_from(plain(&input))?; // the buffer's last use is behind the overrun
            }
        }
        let [freed, kept] = all;
        drop(freed);
        Ok(kept)
    })?;
    (0..launches).try_for_each(|_| graph.launch())?;
    // Freed on the side stream, behind the launches.
    drop(graph.into_output());
    Ok(())
}

#[test]
fn graphs_are_looked_at_when_they_are_gone() {
    for launches in [1, 3] {
        fine(alone(|world, tp| graph(world, tp, 4, launches)));
        for overrun_at in 0..4 {
            for outcome in alone(|world, tp| graph(world, tp, overrun_at, launches)) {
                found_in_graph(&outcome, overrun_at);
            }
        }
    }
}

#[track_caller]
fn found_in_graph(outcome: &Result<()>, overrun_at: usize) {
    let of = ["tp#", "private"][overrun_at % 2];
    assert!(
        matches!(outcome, Err(Error::Redzone { arena, bytes: 300, first: 0, changed: 4, .. })
            if arena.starts_with(of) && arena.ends_with("of a graph pool")),
        "{overrun_at}: {outcome:?}"
    );
}

#[test]
fn gpus_are_looked_at_alike() {
    if let Err(why) = Cuda::probe().usable() {
        return println!("SKIP: {why}");
    }
    let outcome = alone_on(Config::<Cuda>::default(), |world, tp| {
        let x = buffer(tp, 1000)?;
        overrun::<Cuda>(world.stream(), end(&x) + 3, 5)
    });
    found(vec![outcome], "tp#", [0, 1000, 3, 5]);
    for launches in [0, 3] {
        let outcome = alone_on(Config::<Cuda>::default(), |world, tp| {
            graph(world, tp, 4, launches)
        });
        fine(vec![outcome]);
    }
    for overrun_at in 0..4 {
        let outcome = alone_on(Config::<Cuda>::default(), |world, tp| {
            graph(world, tp, overrun_at, 3)
        });
        found_in_graph(&outcome, overrun_at);
    }
}

#[test]
fn what_no_launch_filled_is_no_alarm() {
    fine(alone(|world, tp| graph(world, tp, 4, 0)));
    fine(alone(|world, tp| {
        let graphs = GraphPool::new(world.pool());
        let failed = graphs.capture(world.stream(), |pass| -> Result<_> {
            let (x, y) = (buffer(tp, 100)?, buffer(tp, 100)?);
            drop(y);
            match pass {
                Pass::Prime => Ok(x),
                Pass::Capture => Err(Error::Config { what: "no".into() }),
            }
        });
        assert!(failed.is_err());
        graph(world, tp, 4, 1)
    }));
}

#[test]
fn a_prime_is_looked_at_as_what_runs_outside() {
    let outcomes = alone(|world, tp| {
        let graphs = GraphPool::new(world.pool());
        let graph = graphs.capture(world.stream(), |pass| -> Result<_> {
            let x = buffer(tp, 100)?;
            if pass == Pass::Prime {
                overrun::<Host>(world.stream(), end(&x), 1)?;
            }
            Ok(())
        });
        drop(graph); // the world may have heard of it by now
        Ok(())
    });
    found(outcomes, "tp#", [0, 100, 0, 1]);
}

#[test]
fn ranks_of_which_one_has_none_are_told() {
    let rank = |(rank, rendezvous): (usize, Rendezvous)| {
        let seat = Seat {
            launcher: crate::Launcher::Threads,
            rank,
            ranks: 2,
            local_rank: rank,
            local_ranks: 2,
            processes: false,
            rendezvous: Arc::new(rendezvous),
            deadline: Duration::from_secs(20),
        };
        let config = Config::<Host>::default().redzones(rank == 0);
        World::open(seat, &config)?.split_dyn("tp", 0, 0).map(drop)
    };
    thread::scope(|scope| {
        let ends = Rendezvous::threads(2).into_iter().enumerate();
        let ranks: Vec<_> = ends.map(|end| scope.spawn(move || rank(end))).collect();
        for rank in ranks {
            let outcome = rank.join().unwrap();
            assert!(
                matches!(&outcome, Err(Error::RanksDiffer { detail, .. }) if detail.contains("redzones")),
                "{outcome:?}"
            );
        }
    });
}
