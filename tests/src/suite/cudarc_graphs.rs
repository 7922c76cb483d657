//! Graphs with cudarc's memory and kernels in them, and cudarc's event tracking around captures.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use symm_core::cuda::cudarc::driver::CudaSlice;
use symm_core::{
    Buf, Capture, Cuda, Error, GraphPool, Need, Pass, ReduceOp, Result, World, plain, plain_mut,
    symm,
};

use super::ranks::told;
use super::steps::{MIB, eager, part, summed, sums, total, usable, warm};
use super::{Case, Outcome, Tp};

/// Cases for GPUs alone.
pub(super) fn cases() -> Vec<Case<Cuda>> {
    macro_rules! on_cuda {
        ($($name:ident),* $(,)?) => {
            vec![$(Case::new(module_path!(), stringify!($name), 2, $name)),*]
        };
    }
    on_cuda![
        borrowed_slices_are_refused,
        shared_slices_are_kept,
        adopted_slices_are_buffers,
        copies_of_cudarc_are_captured,
        work_on_streams_outside_is_refused,
        tracking_is_as_it_was,
        tracking_that_was_off_stays_off,
    ]
}

const LEN: usize = 20_000;

fn slice(world: &World<Cuda>, round: u64) -> Outcome<CudaSlice<f32>> {
    let data = part(round, world.rank(), LEN);
    Ok(world.stream().clone_htod(&data)?)
}

fn borrowed_slices_are_refused(world: &World<Cuda>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let (src, mut dst) = (slice(world, 1)?, slice(world, 2)?);
    let mut x = eager(&tp, LEN)?;
    tp.all_reduce(plain(&src), plain_mut(&mut dst), ReduceOp::Sum)?;
    let mut steps: [&mut dyn FnMut() -> Result<()>; 3] = [
        &mut || tp.all_reduce(plain(&src), &mut x, ReduceOp::Sum).map(drop),
        &mut || {
            tp.all_reduce_in_place(plain_mut(&mut dst), ReduceOp::Sum)
                .map(drop)
        },
        &mut || {
            let mut copy = Buf::<f32, Cuda>::empty(LEN)?;
            copy.copy_from(plain(&src))
        },
    ];
    for step in &mut steps {
        let need = Need::new().group(&tp, 1).plain(MIB);
        let outcome = graphs.capture_reserved(&need, world.stream(), |_| step());
        ensure_matches!(
            outcome,
            Err(Error::CaptureForeign { site, .. }) if site.to_string().contains("cudarc_graphs.rs")
        );
        usable(world, &graphs, &tp)?;
    }
    Ok(())
}

fn shared_slices_are_kept(world: &World<Cuda>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let shared = Arc::new(slice(world, 3)?);
    let mut graph = graphs.capture(world.stream(), |_| -> Result<_> {
        let mut sum = symm!(group = tp, { tp.empty(LEN)? })?;
        tp.all_reduce(plain(&shared), &mut sum, ReduceOp::Sum)?;
        Ok(sum)
    })?;
    let weak = Arc::downgrade(&shared);
    drop(shared);
    ensure!(weak.upgrade().is_some(), "the graph has a share in it");
    // What else is allocated is not where it is.
    let others = (0..50)
        .map(|_| slice(world, 99))
        .collect::<Outcome<Vec<_>>>()?;
    for _ in 0..20 {
        graph.output_mut().fill_zero()?;
        graph.launch()?;
        let sum = total(3, tp.size(), LEN);
        ensure_same!(graph.output().to_vec()?, sum, "of a slice that is kept");
    }
    for other in &others {
        let expected = part(99, world.rank(), LEN);
        ensure_same!(world.stream().clone_dtoh(other)?, expected, "another slice");
    }
    drop(graph);
    super::settles(world, |_| weak.upgrade().is_none())
}

fn adopted_slices_are_buffers(world: &World<Cuda>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let mut adopted = world.pool().adopt(slice(world, 4)?)?;
    let mut graph = graphs.capture(world.stream(), |_| -> Result<_> {
        let mut sum = symm!(group = tp, { tp.empty(LEN)? })?;
        tp.all_reduce(plain(&adopted), &mut sum, ReduceOp::Sum)?;
        Ok(sum)
    })?;
    for round in 0..3 {
        adopted.copy_from_slice(&part(round, tp.rank(), LEN))?;
        graph.launch()?;
        let sum = total(round, tp.size(), LEN);
        ensure_same!(graph.output().to_vec()?, sum, "round {round}");
    }
    drop(adopted);
    let _others = (0..20)
        .map(|_| slice(world, 99))
        .collect::<Outcome<Vec<_>>>()?;
    graph.output_mut().fill_zero()?;
    graph.launch()?;
    let sum = total(2, tp.size(), LEN);
    ensure_same!(graph.output().to_vec()?, sum, "after it was dropped");
    Ok(())
}

