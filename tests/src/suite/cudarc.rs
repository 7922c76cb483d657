//! What the Cuda backend has beyond the others: memory that cudarc and this crate hand to each
//! other, and communicators of others.

use std::sync::Arc;

use symm_core::cuda::cudarc::driver::{CudaSlice, CudaStream, DriverError};
use symm_core::{Cuda, Error, Group, Path, Reason, ReduceOp, World, plain, plain_mut, symm};

use super::data::{elements, reduced, summands};
use super::{Case, Cp, Failure, Outcome, Tp, cudarc_graphs, settles};

/// Cases for GPUs alone.
pub fn cases() -> Vec<Case<Cuda>> {
    macro_rules! on_cuda {
        ($($name:ident),* $(,)?) => {
            vec![$(Case::new(module_path!(), stringify!($name), 2, $name)),*]
        };
    }
    let mut cases = on_cuda![
        slices_take_part_in_collectives,
        parts_of_slices_take_part,
        slices_are_ordered_with_their_streams,
        copies_take_our_buffers,
        copies_on_other_streams_are_ordered,
        lengths_are_checked_for_slices,
        raw_communicators_make_groups,
    ];
    cases.extend(cudarc_graphs::cases());
    cases
}

impl From<DriverError> for Failure {
    #[track_caller]
    fn from(error: DriverError) -> Self {
        Failure::new(format!("cudarc: {error:?}"))
    }
}

const LEN: usize = 100_000;

fn slice(stream: &Arc<CudaStream>, data: &[f32]) -> Result<CudaSlice<f32>, DriverError> {
    stream.clone_htod(data)
}

fn slices_take_part_in_collectives(world: &World<Cuda>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let parts = summands::<f32>(ReduceOp::Sum, tp.size(), LEN);
    let src = slice(world.stream(), &parts[tp.rank()])?;
    let mut dst = world.stream().alloc_zeros::<f32>(LEN)?;
    let path = tp.all_reduce(plain(&src), plain_mut(&mut dst), ReduceOp::Sum)?;
    ensure_eq!(path, Path::Plain(Reason::Foreign));
    ensure_same!(
        world.stream().clone_dtoh(&dst)?,
        reduced(ReduceOp::Sum, &parts),
        "a sum in cudarc's memory"
    );
    tp.all_reduce_in_place(plain_mut(&mut dst), ReduceOp::Max)?;
    ensure_same!(
        world.stream().clone_dtoh(&dst)?,
        reduced(ReduceOp::Sum, &parts),
        "its maximum"
    );
    Ok(())
}

fn parts_of_slices_take_part(world: &World<Cuda>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (ranks, me) = (tp.size(), tp.rank());
    let src = slice(world.stream(), &elements(1, me, LEN))?;
    let mut dst = symm!(group = tp, { tp.zeros::<f32>(100 * ranks)? })?;
    tp.all_gather(plain(&src.slice(7..107)), &mut dst)?;
    let expected: Vec<f32> = (0..ranks)
        .flat_map(|rank| elements(1, rank, LEN)[7..107].to_vec())
        .collect();
    ensure_same!(dst.to_vec()?, expected, "gathered from a view of cudarc's");
    let mut back = world.stream().alloc_zeros::<f32>(LEN)?;
    tp.broadcast(dst.view(0..50)?, plain_mut(&mut back.slice_mut(3..53)), 0)?;
    ensure_same!(
        world.stream().clone_dtoh(&back)?[3..53],
        expected[..50],
        "broadcast into a view of cudarc's"
    );
    Ok(())
}

fn slices_are_ordered_with_their_streams(world: &World<Cuda>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let side = world.new_stream()?;
    let mut sum = symm!(group = tp, { tp.zeros::<f32>(LEN)? })?;
    for round in 1..10 {
        // Written on one stream, read on another, overwritten on the first.
        let mut x = slice(&side, &vec![round as f32; LEN])?;
        tp.all_reduce(plain(&x), &mut sum, ReduceOp::Sum)?;
        side.memset_zeros(&mut x)?;
        ensure_same!(
            sum.to_vec()?,
            vec![(round * tp.size()) as f32; LEN],
            "round {round}"
        );
    }
    Ok(())
}

