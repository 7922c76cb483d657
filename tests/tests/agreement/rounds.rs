//! A round to which ranks come with different segments, or to which one does not come: every rank is
//! told, nobody has registered anything, and after a rebuild the same code runs and holds what it
//! would have held.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use symm_core::host::{At, CallKind, Fault, Options, What};
use symm_core::{Config, Error, Host, ReduceOp, Result, SymmBuf, World, plain_mut};

use crate::Case;
use crate::harness::{self, Rank, Tp, cause, same_cause};

const MIB: usize = 1 << 20;

pub(crate) const CASES: &[Case] = &[
    ("one_segment_more", one_segment_more),
    ("a_larger_segment", a_larger_segment),
    ("calls_something_else", calls_something_else),
    ("leaves_by_an_error", leaves_by_an_error),
    ("leaves_by_a_panic", leaves_by_a_panic),
    ("no_memory_by_a_fault", no_memory_by_a_fault),
    ("a_full_device_on_one_rank", a_full_device_on_one_rank),
    ("registration_fails_on_one_rank", registration_fails),
    (
        "leaves_without_anything_pending",
        leaves_without_anything_pending,
    ),
    ("holds_more_at_the_rebuild", holds_more_at_the_rebuild),
    ("gives_back_on_some_ranks", gives_back_on_some_ranks),
];

/// With segments no larger than their buffers, so that a few bytes more are another round.
fn config() -> Config<Host> {
    harness::config().segment_cap((16 * MIB) as u64)
}

/// What the odd rank does where its peers grow by 16 MiB and close their scope.
type Way = fn(&Rank) -> Result<()>;

/// Its own error, if it has one.
type Own = fn(&Error) -> bool;

/// What all ranks do. The first segment is there already; the larger buffer needs another.
fn grows(rank: &Rank) -> Result<Vec<u8>> {
    let scope = rank.tp.scope()?;
    let mut x = scope.from_slice(&vec![1u8; 4096])?;
    let _large = scope.empty::<u8>(16 * MIB)?;
    scope.close()?;
    rank.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    x.to_vec()
}

fn small(rank: &Rank) -> Result<SymmBuf<u8, Tp, Host>> {
    let scope = rank.tp.scope()?;
    let mut x = scope.from_slice(&[1u8; 64])?;
    scope.close()?;
    rank.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    // A failure of the world would throw away what has not run yet.
    rank.world.synchronize()?;
    Ok(x)
}

/// The bytes that a rank holds after the step, where nothing ever went wrong.
fn undisturbed() -> Result<crate::harness::Held, Failed> {
    let held = config().run(3, |world| {
        let rank = Rank::new(world)?;
        let kept = small(&rank)?;
        grows(&rank)?;
        let held = rank.held();
        drop(kept);
        Ok(held)
    })?;
    Ok(held[0])
}

/// Runs the way on rank 0 and on rank 2; `says` is in every rank's cause.
fn fails(way: Way, own: Own, says: &str) -> Result<(), Failed> {
    for odd in [0, 2] {
        fails_in(&config(), odd, way, own, says)?;
    }
    Ok(())
}

fn fails_in(
    config: &Config<Host>,
    odd: usize,
    way: Way,
    own: Own,
    says: &str,
) -> Result<(), Failed> {
    let held = undisturbed()?;
    let begun = Instant::now();
    let results = config.run_each(3, |world| one_failure(world, odd, way, own, held));
    let causes: Result<Vec<_>> = results.iter().cloned().collect();
    let causes = causes.map_err(|_| format!("{results:#?}"))?;
    // Far from the deadline: the board told them.
    if begun.elapsed() > Duration::from_secs(15) {
        return Err(format!("it took {:?}", begun.elapsed()).into());
    }
    let cause = same_cause(&causes)?;
    match cause.contains(says) {
        true => Ok(()),
        false => Err(format!("{says:?} is not in {cause:?}").into()),
    }
}

