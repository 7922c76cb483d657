//! Redzones on the host backend: no false alarms over the suite's random programs, nor over graphs, and
//! the same results as without. What is found is tested where a kernel's overrun can be played, in the
//! crate itself.

#![allow(missing_docs)]

use symm_core::{
    Buf, Config, Error, GraphPool, Host, Need, ReduceOp, Result, SymmBuf, World, groups, host,
    plain, symm,
};
use symm_tests::suite;

groups! { pub Tp = "tp"; }

const RANKS: usize = 2;

fn config(seed: u64) -> Config<Host> {
    Config::default()
        .redzones(true)
        .options(host::Options::default().seed(seed))
}

/// The cases of a concept of the conformance suite, each in worlds of its own.
fn concept(concept: &str) {
    let cases = suite::cases::<Host>();
    let cases = cases
        .iter()
        .filter(|case| case.concept == concept && case.ranks <= RANKS);
    let mut run = 0;
    for case in cases {
        for seed in 1..=3 {
            let outcome = config(seed).run(RANKS, |world| case.run(&world).map_err(Error::from));
            assert!(
                outcome.is_ok(),
                "{}, seed {seed}: {}",
                case.title(),
                outcome.unwrap_err()
            );
        }
        run += 1;
    }
    assert!(run > 0, "{concept} has no cases");
}

#[test]
fn random_programs_run_as_without() {
    concept("programs");
}

#[test]
fn streams_are_ordered_as_without() {
    concept("streams");
}

#[test]
fn collectives_compute_as_without() {
    concept("collectives");
}

/// Some layers: temporaries of several sizes, in scopes and outside, on two streams.
fn step(
    world: &World<Host>,
    tp: &symm_core::Group<Tp, Host>,
    x: &SymmBuf<f32, Tp, Host>,
    side: &host::HostStream,
    layers: usize,
) -> Result<SymmBuf<f32, Tp, Host>> {
    let mut sum = symm!(group = tp, { tp.zeros::<f32>(x.len())? })?;
    sum.copy_from(plain(x))?;
    for layer in 0..layers {
        let on = (layer % 2 == 1)
            .then(|| world.on_stream(side))
            .transpose()?;
        let mut partial = symm!(group = tp, { tp.empty::<f32>(x.len())? })?;
        let mut copy: Buf<f32, Host> = Buf::empty(x.len())?;
        let _unused: Buf<u8, Host> = Buf::empty(100 * layer)?;
        copy.copy_from(plain(&sum))?;
        partial.copy_from(plain(&copy))?;
        tp.all_reduce(&partial, &mut sum, ReduceOp::Sum)?;
        drop(partial);
        drop(on);
    }
    Ok(sum)
}

#[test]
fn graphs_replay_as_without() {
    for seed in 0..10 {
        let outcome = config(seed).run(RANKS, |world| {
            let tp = world.split::<Tp>(0, 0)?;
            let side = world.new_stream()?;
            let graphs = GraphPool::new(world.pool());
            let mut x = symm!(group = tp, { tp.zeros::<f32>(700)? })?;
            // Several of them, which share what they free, launched in turn; some not at all.
            let mut all = Vec::new();
            for layers in [1, 5, 3, 2] {
                all.push((
                    layers,
                    graphs.capture(world.stream(), |_| step(&world, &tp, &x, &side, layers))?,
                ));
            }
            for round in 1..4 {
                x.copy_from_slice(&[round as f32; 700])?;
                for (layers, graph) in &mut all[1..] {
                    graph.launch()?;
                    let expected = round as f32 * (RANKS as f32).powi(*layers as i32);
                    assert_eq!(graph.output().to_vec()?, [expected; 700]);
                }
                // What it shares with the others is its own while it is captured.
                drop(all.swap_remove(1 + round % 3));
                all.push((
                    round,
                    graphs.capture(world.stream(), |_| step(&world, &tp, &x, &side, round))?,
                ));
            }
            let (_, last) = all.remove(1);
            let output = last.into_output();
            drop(all);
            drop(graphs);
            output.to_vec().map(drop)
        });
        assert!(outcome.is_ok(), "seed {seed}: {}", outcome.unwrap_err());
    }
}

/// What was reserved in bytes is enough with redzones too, however small the buffers are.
#[test]
fn reserved_room_is_enough() {
    const BUFFERS: usize = 4096;
    let outcome = config(1).first_segment(2 << 20).run(RANKS, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        tp.reserve(2 * BUFFERS as u64 * 512)?;
        world.pool().seal();
        let eager = symm!(group = tp, {
            (0..2 * BUFFERS)
                .map(|_| tp.empty::<u8>(512))
                .collect::<Result<Vec<_>>>()?
        })?;
        world.pool().unseal();
        drop(eager);

        let graphs = GraphPool::new(world.pool());
        let need = Need::new().plain(BUFFERS as u64 * 512);
        let mut graph = graphs.capture_reserved(&need, world.stream(), |_| {
            (0..BUFFERS)
                .map(|_| Buf::<u8, Host>::zeros(512))
                .collect::<Result<Vec<_>>>()
        })?;
        graph.launch()?;
        assert_eq!(graph.stats().owned_bytes, BUFFERS as u64 * 1024);
        Ok(())
    });
    assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
}

/// A graph's launches come before its memory is somebody else's, also when the graph was dropped first.
#[test]
fn memory_is_freed_behind_graphs_that_are_gone() {
    for (seed, redzones) in (0..40).flat_map(|seed| [(seed, false), (seed, true)]) {
        let outcome = config(seed).redzones(redzones).run(1, |world| {
            let tp = world.split::<Tp>(0, 0)?;
            let (graphs, side) = (GraphPool::new(world.pool()), world.new_stream()?);
            let mut copy = world.pool().zeros::<f32>(1000)?;
            let on_side = world.on_stream(&side)?;
            let x = symm!(group = tp, { tp.from_slice(&[1.0f32; 1000])? })?;
            let at = x.position();
            on_side.end()?;
            let mut graph = graphs.capture(world.stream(), |_| copy.copy_from(plain(&x)))?;
            graph.launch()?;
            drop(graph);
            drop(x);
            let on_side = world.on_stream(&side)?;
            let other = symm!(group = tp, { tp.from_slice(&[5.0f32; 1000])? })?;
            on_side.end()?;
            assert_eq!(other.position(), at);
            assert_eq!(copy.to_vec()?, [1.0; 1000], "seed {seed}");
            Ok(())
        });
        assert!(outcome.is_ok(), "seed {seed}: {}", outcome.unwrap_err());
    }
}