fn copies_of_cudarc_are_captured(world: &World<Cuda>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let stream = world.stream();
    let mut x = eager(&tp, LEN)?;
    let mut graph = graphs.capture(stream, |_| -> Outcome<_> {
        let mut copy = symm!(group = tp, { tp.empty::<f32>(LEN)? })?;
        stream.memcpy_dtod(&x, &mut copy)?;
        stream.memset_zeros(&mut copy.view_mut(0..10)?)?;
        let mut sum = symm!(group = tp, { tp.empty(LEN)? })?;
        tp.all_reduce(&copy, &mut sum, ReduceOp::Sum)?;
        Ok(sum)
    })?;
    ensure_eq!(graph.stats().leases, 1, "cudarc's use of it counts");
    for round in 0..3 {
        x.copy_from_slice(&part(round, tp.rank(), LEN))?;
        graph.launch()?;
        let mut expected = total(round, tp.size(), LEN);
        expected[..10].fill(0.0);
        ensure_same!(graph.output().to_vec()?, expected, "round {round}");
    }
    Ok(())
}

fn work_on_streams_outside_is_refused(world: &World<Cuda>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let side = world.new_stream()?;
    let mut x = eager(&tp, LEN)?;
    let need = Need::new().group(&tp, MIB);
    let outcome = graphs.capture_reserved(&need, world.stream(), |_| -> Outcome {
        side.memset_zeros(&mut x)?;
        Ok(())
    });
    let error = outcome.err().map(|error| error.to_string());
    ensure!(
        error
            .as_ref()
            .is_some_and(|error| error.contains("takes no part")),
        "{error:?}"
    );
    usable(world, &graphs, &tp)
}

/// Captures in every way in which a capture can end.
fn captures(world: &World<Cuda>, tracked: bool) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let context = world.stream().context();
    warm(&tp, LEN)?;
    let mut x = eager(&tp, LEN)?;
    let need = Need::new().group(&tp, MIB);
    let is_off = || match context.is_event_tracking() {
        true => Err(Error::Config {
            what: "events are tracked in a capture".into(),
        }),
        false => Ok(()),
    };
    let failing = || Error::Config {
        what: "disk full".into(),
    };

    let mut graph = graphs.capture(world.stream(), |pass| {
        if pass == Pass::Capture {
            is_off()?;
        }
        summed(&tp, &x)
    })?;
    ensure_eq!(context.is_event_tracking(), tracked, "after a capture");
    let outcome = graphs.capture_reserved(&need, world.stream(), |_| {
        is_off()?;
        Err::<(), _>(failing())
    });
    ensure!(outcome.is_err());
    ensure_eq!(context.is_event_tracking(), tracked, "after an error");
    let outcome = graphs.capture_reserved(&need, world.stream(), |_| x.to_vec().map(drop));
    ensure!(outcome.is_err());
    ensure_eq!(context.is_event_tracking(), tracked, "after a refusal");
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        graphs.capture_reserved(&need, world.stream(), |_| -> Result<()> {
            is_off()?;
            resume_unwind(Box::new("boom"))
        })
    }));
    ensure!(panicked.is_err());
    ensure_eq!(context.is_event_tracking(), tracked, "after a panic");
    let capture = Capture::begin(&graphs, &need, world.stream())?;
    ensure!(!context.is_event_tracking());
    drop(capture);
    ensure_eq!(context.is_event_tracking(), tracked, "after a drop");
    let capture = Capture::begin(&graphs, &need, world.stream())?;
    drop(capture.end(())?);
    ensure_eq!(
        context.is_event_tracking(),
        tracked,
        "after the guard's end"
    );
    sums(&tp, &mut x, &mut graph)
}

/// Whether another rank uses the device, and with it perhaps the context, whose tracking then is
/// what both make of it.
fn shares_its_device(world: &World<Cuda>) -> Outcome<bool> {
    let tp = world.split::<Tp>(0, 0)?;
    let own = world.stream().context().ordinal() as u64;
    let all = told(world, &tp, &[own])?;
    Ok(all.iter().filter(|words| words[0] == own).count() > 1)
}

fn tracking_is_as_it_was(world: &World<Cuda>) -> Outcome {
    if shares_its_device(world)? {
        return Ok(());
    }
    ensure!(world.stream().context().is_event_tracking());
    captures(world, true)
}

fn tracking_that_was_off_stays_off(world: &World<Cuda>) -> Outcome {
    if shares_its_device(world)? {
        return Ok(());
    }
    let context = world.stream().context();
    // SAFETY: every use of memory in the case is of this crate, which orders its own.
    unsafe {
        context.disable_event_tracking();
    }
    let outcome = captures(world, false);
    // SAFETY: as above.
    unsafe {
        context.enable_event_tracking();
    }
    outcome
}