fn one_failure(
    world: World<Host>,
    odd: usize,
    way: Way,
    own: Own,
    undisturbed: crate::harness::Held,
) -> Result<String> {
    let rank = Rank::new(world)?;
    let kept = small(&rank)?;
    let _met = rank.meets()?;
    let (windows, before) = (rank.tp.windows(), rank.held());
    assert_eq!(windows, 1);
    let outcome = match rank.me() == odd {
        true => way(&rank).map(|()| Vec::new()),
        false => grows(&rank),
    };
    if let (true, Err(error)) = (rank.me() == odd, &outcome) {
        assert!(own(error), "rank {odd}: {error}");
    }
    // What all are told; the odd rank may have had an error of its own before.
    let told = rank.told(Ok(()));
    if let (false, Err(error)) = (rank.me() == odd, &outcome) {
        assert_eq!(cause(error), cause(&told));
    }
    assert_eq!(rank.tp.windows(), windows, "something was registered");
    rank.routes_as_before_or_refused();
    rank.world.rebuild()?;
    rank.routes_as_before()?;
    let (_, live, plain) = rank.held();
    assert_eq!((live, plain), (before.1, before.2), "after the rebuild");
    // Segments go back on the reaper.
    rank.comes_to_hold((undisturbed.0, live, plain));
    for _ in 0..2 {
        assert_eq!(grows(&rank)?, [3; 4096], "after the rebuild");
    }
    assert_eq!((rank.tp.windows(), kept.to_vec()?), (2, vec![3; 64]));
    rank.comes_to_hold(undisturbed);
    Ok(cause(&told))
}

fn told(error: &Error) -> bool {
    matches!(
        error,
        Error::RanksDiffer { .. } | Error::Poisoned { .. } | Error::PeerFailed { .. }
    )
}

fn one_segment_more() -> Result<(), Failed> {
    let way: Way = |rank| {
        let scope = rank.tp.scope()?;
        let _x = scope.empty::<u8>(4096)?;
        let _large = scope.empty::<u8>(16 * MIB)?;
        let _more = scope.empty::<u8>(32 * MIB)?;
        scope.close()
    };
    fails(way, told, "2 segments pending (50331648 bytes)")
}

fn a_larger_segment() -> Result<(), Failed> {
    let way: Way = |rank| {
        let scope = rank.tp.scope()?;
        let _x = scope.empty::<u8>(4096)?;
        let _large = scope.empty::<u8>(24 * MIB)?;
        scope.close()
    };
    fails(way, told, "1 segment pending (25165824 bytes)")
}

fn calls_something_else() -> Result<(), Failed> {
    let way: Way = |rank| {
        let mut y = rank.world.pool().from_slice(&[1.0f32; 8])?;
        rank.tp.broadcast_in_place(plain_mut(&mut y), 0)?;
        y.to_vec().map(drop)
    };
    fails(way, told, "a round with 1 segment pending")
}

/// A failure of the program's own, inside a scope.
fn disk_full(rank: &Rank) -> Result<()> {
    let scope = rank.tp.scope()?;
    let _x = scope.empty::<u8>(4096)?;
    let _large = scope.empty::<u8>(16 * MIB)?;
    Err(Error::Config {
        what: "the disk is full".into(),
    })
}

fn leaves_by_an_error() -> Result<(), Failed> {
    let own: Own = |error| matches!(error, Error::Config { what } if **what == *"the disk is full");
    fails(disk_full, own, "it left a scope by an error or a panic")
}

fn leaves_by_a_panic() -> Result<(), Failed> {
    let way: Way = |rank| {
        let panics = AssertUnwindSafe(|| {
            let scope = rank.tp.scope()?;
            let _x = scope.empty::<u8>(4096)?;
            let _large = scope.empty::<u8>(16 * MIB)?;
            // Without the hook, which would print it.
            std::panic::resume_unwind(Box::new("a user's bug"))
        });
        let caught: std::thread::Result<Result<()>> = catch_unwind(panics);
        assert!(caught.is_err());
        Ok(())
    };
    fails(way, told, "it left a scope by an error or a panic")
}

fn no_memory(error: &Error) -> bool {
    matches!(error, Error::OutOfMemory { .. })
}

fn no_memory_by_a_fault() -> Result<(), Failed> {
    for odd in [0, 2] {
        // The second segment of the rank.
        let at = At::Call(CallKind::AllocSegment, 2);
        let options = Options::default().fault(Fault::new(odd, at, What::OutOfMemory));
        let way: Way = |rank| grows(rank).map(drop);
        fails_in(
            &config().options(options),
            odd,
            way,
            no_memory,
            "it left a scope",
        )?;
    }
    Ok(())
}

