//! Faults at every call, and ranks that are processes.

use super::*;

/// Lets each call of a program of two ranks go wrong in each way, and returns how many it makes.
fn fail_everywhere(program: impl Fn(&Rank) -> Result<()> + Sync) -> u64 {
    let work = |rank: &Rank| program(rank).map(|()| rank.device.shared().calls.count());
    let run = |fault: Fault| -> Result<u64> {
        // A rank that hangs before it has a communicator holds up its peer for all of the deadline.
        let deadline = match fault.what {
            What::Hang => Duration::from_millis(100),
            _ => Duration::from_secs(20),
        };
        // Nobody revokes anything here.
        let patience = Duration::from_millis(5);
        let options = Options::default().fault(fault).patience(patience);
        let mut results = world_within(deadline, 2, options, work);
        results.remove(1)
    };
    let mut calls = 0;
    for what in [
        What::Fail,
        What::OutOfMemory,
        What::Hang,
        What::Delay(Duration::from_millis(2)),
    ] {
        for k in 1.. {
            match run(Fault::new(1, At::Nth(k), what)) {
                Ok(made) if made < k => {
                    calls = made;
                    break;
                }
                result => assert_eq!(
                    result.is_ok(),
                    matches!(what, What::Delay(_)),
                    "{what:?} at {k}: {result:?}"
                ),
            }
        }
    }
    calls
}

#[test]
fn every_call_can_fail_and_nobody_hangs() {
    let calls = fail_everywhere(|rank| {
        let memory = Host::alloc_plain(&rank.stream, 64)?;
        rank.write(memory.base(), &[1; 8])?;
        rank.launch(&[rank.call(
            Op::AllReduce(ReduceOp::Sum),
            4,
            memory.base(),
            memory.base(),
        )])?;
        rank.read(&rank.stream, memory.base(), 8).map(drop)
    });
    assert_eq!(calls, 7);
}

#[test]
fn every_call_of_captures_and_replays_can_fail_and_nobody_hangs() {
    let calls = fail_everywhere(|rank| {
        let (memory, side) = (
            Host::alloc_plain(&rank.stream, 64)?,
            Host::new_stream(&rank.device)?,
        );
        let at = memory.base();
        let graph = rank.record(|| {
            Host::wait_stream(&side, &rank.stream)?;
            copy(&side, at + 8, at, 8)?;
            rank.launch(&[rank.call(Op::AllReduce(ReduceOp::Sum), 4, at, at)])?;
            Host::wait_stream(&rank.stream, &side)
        });
        // Whatever failed, the streams do not record any more.
        assert!(rank.device.shared().lock().records.is_empty());
        let graph = graph?;
        rank.replay(&graph)?;
        rank.replay(&graph)?;
        Host::synchronize(&rank.stream)?;
        Host::destroy_graph(&rank.device, graph)
    });
    assert_eq!(calls, 15);
}

#[test]
fn ranks_may_be_processes() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let soon = Duration::from_secs(20);
    let sum = |rank: &Rank| {
        let segment = rank.segment();
        let window = rank.register(&segment)?.unwrap();
        rank.write(segment.base(), &1.5_f32.to_ne_bytes())?;
        for _ in 0..20 {
            let call = rank.call(
                Op::AllReduce(ReduceOp::Avg),
                1,
                segment.base(),
                segment.base(),
            );
            rank.launch(&[Call {
                dtype: Dtype::F32,
                avoid_windows: true,
                ..call
            }])?;
        }
        let result = rank.read(&rank.stream, segment.base(), 4)?;
        Host::deregister(&rank.device, &rank.comm, window)?;
        Ok(result)
    };
    let rank = |me| {
        live(
            Rendezvous::connect(me, 3, "127.0.0.1", port, soon)?,
            soon,
            &Options::default(),
            sum,
        )
    };
    let results: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = (0..3).map(|me| scope.spawn(move || rank(me))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    results
        .into_iter()
        .for_each(|result| assert_eq!(result.unwrap(), 1.5_f32.to_ne_bytes()));
}
