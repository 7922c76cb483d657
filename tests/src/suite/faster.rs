//! Path choice: a calibration leaves all ranks with one table, and whatever it says, results are
//! right, in captures too.

use symm_core::{
    Backend, Calibration, Capture, Error, GraphPool, Group, Need, Path, Reason, ReduceOp, Result,
    World, bf16, symm,
};

use super::data::{elements, reduced, summands};
use super::steps::reads_early;
use super::{Case, Left, Outcome, Right, Tp};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        all_ranks_choose_alike,
        calls_take_the_path_that_was_found,
        graphs_keep_their_paths,
        the_arena_is_as_it_was,
        a_batch_stays_on_the_window,
        one_rank_has_no_choice,
        a_capture_refuses_it,
        two_groups_of_an_arena_choose_apart,
    ]
}

/// What was chosen, by operation and types: a digit for each size.
fn chosen(found: &Calibration) -> String {
    let points = found.points.iter();
    let points = points.map(|point| match point.path {
        Path::Symmetric => '0',
        Path::Plain(Reason::Faster) => '1',
        other => panic!("{other} was chosen"),
    });
    points.collect()
}

/// The same on all ranks, compared through the group itself.
fn alike<B: Backend>(tp: &Group<Tp, B>, mine: &str) -> Outcome {
    let mine: Vec<u8> = mine.bytes().collect();
    let len = mine.len();
    if len == 0 {
        return Ok(());
    }
    let (x, mut all) = symm!(group = tp, {
        (tp.from_slice(&mine)?, tp.zeros::<u8>(len * tp.size())?)
    })?;
    tp.all_gather(&x, &mut all)?;
    for theirs in all.to_vec()?.chunks(len) {
        ensure_eq!(theirs, &mine[..]);
    }
    Ok(())
}

/// The path that was found for a size; `None` where nothing was measured.
fn path(found: &Calibration, operation: &str, types: &str, bytes: u64) -> Option<Path> {
    let of = found
        .points
        .iter()
        .find(|point| point.operation == operation && point.types == types && point.bytes == bytes);
    of.map(|point| point.path)
}

fn all_ranks_choose_alike<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let found = tp.calibrate()?;
    println!("{found}");
    alike(&tp, &chosen(&found))?;
    // Again, with a table and perhaps a twin from before.
    let again = tp.calibrate()?;
    ensure_eq!(again.points.len(), found.points.len());
    alike(&tp, &chosen(&again))?;
    let wants_twin = [&found, &again].map(|found| chosen(found).contains('1'));
    let twins = world.pool().stats().twins;
    ensure_eq!(twins, usize::from(wants_twin.contains(&true)));
    Ok(())
}

fn calls_take_the_path_that_was_found<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let found = tp.calibrate()?;
    let (ranks, me) = (tp.size(), tp.rank());
    for whole in [1usize << 10, 16 << 10, 64 << 10] {
        let len = whole / 2 / ranks * ranks;
        let parts = summands::<bf16>(ReduceOp::Sum, ranks, len);
        let sum = reduced(ReduceOp::Sum, &parts);
        let part = len / ranks;
        let (src, mut dst, mut mine) = symm!(group = tp, {
            (
                tp.from_slice(&parts[me])?,
                tp.zeros::<bf16>(len)?,
                tp.zeros::<bf16>(part)?,
            )
        })?;
        let took = [
            tp.all_reduce(&src, &mut dst, ReduceOp::Sum)?,
            tp.reduce_scatter(&src, &mut mine, ReduceOp::Sum)?,
        ];
        ensure_same!(dst.to_vec()?, sum, "a sum of {whole} bytes");
        ensure_same!(
            mine.to_vec()?,
            sum[me * part..][..part],
            "a part of {whole} bytes"
        );
        let gathered = tp.all_gather(&mine, &mut dst)?;
        ensure_same!(dst.to_vec()?, sum, "a gather of {whole} bytes");
        let whole = whole as u64;
        let expected = [
            path(&found, "all_reduce", "f16,bf16", whole),
            path(&found, "reduce_scatter", "f16,bf16", whole),
            path(&found, "all_gather", "any", whole),
        ];
        let took = [took[0], took[1], gathered];
        for (took, expected) in took.into_iter().zip(expected) {
            match expected {
                Some(expected) => ensure_eq!(took, expected),
                None => ensure!(took != Path::Symmetric, "no kernels, but {took}"),
            }
        }
    }
    Ok(())
}

