//! The op on candle's CPU device, over ranks that are threads.

use candle_core::{DType, Device, Tensor};
use symm_candle::{Buffers, RowParallel, SumAllReduce};
use symm_core::{Error, GraphPool, Group, Host, Path, Result, World, groups};

groups! { Tp = "tp"; }

fn candle(error: candle_core::Error) -> Error {
    Error::Config {
        what: error.to_string().into(),
    }
}

/// Runs ranks, each with its buffers.
fn on<R: Send>(
    ranks: usize,
    body: impl Fn(&World<Host>, &Group<Tp, Host>, &Buffers<Host>) -> candle_core::Result<R> + Sync,
) -> Vec<R> {
    let ended = World::<Host>::run(ranks, |world| {
        let buffers = Buffers::enter(&world, &Device::Cpu)?;
        let tp = world.split::<Tp>(0, 0)?;
        body(&world, &tp, &buffers).map_err(candle)
    });
    ended.expect("a world")
}

fn numbers(rank: usize, shape: (usize, usize), dtype: DType) -> candle_core::Result<Tensor> {
    let count = shape.0 * shape.1;
    let numbers: Vec<f32> = (0..count).map(|at| ((at * 7 + rank) % 9) as f32).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu)?.to_dtype(dtype)
}

#[test]
fn sums_are_exact_in_every_type_and_shape() {
    on(3, |_, tp, _| {
        let op = SumAllReduce::new(tp);
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
            for shape in [(1, 1), (1, 5), (3, 17), (64, 64)] {
                let sum = op.sum_all_reduce(&numbers(tp.rank(), shape, dtype)?)?;
                let parts = (0..3).map(|rank| numbers(rank, shape, dtype));
                let parts = parts.collect::<candle_core::Result<Vec<_>>>()?;
                let expected = ((&parts[0] + &parts[1])? + &parts[2])?;
                assert_eq!((sum.dtype(), sum.dims()), (dtype, expected.dims()));
                let values = |x: &Tensor| x.to_dtype(DType::F32)?.to_vec2::<f32>();
                assert_eq!(values(&sum)?, values(&expected)?, "{dtype:?} {shape:?}");
            }
        }
        // A part of a tensor, which does not start where its storage does.
        let whole = numbers(tp.rank(), (4, 8), DType::F32)?;
        let part = op
            .sum_all_reduce(&whole.narrow(0, 2, 2)?)?
            .to_vec2::<f32>()?;
        assert_eq!(part, op.sum_all_reduce(&whole)?.to_vec2::<f32>()?[2..]);
        Ok(())
    });
}

#[test]
fn buffers_are_of_a_layer_a_type_and_a_size_and_stay() {
    on(2, |world, tp, buffers| {
        let (a, b) = (SumAllReduce::new(tp), SumAllReduce::new(tp));
        let of = |op: &SumAllReduce<Tp, Host>, len, dtype| {
            op.sum_all_reduce(&numbers(tp.rank(), (1, len), dtype)?)
        };
        of(&a, 100, DType::F32)?;
        assert_eq!(buffers.count(), 1);
        of(&a.clone(), 128, DType::F32)?; // rounded up, it is the same
        assert_eq!(buffers.count(), 1);
        of(&a, 129, DType::F32)?;
        of(&a, 100, DType::BF16)?;
        of(&b, 100, DType::F32)?;
        assert_eq!(buffers.count(), 4);
        let (live, windows) = (world.pool().stats().live_bytes(), tp.windows());
        for _ in 0..10 {
            of(&a, 90, DType::F32)?;
            of(&b, 128, DType::F32)?;
        }
        assert_eq!((buffers.count(), windows), (4, 1));
        assert_eq!(
            (world.pool().stats().live_bytes(), tp.windows()),
            (live, windows)
        );
        assert!(
            tp.counts()
                .iter()
                .all(|count| count.path == Path::Symmetric)
        );
        Ok(())
    });
}

