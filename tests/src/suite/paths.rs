//! Paths: every collective says how it ran, and right whichever way that was.

use symm_core::{Backend, Group, Path, Reason, ReduceOp, World, bf16, f16, plain, plain_mut, symm};

use super::data::{Number, elements, reduced, summands};
use super::{Case, Cp, Left, Outcome, Right, Tp, nccl};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        sums_of_small_floats_are_symmetric,
        gathers_of_every_type_are_symmetric,
        small_types_at_odd_places_are_right,
        ordinary_memory_is_foreign,
        switched_off_is_disabled_whatever_the_operation,
        one_window_is_enough_where_peers_address_one,
        both_windows_are_needed_to_reduce_all,
        averages_are_right,
        other_reductions_and_types_have_no_kernel,
        other_operations_have_no_kernel,
        plain_does_not_hide_a_window,
        another_groups_window_is_foreign,
        a_neighbours_window_in_a_shared_arena_counts,
        reasons_read_well,
    ]
}

/// The path of what has a symmetric kernel. Only a machine can take it away, and then from all such
/// calls alike.
fn direct<B: Backend>(world: &World<B>, tp: &Group<Tp, B>) -> Outcome<Path> {
    let mut x = symm!(group = tp, { tp.zeros::<f32>(64)? })?;
    let path = tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    match path {
        Path::Symmetric => {}
        Path::Plain(Reason::NotDirect | Reason::Unsupported) if on_cuda(world) => {}
        other => ensure!(false, "a sum of f32 in a window took the path {other}"),
    }
    Ok(path)
}

fn on_cuda<B: Backend>(world: &World<B>) -> bool {
    world.device().starts_with("cuda")
}

fn sums_of_small_floats_are_symmetric<B: Backend>(world: &World<B>) -> Outcome {
    fn of_type<T: Number, B: Backend>(tp: &Group<Tp, B>, direct: Path) -> Outcome {
        let (src, mut dst, mut part) = symm!(group = tp, {
            (
                tp.zeros::<T>(8 * tp.size())?,
                tp.zeros(8 * tp.size())?,
                tp.zeros(8)?,
            )
        })?;
        ensure_eq!(tp.all_reduce(&src, &mut dst, ReduceOp::Sum)?, direct);
        ensure_eq!(tp.all_reduce_in_place(&mut dst, ReduceOp::Sum)?, direct);
        ensure_eq!(tp.reduce_scatter(&src, &mut part, ReduceOp::Sum)?, direct);
        ensure_eq!(
            tp.reduce_scatter_in_place(&mut dst, ReduceOp::Sum)?.1,
            direct
        );
        Ok(())
    }
    let tp = world.split::<Tp>(0, 0)?;
    let direct = direct(world, &tp)?;
    of_type::<f32, B>(&tp, direct)?;
    of_type::<f16, B>(&tp, direct)?;
    of_type::<bf16, B>(&tp, direct)
}

fn gathers_of_every_type_are_symmetric<B: Backend>(world: &World<B>) -> Outcome {
    fn of_type<T: Number, B: Backend>(tp: &Group<Tp, B>, direct: Path) -> Outcome {
        let (src, mut dst) = symm!(group = tp, {
            (tp.zeros::<T>(12)?, tp.zeros::<T>(12 * tp.size())?)
        })?;
        ensure_eq!(tp.all_gather(&src, &mut dst)?, direct);
        ensure_eq!(tp.all_gather_in_place(&mut dst)?, direct);
        Ok(())
    }
    let tp = world.split::<Tp>(0, 0)?;
    let direct = direct(world, &tp)?;
    of_type::<u8, B>(&tp, direct)?;
    of_type::<f16, B>(&tp, direct)?;
    of_type::<i32, B>(&tp, direct)?;
    of_type::<f64, B>(&tp, direct)
}