fn graphs_keep_their_paths<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let found = tp.calibrate()?;
    let (ranks, me, len) = (tp.size(), tp.rank(), 16 << 10);
    let parts: Vec<Vec<f32>> = summands(ReduceOp::Sum, ranks, len);
    let sum = reduced(ReduceOp::Sum, &parts);
    let mut x = symm!(group = tp, { tp.zeros::<f32>(len)? })?;
    let graphs = GraphPool::new(world.pool());
    let mut graph = graphs.capture(world.stream(), |_| -> Result<_> {
        let mut y = symm!(group = tp, { tp.empty::<f32>(len)? })?;
        let large = tp.all_reduce(&x, &mut y, ReduceOp::Sum)?;
        let small = tp.all_reduce_in_place(x.view_mut(0..16)?, ReduceOp::Sum)?;
        Ok((y, [large, small]))
    })?;
    let paths = graph.output().1;
    if let Some(expected) = path(&found, "all_reduce", "f32", 64 << 10) {
        // Where captured symmetric kernels read too early, all captured calls keep off them.
        let expected = match reads_early() {
            true => Path::Plain(Reason::Defect),
            false => expected,
        };
        ensure_eq!(paths[0], expected);
    }
    // What is found later changes nothing in the graph.
    tp.calibrate()?;
    for _ in 0..3 {
        x.copy_from_slice(&parts[me])?;
        graph.launch()?;
        // Between launches, and on another stream, as if nothing were captured.
        let side = world.new_stream()?;
        let guard = world.on_stream(&side)?;
        let mut other = symm!(group = tp, { tp.from_slice(&parts[me])? })?;
        tp.all_reduce_in_place(&mut other, ReduceOp::Sum)?;
        ensure_same!(other.to_vec()?, sum, "beside the graph");
        guard.end()?;
        ensure_same!(graph.output().0.to_vec()?, sum, "of the graph");
    }
    let stats = graph.stats();
    ensure_eq!(
        stats.calls.iter().map(|call| call.path).collect::<Vec<_>>(),
        paths
    );
    Ok(())
}

fn the_arena_is_as_it_was<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let x = symm!(group = tp, { tp.from_slice(&elements::<u8>(1, 0, 4096))? })?;
    let before = (world.pool().stats(), tp.windows());
    tp.calibrate()?;
    let mut after = (world.pool().stats(), tp.windows());
    after.0.twins = before.0.twins;
    ensure_eq!(after, before);
    ensure_same!(x.to_vec()?, elements::<u8>(1, 0, 4096), "a buffer");
    Ok(())
}

fn a_batch_stays_on_the_window<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let found = tp.calibrate()?;
    let (mut x, mut y) = symm!(group = tp, {
        (tp.zeros::<f32>(16 << 10)?, tp.zeros::<f32>(16 << 10)?)
    })?;
    let mut batch = tp.batch();
    batch.all_reduce_in_place(&mut x, ReduceOp::Sum);
    batch.all_reduce_in_place(&mut y, ReduceOp::Sum);
    let paths = batch.launch()?;
    if !found.points.is_empty() {
        ensure_eq!(paths, [Path::Symmetric; 2]);
    }
    Ok(())
}

fn one_rank_has_no_choice<B: Backend>(world: &World<B>) -> Outcome {
    let alone = world.split::<Tp>(world.rank(), 0)?;
    let found = alone.calibrate()?;
    ensure!(found.points.is_empty() && !found.noisy && !found.cached);
    let mut x = symm!(group = alone, { alone.zeros::<f32>(64 << 10)? })?;
    ensure_eq!(
        alone.all_reduce_in_place(&mut x, ReduceOp::Sum)?,
        Path::Plain(Reason::SingleRank)
    );
    Ok(())
}

fn a_capture_refuses_it<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let graphs = GraphPool::new(world.pool());
    let capture = Capture::begin(&graphs, &Need::new(), world.stream())?;
    let refused = tp.calibrate();
    ensure!(
        matches!(refused, Err(Error::InCapture { .. })),
        "{refused:?}"
    );
    drop(capture);
    tp.calibrate()?;
    Ok(())
}

fn two_groups_of_an_arena_choose_apart<B: Backend>(world: &World<B>) -> Outcome {
    let (left, right) = (world.split::<Left>(0, 0)?, world.split::<Right>(0, 0)?);
    let found = left.calibrate()?;
    let mut x = symm!(group = right, { right.zeros::<f32>(16 << 10)? })?;
    let path = right.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    // Where a table is shipped or kept, the other group has started with it.
    if world.pool().stats().twins == usize::from(chosen(&found).contains('1')) {
        ensure!(
            path != Path::Plain(Reason::Faster),
            "{path} without a table"
        );
    }
    let mut y = symm!(group = left, { left.from_slice(&[1.0f32; 100])? })?;
    left.all_reduce_in_place(&mut y, ReduceOp::Sum)?;
    ensure_same!(y.to_vec()?, [left.size() as f32; 100], "a sum on the left");
    Ok(())
}