fn a_full_device_on_one_rank() -> Result<(), Failed> {
    for odd in [0, 2] {
        let options = Options::default().memory(64 << 20);
        let way: Way = |rank| {
            // A cache that only this rank has, and frees when the step fails.
            let _cache = rank.world.pool().empty::<u8>(44 * MIB)?;
            grows(rank).map(drop)
        };
        fails_in(
            &config().options(options),
            odd,
            way,
            no_memory,
            "it left a scope",
        )?;
    }
    Ok(())
}

fn registration_fails() -> Result<(), Failed> {
    for odd in [0, 2] {
        let at = At::Call(CallKind::Register, 2);
        let options = Options::default().fault(Fault::new(odd, at, What::Fail));
        let way: Way = |rank| grows(rank).map(drop);
        let own: Own = |error| matches!(error, Error::Registration { .. });
        fails_in(
            &config().options(options),
            odd,
            way,
            own,
            "could not be registered",
        )?;
    }
    Ok(())
}

fn leaves_without_anything_pending() -> Result<(), Failed> {
    config().run(3, |world| {
        let rank = Rank::new(world)?;
        let mut x = small(&rank)?;
        for round in 0..10 {
            // A rank that leaves a scope in which there was nothing to register misses nothing.
            if rank.me() == round % 3 {
                let scope = rank.tp.scope()?;
                drop(scope);
            } else {
                rank.tp.scope()?.close()?;
            }
            rank.tp.all_reduce_in_place(&mut x, ReduceOp::Max)?;
        }
        assert_eq!(x.to_vec()?, [3; 64]);
        Ok(())
    })?;
    Ok(())
}

fn holds_more_at_the_rebuild() -> Result<(), Failed> {
    let (all, late) = (Barrier::new(2), AtomicBool::new(false));
    config().run(2, |world| {
        let rank = Rank::new(world)?;
        let kept = small(&rank)?;
        let scope = rank.tp.scope()?;
        let more = match rank.me() {
            1 => Some(scope.empty::<u8>(16 * MIB)?),
            _ => None,
        };
        drop(scope);
        all.wait();
        for _ in 0..2 {
            let refused = rank.world.rebuild();
            assert!(
                matches!(&refused, Err(Error::RanksDiffer { detail, .. }) if detail.contains("hold different buffers")),
                "{refused:?}"
            );
        }
        // Also a rank that comes later than its peers finds what was dropped meanwhile.
        if rank.me() == 1 {
            std::thread::sleep(Duration::from_millis(20));
            late.store(true, Ordering::Relaxed);
        }
        drop(more);
        rank.world.rebuild()?;
        assert!(late.load(Ordering::Relaxed));
        assert_eq!((grows(&rank)?, kept.to_vec()?), (vec![2; 4096], vec![2; 64]));
        Ok(())
    })?;
    Ok(())
}

/// A round that fails on one rank behind its last meeting: the others have given back what the
/// shared buffers held by then, and the rebuild has it given back on all.
fn gives_back_on_some_ranks() -> Result<(), Failed> {
    for odd in 0..3 {
        // One rank finds no window, so the others give theirs back, which fails on the odd rank. It
        // takes its time: its peers are not told before they are through.
        let (first, second) = (CallKind::Deregister, CallKind::Register);
        let late = What::Delay(Duration::from_millis(500));
        let options = Options::default()
            .fault(Fault::new((odd + 1) % 3, At::Call(second, 2), What::Null))
            .fault(Fault::new(odd, At::Call(first, 1), late))
            .fault(Fault::new(odd, At::Call(first, 1), What::Fail));
        config().options(options).run(3, |world| {
            let rank = Rank::new(world)?;
            let kept = small(&rank)?;
            let shared = small(&rank)?.share().map_err(|(_, error)| error)?;
            let (position, before) = (shared.position(), rank.held());
            drop(shared);
            let _met = rank.meets()?;
            let round = rank.tp.reserve(16 << 20);
            assert_eq!(round.is_err(), rank.me() == odd, "{round:?}");
            rank.told(round);
            let bytes = if rank.me() == odd { 1024 } else { 512 };
            assert_eq!((before.1, rank.held().1), (1024, bytes));
            rank.world.rebuild()?;
            assert_eq!(rank.held().1, 512, "as many on all ranks");
            let again = small(&rank)?;
            assert_eq!(again.position(), position, "where it was");
            assert_eq!(
                (again.to_vec()?, kept.to_vec()?),
                (vec![3; 64], vec![3; 64])
            );
            Ok(())
        })?;
    }
    Ok(())
}