#[test]
fn what_it_does_not_take_is_an_error_and_the_next_call_is_right() {
    on(2, |_, tp, _| {
        let op = SumAllReduce::new(tp);
        let x = numbers(tp.rank(), (4, 6), DType::F32)?;
        let says = |outcome: candle_core::Result<Tensor>, what: &str| {
            let error = outcome.map_or_else(|error| error.to_string(), |_| "no error".into());
            assert!(error.contains(what), "{error}");
        };
        says(op.sum_all_reduce(&x.t()?), "contiguous");
        says(op.sum_all_reduce(&x.to_dtype(DType::U32)?), "not U32");
        assert_eq!(op.sum_all_reduce(&x.narrow(0, 0, 0)?)?.elem_count(), 0);
        let sum = op.sum_all_reduce(&x)?.to_vec2::<f32>()?;
        assert_eq!(sum[0][..3], [1.0, 15.0, 11.0]);
        Ok(())
    });
}

#[test]
fn a_thread_without_buffers_is_told_what_to_do_and_has_one_guard() -> Result<()> {
    World::<Host>::run(1, |world| {
        let first = Buffers::enter(&world, &Device::Cpu)?;
        assert!(Buffers::enter(&world, &Device::Cpu).is_err());
        drop(first);
        Buffers::enter(&world, &Device::Cpu).map(drop)
    })?;
    let ended = World::<Host>::run(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let x = numbers(0, (1, 4), DType::F32).map_err(candle)?;
        SumAllReduce::new(&tp)
            .sum_all_reduce(&x)
            .map(drop)
            .map_err(candle)
    });
    let error = ended.map_or_else(|error| error.to_string(), |_| "no error".into());
    assert!(error.contains("Buffers::enter"), "{error}");
    Ok(())
}

#[test]
fn one_rank_needs_no_buffer() {
    on(1, |_, tp, buffers| {
        let x = numbers(0, (2, 2), DType::U32)?;
        let sum = SumAllReduce::new(tp).sum_all_reduce(&x)?;
        assert_eq!(
            (sum.to_vec2::<u32>()?, buffers.count()),
            (x.to_vec2::<u32>()?, 0)
        );
        Ok(())
    });
}

#[test]
fn a_row_parallel_layer_is_its_whole() {
    let whole = |rows| -> candle_core::Result<Vec<Vec<f32>>> {
        let (x, weight) = (
            numbers(0, (rows, 12), DType::F32)?,
            numbers(5, (7, 12), DType::F32)?,
        );
        x.matmul(&weight.t()?)?.to_vec2()
    };
    on(4, |_, tp, _| {
        let layer = RowParallel::new(tp, &numbers(5, (7, 12), DType::F32)?)?;
        for rows in [1, 2, 5] {
            let x = numbers(0, (rows, 12), DType::F32)?.narrow(1, 3 * tp.rank(), 3)?;
            assert_eq!(
                layer.forward(&x.contiguous()?)?.to_vec2::<f32>()?,
                whole(rows)?
            );
        }
        assert!(RowParallel::new(tp, &numbers(5, (7, 10), DType::F32)?).is_err());
        Ok(())
    });
}

/// candle's CPU work is no work of a stream, so the host backend cannot capture it: it says so, and
/// nothing is lost.
#[test]
fn a_capture_on_the_cpu_is_refused() {
    on(2, |world, tp, buffers| {
        let op = SumAllReduce::new(tp);
        let x = numbers(tp.rank(), (1, 8), DType::F32)?;
        let before = op.sum_all_reduce(&x)?.to_vec2::<f32>()?;
        let graphs = GraphPool::new(world.pool());
        let captured = graphs.capture(world.stream(), |_| op.sum_all_reduce(&x).map_err(candle));
        assert!(captured.is_err());
        assert_eq!(
            (op.sum_all_reduce(&x)?.to_vec2::<f32>()?, buffers.count()),
            (before, 1)
        );
        Ok(())
    });
}

/// Layers are `Send` and `Sync`, as mistral.rs asks of them.
#[test]
fn layers_may_be_shared() {
    fn shared<T: Send + Sync + Clone>() {}
    shared::<SumAllReduce<Tp, Host>>();
    shared::<RowParallel<Tp, symm_core::Cuda>>();
}
