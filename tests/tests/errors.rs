//! What goes wrong on purpose: every failure is a typed error that says what to do, and nothing
//! hangs or leaks.

#![allow(missing_docs)]

use std::time::Duration;

use symm_core::host::{At, CallKind, Fault, Options, What};
use symm_core::{
    Buf, Config, Cuda, Error, GraphPool, Host, Path, Reason, ReduceOp, Result, World, groups,
    plain, symm,
};

groups! {
    pub Tp = "tp";
    pub Cp = "cp";
}

fn config() -> Config<Host> {
    // Long enough for a loaded machine; a test that waits for it on purpose sets its own.
    Config::default().deadline(Duration::from_secs(60))
}

fn faulty(fault: Fault) -> Config<Host> {
    config().options(Options::default().fault(fault))
}

/// A program that uses every part once.
fn program(world: World<Host>) -> Result<f32> {
    let tp = world.split::<Tp>(0, 0)?;
    let mut x = symm!(group = tp, {
        tp.from_slice(&[world.rank() as f32 + 1.0; 64])?
    })?;
    tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    let side = world.new_stream()?;
    let guard = world.on_stream(&side)?;
    let sum = x.to_vec()?[0];
    guard.end()?;
    Ok(sum)
}

/// The same with graphs: two of one pool, one dropped before the other.
fn captured(world: World<Host>) -> Result<f32> {
    let tp = world.split::<Tp>(0, 0)?;
    let mut x = symm!(group = tp, { tp.zeros::<f32>(8)? })?;
    let graphs = GraphPool::new(world.pool());
    let mut sums = Vec::new();
    for len in [8, 4] {
        sums.push(graphs.capture(world.stream(), |_| -> Result<_> {
            let mut sum = symm!(group = tp, { tp.empty::<f32>(len)? })?;
            tp.all_reduce(x.view(0..len)?, &mut sum, ReduceOp::Sum)?;
            let mut copy = Buf::<f32, Host>::empty(len)?;
            copy.copy_from(plain(&sum))?;
            Ok(copy)
        })?);
    }
    x.copy_from_slice(&[1.0; 8])?;
    for sum in &mut sums {
        sum.launch()?;
    }
    drop(sums.remove(0));
    sums[0].launch()?;
    Ok(sums[0].output().to_vec()?[0])
}

#[test]
fn no_gpu_is_an_error_that_says_what_is_missing() {
    if Cuda::probe().usable().is_ok() {
        println!("SKIP: this machine has GPUs");
        return;
    }
    let error = World::<Cuda>::run(2, |world| Ok(world.rank())).unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert!(
        error.to_string().contains("driver") || error.to_string().contains("NCCL"),
        "{error}"
    );
}

#[test]
fn a_world_has_ranks() {
    assert!(matches!(
        World::<Host>::run(0, |_| Ok(())),
        Err(Error::Config { .. })
    ));
}

#[test]
fn sizes_of_segments_are_checked() {
    for config in [
        config().first_segment(0),
        config().first_segment(64 << 20).segment_cap(8 << 20),
    ] {
        assert!(matches!(
            config.run(1, |_| Ok(())),
            Err(Error::Config { .. })
        ));
    }
}

#[test]
fn the_budget_is_kept_and_what_exceeds_it_is_named() {
    config()
        .budget(16 << 20)
        .run(2, |world| {
            let tp = world.split::<Tp>(0, 0)?;
            let scope = tp.scope()?;
            let fits = scope.empty::<u8>(8 << 20)?;
            match scope.empty::<u8>(1) {
                Err(Error::BudgetExceeded {
                    need,
                    reserved,
                    budget,
                    ..
                }) => assert_eq!((need, reserved, budget), (128 << 20, 8 << 20, 16 << 20)),
                other => panic!("{other:?}"),
            }
            drop(fits);
            let again = scope.empty::<u8>(8 << 20)?;
            assert_eq!(world.pool().stats().reserved_bytes, 8 << 20);
            drop(again);
            scope.close()
        })
        .unwrap();
}

