//! Streams, fences, memory, and what becomes of errors.

use super::*;

#[test]
fn a_missing_event_shows_and_an_event_helps() {
    let run = |seed: u64, event: bool| {
        let results = world(1, Options::default().seed(seed), |rank| {
            let (memory, other) = (rank.plain(64), Host::new_stream(&rank.device)?);
            rank.write(memory.base(), &[7; 64])?;
            if event {
                Host::wait_stream(&other, &rank.stream)?;
            }
            rank.read(&other, memory.base(), 64)
        });
        results[0].clone().unwrap() == [7; 64]
    };
    assert!((0..20).all(|seed| run(seed, true)));
    assert!(!(0..20).all(|seed| run(seed, false)));
}

#[test]
fn fences_order_readers_and_writers() {
    for seed in 0..20 {
        let results = world(1, Options::default().seed(seed), |rank| {
            let (a, b) = (&rank.stream, Host::new_stream(&rank.device)?);
            let (from, to) = (rank.plain(8), rank.plain(8));
            rank.write(from.base(), &[1; 8])?;
            // SAFETY: both buffers live to the end of the closure.
            let fence = unsafe { Host::fence(a, from.base(), 8) }?;
            Host::fence_before(&fence, &b, Access::Read)?;
            Host::wait_stream(&b, a)?;
            // SAFETY: as above.
            unsafe { Host::copy(&b, to.base(), from.base(), 8) }?;
            Host::fence_after(&fence, &b, Access::Read)?;
            Host::fence_before(&fence, a, Access::Write)?;
            // SAFETY: as above.
            unsafe { Host::fill(a, from.base(), 0, 8) }?;
            Host::fence_after(&fence, a, Access::Write)?;
            Host::synchronize(a)?;
            rank.read(&b, to.base(), 8)
        });
        assert_eq!(results[0].as_ref().unwrap(), &[1; 8], "seed {seed}");
    }
}

#[test]
fn work_gets_on_without_anybody_who_waits_and_is_late_until_then() {
    world(1, Options::default(), |rank| {
        let ran = Arc::new(Mutex::new(0));
        for _ in 0..10 {
            let ran = Arc::clone(&ran);
            rank.stream.submit(
                "count",
                Box::new(move |_| {
                    *ran.lock().unwrap() += 1;
                    Ok(())
                }),
            )?;
        }
        let start = Instant::now();
        while *ran.lock().unwrap() < 10 {
            assert!(start.elapsed() < Duration::from_secs(10));
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    })[0]
        .clone()
        .unwrap();
}

#[test]
fn errors_and_panics_of_queued_work_end_the_device_and_reach_the_peers() {
    let results = world(2, Options::default(), |rank| {
        let memory = rank.plain(64);
        if rank.rank == 0 {
            rank.stream
                .submit("a bad kernel", Box::new(|_| panic!("out of range")))?;
        }
        rank.launch(&[rank.call(Op::AllGather, 1, memory.base(), memory.base())])?;
        Host::synchronize(&rank.stream)
    });
    let Err(Error::Backend { rank: 0, text, .. }) = &results[0] else {
        panic!("{results:?}")
    };
    assert!(text.contains("out of range"));
    assert!(
        matches!(&results[1], Err(Error::PeerFailed { rank: 0, .. })),
        "{results:?}"
    );
}

#[test]
fn queued_work_that_waits_for_its_device_is_an_error() {
    let results = world(1, Options::default(), |rank| {
        let own = rank.stream.clone();
        rank.stream
            .submit("impatient", Box::new(move |_| Host::synchronize(&own)))?;
        Host::synchronize(&rank.stream)
    });
    assert!(
        matches!(&results[0], Err(Error::Config { .. })),
        "{results:?}"
    );
}

#[test]
fn memory_is_checked_and_freed_behind_its_stream() {
    let results = world(1, Options::default().memory(4 * MIB), |rank| {
        for _ in 0..20 {
            let memory = rank.plain(MIB);
            rank.write(memory.base(), &[1; 16])?;
        }
        let segment = rank.segment();
        assert!(matches!(
            Host::alloc_segment(&rank.device, 4 * MIB),
            Err(Error::OutOfMemory { need: 4194304, .. })
        ));
        let base = segment.base();
        Host::free_segment(&rank.device, segment)?;
        rank.read(&rank.stream, base, 1)
    });
    assert_eq!(rule(&results[0]), Rule::UseAfterFree);
}
