//! What is in graphs: the kernels that the driver lists for each, beside the paths that it reports.

use symm_core::{
    Buf, Cuda, Graph, GraphOptions, GraphPool, Path, ReduceOp, Result, World, plain, plain_mut,
    symm,
};
use symm_tests::suite::{Case, Failure, Outcome};

use crate::prove::{Bench, PLAIN, SIZES, SYMMETRIC, agree};

pub(crate) fn cases() -> Vec<Case<Cuda>> {
    vec![
        Case::new(
            module_path!(),
            "as_the_version_allows",
            2,
            as_the_version_allows,
        ),
        Case::new(module_path!(), "with_early_reads", 2, with_early_reads),
    ]
}

impl Bench<'_> {
    /// Prints what the graph of one collective holds, and fails unless that is what it reports and
    /// what was expected.
    #[track_caller]
    fn nodes<O>(&self, what: &str, bytes: usize, symmetric: bool, graph: &Graph<O>) -> Outcome {
        let stats = graph.stats();
        let [call] = &stats.calls[..] else {
            return Err(Failure::new(format!(
                "{what}: its calls are {:?}",
                stats.calls
            )));
        };
        if self.rank == 0 {
            let nodes = stats.nodes.join(" ");
            println!("      {what:<34} {bytes:>9} B  {:<50} {nodes}", call.path);
        }
        agree(what, bytes, call.path, &stats.nodes)?;
        match symmetric == (call.path == Path::Symmetric) {
            true => Ok(()),
            false => Err(Failure::new(format!(
                "{what} of {bytes} bytes is {}, which it must not be",
                call.path
            ))),
        }
    }
}

/// Symmetric kernels, unless NCCL's read too early in graphs.
fn as_the_version_allows(world: &World<Cuda>) -> Outcome {
    let early = (22_800..23_007).contains(&nccl()?);
    in_graphs(world, &GraphPool::new(world.pool()), !early)
}

/// The same where symmetric kernels are allowed whatever the version.
fn with_early_reads(world: &World<Cuda>) -> Outcome {
    let options = GraphOptions::default().early_reads(true);
    in_graphs(world, &GraphPool::with(world.pool(), options)?, SYMMETRIC)
}

fn nccl() -> Outcome<u32> {
    let found = Cuda::probe().nccl;
    let found = found.map_err(|why| Failure::new(format!("no NCCL: {why:?}")))?;
    Ok(found.version)
}

/// An all_reduce of the pool's symmetric memory, and one of its private memory.
fn in_graphs(world: &World<Cuda>, graphs: &GraphPool<Cuda>, symmetric: bool) -> Outcome {
    Bench::with(world, |bench| {
        let tp = &bench.tp;
        for bytes in SIZES {
            let [x] = bench.buffers::<f32, 1>([bytes / 4])?;
            let in_scope = graphs.capture(bench.stream, |_| -> Result<_> {
                let mut sum = symm!(group = tp, { tp.empty::<f32>(bytes / 4)? })?;
                tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?;
                Ok(sum)
            })?;
            bench.nodes("all_reduce in a graph", bytes, symmetric, &in_scope)?;
            let outside = graphs.capture(bench.stream, |_| -> Result<_> {
                let mut sum = Buf::<f32, Cuda>::empty(bytes / 4)?;
                tp.all_reduce(plain(&x), plain_mut(&mut sum), ReduceOp::Sum)?;
                Ok(sum)
            })?;
            bench.nodes("all_reduce in a graph, plain", bytes, PLAIN, &outside)?;
        }
        Ok(())
    })
}