#[test]
fn a_full_device_is_out_of_memory_and_the_pool_goes_on() {
    let small = config().options(Options::default().memory(20 << 20));
    small
        .run(2, |world| {
            let tp = world.split::<Tp>(0, 0)?;
            let scope = tp.scope()?;
            let x = scope.empty::<u8>(1)?;
            let before = world.pool().stats();
            assert!(matches!(
                scope.empty::<u8>(64 << 20),
                Err(Error::OutOfMemory { .. })
            ));
            assert!(matches!(
                world.pool().empty::<u8>(64 << 20),
                Err(Error::OutOfMemory { .. })
            ));
            assert_eq!(world.pool().stats(), before);
            let y = scope.empty::<u8>(1 << 20)?;
            drop((x, y));
            scope.close()
        })
        .unwrap();
}

#[test]
fn lengths_that_no_memory_has_are_refused() {
    config()
        .run(1, |world| {
            let tp = world.split::<Tp>(0, 0)?;
            let scope = tp.scope()?;
            for len in [usize::MAX, usize::MAX / 8, isize::MAX as usize / 8 + 1] {
                assert!(
                    matches!(scope.empty::<f64>(len), Err(Error::TooLarge { .. })),
                    "{len}"
                );
                assert!(
                    matches!(world.pool().empty::<f64>(len), Err(Error::TooLarge { .. })),
                    "{len}"
                );
            }
            assert!(matches!(
                tp.reserve(u64::MAX),
                Err(Error::TooLarge { .. } | Error::OutOfMemory { .. })
            ));
            scope.close()
        })
        .unwrap();
}

#[test]
fn a_null_window_is_plain_on_all_ranks() {
    let none = config().options(Options::default().windows(false));
    none.run(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let mut x = symm!(group = tp, { tp.from_slice(&[1.0f32])? })?;
        assert_eq!(
            tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?,
            Path::Plain(Reason::Unsupported)
        );
        assert_eq!(
            (x.to_vec()?, tp.windows(), x.window()?.is_none()),
            (vec![2.0], 0, true)
        );
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_window_that_one_rank_lacks_is_used_by_none() {
    let null = faulty(Fault::new(1, At::Call(CallKind::Register, 1), What::Null));
    null.run(3, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let mut x = symm!(group = tp, { tp.from_slice(&[1.0f32])? })?;
        assert_eq!(
            tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?,
            Path::Plain(Reason::Unsupported)
        );
        assert_eq!((x.to_vec()?, tp.windows()), (vec![3.0], 0));
        Ok(())
    })
    .unwrap();
}

/// The error of a rank that found the difference, or was told of it.
fn differs(result: &Result<impl Sized>) -> bool {
    match result {
        Err(Error::RanksDiffer { .. }) => true,
        Err(Error::PeerFailed { cause, .. } | Error::Poisoned { cause, .. }) => {
            cause.contains("differ")
        }
        _ => false,
    }
}

#[test]
fn unequal_offsets_are_an_error_on_all_ranks() {
    let results = config().run_each(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let scope = tp.scope()?;
        // Rank 1 allocates once more than its peer.
        let _extra = (world.rank() == 1)
            .then(|| scope.empty::<f32>(1000))
            .transpose()?;
        let mut x = scope.zeros::<f32>(1000)?;
        scope.close()?;
        tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
        x.to_vec()
    });
    for result in results {
        assert!(differs(&result), "{result:?}");
    }
}

#[test]
fn different_collectives_are_an_error_on_all_ranks() {
    let results = config().run_each(3, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let mut x = symm!(group = tp, { tp.zeros::<f32>(8)? })?;
        match world.rank() {
            1 => tp.broadcast_in_place(&mut x, 0)?,
            _ => tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?,
        };
        x.to_vec()
    });
    for result in &results {
        assert!(differs(result), "{result:?}");
    }
    let text = format!("{results:?}");
    assert!(
        text.contains("broadcast") && text.contains("all_reduce"),
        "both operations are named: {text}"
    );
}