fn copies_take_our_buffers(world: &World<Cuda>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let stream = world.stream();
    let data: Vec<f32> = elements(2, tp.rank(), LEN);
    let (mut x, mut y) = symm!(group = tp, {
        (tp.zeros::<f32>(LEN)?, tp.zeros::<f32>(LEN)?)
    })?;
    stream.memcpy_htod(&data, &mut x)?;
    stream.memcpy_dtod(&x, &mut y)?;
    stream.memset_zeros(&mut x.view_mut(0..10)?)?;
    ensure_same!(stream.clone_dtoh(&y)?, data, "copied by cudarc");
    let mut expected = data.clone();
    expected[..10].fill(0.0);
    ensure_same!(x.to_vec()?, expected, "a part set to zero by cudarc");
    let mut ordinary = world.pool().zeros::<f32>(LEN)?;
    stream.memcpy_dtod(&x.view(0..LEN)?, &mut ordinary)?;
    ensure_same!(ordinary.to_vec()?, expected, "copied into ordinary memory");
    Ok(())
}

fn copies_on_other_streams_are_ordered(world: &World<Cuda>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let side = world.new_stream()?;
    for round in 0..10 {
        let data: Vec<f32> = elements(round, tp.rank(), LEN);
        let mut x = symm!(group = tp, { tp.from_slice(&[0.0f32; LEN])? })?;
        side.memcpy_htod(&data, &mut x)?;
        tp.broadcast_in_place(&mut x, 0)?;
        ensure_same!(
            side.clone_dtoh(&x)?,
            elements(round, 0, LEN),
            "round {round}"
        );
        // Freed on the world's stream while the other may still hold it.
        side.memset_zeros(&mut x)?;
        drop(x);
        let y = symm!(group = tp, { tp.from_slice(&data)? })?;
        ensure_same!(y.to_vec()?, data, "the next owner's data");
    }
    Ok(())
}

fn lengths_are_checked_for_slices(world: &World<Cuda>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let src = slice(world.stream(), &[1.0; 10])?;
    let mut dst = world.stream().alloc_zeros::<f32>(11)?;
    ensure_matches!(
        tp.all_reduce(plain(&src), plain_mut(&mut dst), ReduceOp::Sum),
        Err(Error::Length {
            got: 11,
            expected: 10,
            ..
        })
    );
    ensure_matches!(plain(&src).part(0..5), Err(Error::Unsupported { .. }));
    Ok(())
}

fn raw_communicators_make_groups(world: &World<Cuda>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    // SAFETY: the communicator is blocking and of this rank's device, `tp` outlives the group made
    // of it, and the two take turns.
    let adopted: Group<Cp, Cuda> = unsafe { Group::from_raw(world, tp.as_raw()?) }?;
    ensure_eq!((adopted.rank(), adopted.size()), (tp.rank(), tp.size()));
    let mut x = symm!(group = adopted, { adopted.from_slice(&[1.0f32; 100])? })?;
    ensure_eq!((adopted.windows(), tp.windows()), (1, 0));
    adopted.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    ensure_same!(
        x.to_vec()?,
        [adopted.size() as f32; 100],
        "a sum on a communicator of somebody else"
    );
    drop((x, adopted));
    settles(world, |stats| stats.segments == 0)?;
    let mut y = symm!(group = tp, { tp.from_slice(&[1.0f32; 100])? })?;
    tp.all_reduce_in_place(&mut y, ReduceOp::Sum)?;
    ensure_same!(
        y.to_vec()?,
        [tp.size() as f32; 100],
        "after the group that borrowed it is gone"
    );
    Ok(())
}