/// `loadPack` in `op128.h`: before 2.30.3 wrong at addresses that are no multiple of 4. All ranks
/// have to keep off the window alike, also where only some have such an address.
fn small_types_at_odd_places_are_right<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let direct = direct(world, &tp)?;
    let (ranks, me) = (tp.size(), tp.rank());
    let odd = if nccl() < 23003 {
        Path::Plain(Reason::Defect)
    } else {
        direct
    };

    let len = 4001;
    let gathered: Vec<u8> = (0..ranks).flat_map(|rank| elements(1, rank, len)).collect();
    let mut bytes = symm!(group = tp, { tp.zeros::<u8>(len * ranks)? })?;
    bytes
        .view_mut(me * len..(me + 1) * len)?
        .copy_from_slice(&gathered[me * len..][..len])?;
    ensure_eq!(tp.all_gather_in_place(&mut bytes)?, odd);
    ensure_same!(bytes.to_vec()?, gathered, "odd parts gathered in place");

    let parts = summands::<bf16>(ReduceOp::Sum, ranks, len * ranks);
    let sum = reduced(ReduceOp::Sum, &parts);
    let (mut x, mut part) = symm!(group = tp, { (tp.from_slice(&parts[me])?, tp.zeros(len)?) })?;
    ensure_eq!(tp.reduce_scatter(&x, &mut part, ReduceOp::Sum)?, odd);
    ensure_same!(
        part.to_vec()?,
        sum[me * len..][..len],
        "odd parts scattered"
    );
    ensure_eq!(
        tp.all_reduce_in_place(x.view_mut(1..len)?, ReduceOp::Sum)?,
        odd
    );
    ensure_same!(x.to_vec()?[1..len], sum[1..len], "from an odd place on");
    ensure_eq!(
        tp.all_reduce_in_place(x.view_mut(2..len)?, ReduceOp::Max)?,
        Path::Plain(Reason::NoKernel)
    );
    x.copy_from_slice(&parts[me])?;
    ensure_eq!(
        tp.all_reduce_in_place(x.view_mut(2..len)?, ReduceOp::Sum)?,
        direct
    );
    ensure_same!(x.to_vec()?[2..len], sum[2..len], "from an even place on");
    Ok(())
}

fn ordinary_memory_is_foreign<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let parts = summands::<f32>(ReduceOp::Sum, tp.size(), 333);
    let src = world.pool().from_slice(&parts[tp.rank()])?;
    let mut dst = world.pool().zeros::<f32>(333)?;
    ensure_eq!(
        tp.all_reduce(plain(&src), plain_mut(&mut dst), ReduceOp::Sum)?,
        Path::Plain(Reason::Foreign)
    );
    ensure_same!(
        dst.to_vec()?,
        reduced(ReduceOp::Sum, &parts),
        "a sum in ordinary memory"
    );
    ensure_eq!(tp.windows(), 0);
    Ok(())
}

fn switched_off_is_disabled_whatever_the_operation<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let n = tp.size();
    let (mut x, mut y) = symm!(group = tp, when = false, {
        (tp.zeros::<f32>(4 * n)?, tp.zeros::<f32>(4 * n)?)
    })?;
    let paths = [
        tp.all_reduce(&x, &mut y, ReduceOp::Sum)?,
        tp.all_reduce_in_place(&mut x, ReduceOp::Max)?,
        tp.all_gather_in_place(&mut x)?,
        tp.reduce_scatter_in_place(&mut x, ReduceOp::Avg)?.1,
        tp.broadcast_in_place(&mut x, 0)?,
        tp.all_to_all(&x, &mut y)?,
    ];
    ensure_eq!(paths, [Path::Plain(Reason::Disabled); 6]);
    Ok(())
}