#[test]
fn different_splits_are_an_error_on_all_ranks() {
    let results = config().run_each(2, |world| match world.rank() {
        0 => world.split::<Tp>(0, 0).map(drop),
        _ => world.split::<Cp>(0, 0).map(drop),
    });
    assert!(
        results.iter().all(|result| matches!(
            result,
            Err(Error::RanksDiffer { .. } | Error::PeerFailed { .. })
        )),
        "{results:?}"
    );
}

#[test]
fn a_refused_split_says_what_each_rank_wanted_and_leaves_the_world_whole() {
    config()
        .run(2, |world| {
            let refused = match world.rank() {
                0 => world.split::<Tp>(0, 0).map(drop),
                _ => world.split::<Cp>(0, 0).map(drop),
            };
            let said = refused.unwrap_err().to_string();
            let (me, other) = (["tp", "cp"][world.rank()], ["cp", "tp"][world.rank()]);
            let (mine, theirs) = (world.rank(), 1 - world.rank());
            let words = format!("split #0: rank {mine} splits {me}, rank {theirs} splits {other}");
            assert!(said.ends_with(&words), "{said}");
            world.check()?;
            program(world).map(drop)
        })
        .unwrap();
}

#[test]
fn a_split_that_fails_inside_ends_the_world_for_all_ranks() {
    let broken = faulty(Fault::new(1, At::Call(CallKind::Split, 2), What::Fail));
    let results = broken.run(3, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let failed = world.split::<Cp>(world.rank() / 2, 0).map(drop);
        while world.check().is_ok() {
            std::thread::yield_now();
        }
        world.rebuild()?;
        let cp = world.split::<Cp>(world.rank() / 2, 0)?;
        Ok((failed.is_err(), label(&tp), label(&cp)))
    });
    let results = results.unwrap();
    assert!(results[1].0, "{results:?}");
    for (rank, (_, tp, cp)) in results.iter().enumerate() {
        // The split that failed took two numbers.
        let cp_is = ["cp#4", "cp#4", "cp#5"][rank];
        assert_eq!((&tp[..], &cp[..]), ("tp#1", cp_is));
    }
}

/// The group's name in messages.
fn label(group: &impl std::fmt::Debug) -> String {
    let shown = format!("{group:?}");
    let label = shown.split('"').nth(1).unwrap();
    label.split(' ').next().unwrap().to_owned()
}

#[test]
fn all_ranks_name_a_group_alike_and_no_other() {
    let names = config().run(4, |world| {
        let tp = world.split::<Tp>(world.rank() / 2, 0)?; // {0, 1} and {2, 3}
        let cp = world.split::<Cp>(0, 0)?;
        let again = world.split::<Tp>(9 - world.rank(), 0)?; // each alone
        let mut x = symm!(group = tp, { tp.zeros::<f32>(8)? })?;
        let said = tp.broadcast_in_place(&mut x, 9).unwrap_err().to_string();
        assert!(
            said.contains(&format!(" on {} (rank", label(&tp))),
            "{said}"
        );
        assert_eq!(tp.arena(), label(&tp));
        let windows = &world.pool().snapshot().segments[0].windows;
        assert_eq!(windows[0].group, label(&tp));
        Ok([label(&tp), label(&cp), label(&again)])
    });
    let expected = [
        ["tp#1", "cp#3", "tp#7"],
        ["tp#1", "cp#3", "tp#6"],
        ["tp#2", "cp#3", "tp#5"],
        ["tp#2", "cp#3", "tp#4"],
    ];
    assert_eq!(names.unwrap(), expected);
}

#[test]
fn a_rebuild_names_the_arena_that_differs() {
    let both = std::sync::Barrier::new(2);
    config()
        .run(2, |world| {
            let _tp = world.split::<Tp>(0, 0)?;
            let cp = world.split::<Cp>(0, 0)?;
            let scope = cp.scope()?;
            let more = (world.rank() == 1)
                .then(|| scope.empty::<u8>(1))
                .transpose()?;
            drop(scope);
            both.wait();
            let refused = world.rebuild().unwrap_err().to_string();
            let words = "hold different buffers in the arena cp#2: drop";
            assert!(refused.contains(words), "{refused}");
            drop(more);
            world.rebuild()
        })
        .unwrap();
}