fn one_window_is_enough_where_peers_address_one<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    // `sym_kernels.cc`: before 2.29.2 both operands had to be in windows.
    let expected = if nccl() >= 22902 {
        direct(world, &tp)?
    } else {
        Path::Plain(Reason::Foreign)
    };
    let (len, ranks) = (700, tp.size());
    let mut whole = symm!(group = tp, { tp.zeros::<f32>(len * ranks)? })?;

    let part = world
        .pool()
        .from_slice(&elements::<f32>(1, tp.rank(), len))?;
    ensure_eq!(tp.all_gather(plain(&part), &mut whole)?, expected);
    ensure_same!(
        whole.to_vec()?,
        (0..ranks)
            .flat_map(|rank| elements(1, rank, len))
            .collect::<Vec<_>>(),
        "gathered from ordinary memory"
    );

    let parts = summands::<f32>(ReduceOp::Sum, ranks, len * ranks);
    whole.copy_from_slice(&parts[tp.rank()])?;
    let mut part = part;
    ensure_eq!(
        tp.reduce_scatter(&whole, plain_mut(&mut part), ReduceOp::Sum)?,
        expected
    );
    ensure_same!(
        part.to_vec()?,
        reduced(ReduceOp::Sum, &parts)[tp.rank() * len..][..len],
        "scattered to ordinary memory"
    );
    Ok(())
}

fn both_windows_are_needed_to_reduce_all<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let parts = summands::<f32>(ReduceOp::Sum, tp.size(), 500);
    let sum = reduced(ReduceOp::Sum, &parts);
    let mut symmetric = symm!(group = tp, { tp.zeros::<f32>(500)? })?;
    let mut ordinary = world.pool().from_slice(&parts[tp.rank()])?;
    ensure_eq!(
        tp.all_reduce(plain(&ordinary), &mut symmetric, ReduceOp::Sum)?,
        Path::Plain(Reason::Foreign)
    );
    ensure_same!(symmetric.to_vec()?, sum, "from ordinary memory");
    symmetric.copy_from_slice(&parts[tp.rank()])?;
    ensure_eq!(
        tp.all_reduce(&symmetric, plain_mut(&mut ordinary), ReduceOp::Sum)?,
        Path::Plain(Reason::Foreign)
    );
    ensure_same!(ordinary.to_vec()?, sum, "to ordinary memory");
    Ok(())
}

fn averages_are_right<B: Backend>(world: &World<B>) -> Outcome {
    fn of_type<T: Number, B: Backend>(tp: &Group<Tp, B>, [to_parts, to_all]: [Path; 2]) -> Outcome {
        for len in [3, 1024, 30_000] {
            let parts = summands::<T>(ReduceOp::Avg, tp.size(), len * tp.size());
            let average = reduced(ReduceOp::Avg, &parts);
            let (mut x, mut part) = symm!(group = tp, {
                (tp.from_slice(&parts[tp.rank()])?, tp.zeros::<T>(len)?)
            })?;
            ensure_eq!(tp.reduce_scatter(&x, &mut part, ReduceOp::Avg)?, to_parts);
            ensure_same!(
                part.to_vec()?,
                average[tp.rank() * len..][..len],
                "reduce_scatter of {len}"
            );
            ensure_eq!(tp.all_reduce_in_place(&mut x, ReduceOp::Avg)?, to_all);
            ensure_same!(x.to_vec()?, average, "all_reduce of {len}");
        }
        Ok(())
    }
    let tp = world.split::<Tp>(0, 0)?;
    // From 2.30.3 on NCCL has kernels for one of the two, and takes one that it has not for the
    // other.
    let expected = match nccl() {
        23003.. => [direct(world, &tp)?, Path::Plain(Reason::Defect)],
        _ => [Path::Plain(Reason::NoKernel); 2],
    };
    of_type::<f32, B>(&tp, expected)?;
    of_type::<f16, B>(&tp, expected)?;
    of_type::<bf16, B>(&tp, expected)
}