#[test]
fn a_downcast_to_another_tag_of_the_same_name_says_which() {
    mod other {
        symm_core::groups! { pub Tp = "tp"; }
    }
    config()
        .run(1, |world| {
            let any = world.split::<Tp>(0, 0)?.erase();
            let (any, error) = any.downcast::<other::Tp>().unwrap_err();
            let said = error.to_string();
            let words = "tp#1 (rank 0 of 1) has the tag errors::Tp, not errors::";
            assert!(
                said.starts_with(words) && said.contains("::other::Tp:"),
                "{said}"
            );
            let dynamic = world.split_dyn("tp", 0, 0)?;
            let said = dynamic.downcast::<Tp>().unwrap_err().1.to_string();
            assert!(
                said.contains("has the tag symm_core::Dyn, not errors::Tp"),
                "{said}"
            );
            any.downcast::<Tp>().map(drop).map_err(|(_, error)| error)
        })
        .unwrap();
}

#[test]
fn a_rank_that_fails_is_named_to_those_that_wait() {
    let results = config().run_each(3, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        if world.rank() == 2 {
            return Err(Error::Config {
                what: "the disk is full".into(),
            });
        }
        let mut x = symm!(group = tp, { tp.zeros::<f32>(8)? })?;
        tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
        x.to_vec().map(drop)
    });
    for result in &results[..2] {
        let peer_failed = |cause: &Error| matches!(cause, Error::PeerFailed { rank: 2, cause } | Error::Poisoned { rank: 2, cause } if cause.contains("the disk is full"));
        let named = match result {
            Err(Error::Registration { cause, .. }) => peer_failed(cause),
            Err(error) => peer_failed(error),
            Ok(()) => false,
        };
        assert!(named, "{result:?}");
    }
}

#[test]
fn a_panic_of_one_rank_is_an_error_of_the_world() {
    let error = config()
        .run(2, |world| {
            assert_ne!(world.rank(), 1, "rank 1 panics");
            world.split::<Tp>(0, 0).map(drop)
        })
        .unwrap_err();
    assert!(error.to_string().contains("rank 1 panics"), "{error}");
}

#[test]
fn a_failed_registration_ends_the_world_with_its_cause() {
    let broken = faulty(Fault::new(0, At::Call(CallKind::Register, 1), What::Fail));
    let results = broken.run_each(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let failed = symm!(group = tp, { tp.zeros::<f32>(8)? }).unwrap_err();
        assert!(matches!(&failed, Error::Registration { site, .. } if site.file().ends_with("errors.rs")), "{failed}");
        let after = tp.scope().map(drop).unwrap_err();
        assert!(matches!(&after, Error::Poisoned { cause, .. } if cause.contains("could not be registered")), "{after}");
        Ok(())
    });
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

#[test]
fn every_call_may_fail_or_hang_and_nothing_waits_for_ever() {
    hurts_everywhere(program);
}

#[test]
fn so_may_every_call_of_a_capture() {
    hurts_everywhere(captured);
}

/// Lets every call of the program go wrong, one at a time, on each rank.
fn hurts_everywhere(program: fn(World<Host>) -> Result<f32>) {
    for what in [What::Fail, What::Hang, What::OutOfMemory] {
        for rank in 0..2 {
            // Until a run ends without reaching the k-th call.
            let hurt = |k: &u64| {
                let options = Options::default().fault(Fault::new(rank, At::Nth(*k), what));
                let config = Config::<Host>::default()
                    .deadline(Duration::from_millis(300))
                    .options(options);
                config.run_each(2, program).iter().any(Result::is_err)
            };
            let reached = (1..).take_while(hurt).count();
            println!("{what:?} on rank {rank}: {reached} calls");
            assert!(reached > 10);
        }
    }
}

#[test]
fn every_call_may_be_slow() {
    for program in [program, captured] {
        let expected = config().run(2, program).unwrap();
        for k in 1..=40 {
            for rank in 0..2 {
                let slow = What::Delay(Duration::from_millis(2));
                let slow = faulty(Fault::new(rank, At::Nth(k), slow));
                assert_eq!(slow.run(2, program).unwrap(), expected, "call {k}");
            }
        }
    }
}