fn other_reductions_and_types_have_no_kernel<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let n = 8 * tp.size();
    let (mut f, mut d, mut i) = symm!(group = tp, {
        (
            tp.zeros::<f32>(n)?,
            tp.zeros::<f64>(n)?,
            tp.zeros::<i32>(n)?,
        )
    })?;
    let paths = [
        tp.all_reduce_in_place(&mut f, ReduceOp::Max)?,
        tp.all_reduce_in_place(&mut f, ReduceOp::Min)?,
        tp.all_reduce_in_place(&mut f, ReduceOp::Prod)?,
        tp.all_reduce_in_place(&mut d, ReduceOp::Sum)?,
        tp.all_reduce_in_place(&mut i, ReduceOp::Sum)?,
        tp.all_reduce_in_place(&mut i, ReduceOp::Avg)?,
        tp.reduce_scatter_in_place(&mut d, ReduceOp::Sum)?.1,
    ];
    ensure_eq!(paths, [Path::Plain(Reason::NoKernel); 7]);
    Ok(())
}

fn other_operations_have_no_kernel<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let n = tp.size();
    let (mut x, mut whole, mut other) = symm!(group = tp, {
        (
            tp.zeros::<f32>(8)?,
            tp.zeros::<f32>(8 * n)?,
            tp.zeros::<f32>(8 * n)?,
        )
    })?;
    let paths = [
        tp.broadcast_in_place(&mut x, 0)?,
        tp.reduce_in_place(&mut x, ReduceOp::Sum, 0)?,
        tp.all_to_all(&whole, &mut other)?,
        tp.gather(&x, &mut whole, 0)?,
        tp.scatter(&whole, &mut x, 0)?,
    ];
    ensure_eq!(paths, [Path::Plain(Reason::NoKernel); 5]);
    Ok(())
}

fn plain_does_not_hide_a_window<B: Backend>(world: &World<B>) -> Outcome {
    // NCCL finds windows by address, so a report by type would be wrong.
    let tp = world.split::<Tp>(0, 0)?;
    let direct = direct(world, &tp)?;
    let (x, mut y) = symm!(group = tp, { (tp.zeros::<f32>(8)?, tp.zeros::<f32>(8)?) })?;
    ensure_eq!(
        tp.all_reduce(plain(&x), plain_mut(&mut y), ReduceOp::Sum)?,
        direct
    );
    Ok(())
}

fn another_groups_window_is_foreign<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let cp = world.split::<Cp>(0, 0)?;
    let mut of_cp = symm!(group = cp, { cp.from_slice(&[1.0f32; 40])? })?;
    ensure_eq!(
        tp.all_reduce_in_place(plain_mut(&mut of_cp), ReduceOp::Sum)?,
        Path::Plain(Reason::Foreign)
    );
    ensure_same!(
        of_cp.to_vec()?,
        [world.size() as f32; 40],
        "another group's buffer"
    );
    ensure_eq!((tp.windows(), cp.windows()), (0, 1));
    Ok(())
}

fn a_neighbours_window_in_a_shared_arena_counts<B: Backend>(world: &World<B>) -> Outcome {
    let (tp, left, right) = (
        world.split::<Tp>(0, 0)?,
        world.split::<Left>(0, 0)?,
        world.split::<Right>(0, 0)?,
    );
    let direct = direct(world, &tp)?;
    let mut of_left = symm!(group = left, { left.zeros::<f32>(8)? })?;
    ensure_eq!(
        right.all_reduce_in_place(plain_mut(&mut of_left), ReduceOp::Sum)?,
        Path::Plain(Reason::Foreign)
    );
    let _of_right = symm!(group = right, { right.zeros::<f32>(8)? })?;
    // The same segment, which `right` has now registered as well.
    ensure_eq!(
        right.all_reduce_in_place(plain_mut(&mut of_left), ReduceOp::Sum)?,
        direct
    );
    Ok(())
}

fn reasons_read_well<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut x = world.pool().zeros::<f32>(1)?;
    let path = tp.all_reduce_in_place(plain_mut(&mut x), ReduceOp::Sum)?;
    ensure_eq!(
        path.to_string(),
        "plain: an operand is in no window of the group"
    );
    Ok(())
}
