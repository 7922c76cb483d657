//! A small transformer decoder, tensor parallel by context parallel, on GPUs or on ranks that are
//! threads.
//!
//! | file | what it shows |
//! |---|---|
//! | `layers` | the annotated layers: whose memory a collective works on |
//! | `model`, `generate` | the decoder of one rank, and greedy decoding |
//! | `inputs`, `batches` | what a step reads, and graphs of it for a few batch sizes |
//! | `checkpoint` | a safetensors file, of which each rank reads its slices |
//! | `kernels` | the arithmetic on both backends; it knows nothing of groups |
//! | `rank` | what the layers of a rank share |
//! | `options`, `report`, `table` | the command line; what comes out, and the comparison with one rank |

mod batches;
mod checkpoint;
mod generate;
mod inputs;
mod kernels;
mod layers;
mod model;
mod options;
mod rank;
mod report;
mod table;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use symm_core::{Cuda, Host, Launcher, World, groups};

pub use crate::Choice;
pub use options::Options;
pub use report::{Batch, Comparison, Graphs, Report, Speed, TOLERANCE};

use checkpoint::Checkpoint;
use generate::{Job, Run};
use kernels::{Compute, Kernels};
use options::Split;

groups! {
    /// Tensor parallel: heads, the MLP's columns and the vocabulary are split over it.
    pub Tp = "tp";
    /// Context parallel: the positions of the KV cache are split over it.
    pub Cp = "cp";
    arena(Tp, Cp); // all ranks make the same allocations in the same order
}

/// Ranks where the options do not say.
const RANKS: usize = 4;

/// Decodes as the options say, and checks every position's logits: of graphs against eager work, and
/// of all ranks against one. Where torchrun, mpirun or srun started this process, it is one rank of
/// many; else the ranks are threads of this process.
///
/// # Errors
/// Options that do not fit together, files that cannot be read or written, errors of the backend,
/// and logits that differ.
pub fn run(options: &Options) -> Result<Report> {
    match options.backend {
        Choice::Host => on::<Host>(options, RANKS, "host backend"),
        Choice::Cuda => on_gpus(options, gpus()?),
        Choice::Auto => match gpus() {
            Ok(count) if count > 1 => on_gpus(options, count),
            Ok(_) => on::<Host>(
                options,
                RANKS,
                "host backend: there is one GPU, which --backend cuda takes",
            ),
            Err(why) => on::<Host>(options, RANKS, &format!("host backend: {why}")),
        },
    }
}

/// How many GPUs there are, if the decoder can run on them.
fn gpus() -> symm_core::Result<usize> {
    let probe = Cuda::probe();
    probe.usable()?;
    #[cfg(feature = "cuda")]
    kernels::cuda::libraries()?;
    Ok(probe.driver?.devices.len())
}

#[cfg(feature = "cuda")]
fn on_gpus(options: &Options, count: usize) -> Result<Report> {
    // Powers of two divide the heads.
    on::<Cuda>(
        options,
        RANKS.min(1 << count.ilog2()),
        &Cuda::probe().to_string(),
    )
}

#[cfg(not(feature = "cuda"))]
fn on_gpus(_: &Options, _: usize) -> Result<Report> {
    anyhow::bail!("built without the feature `cuda`")
}

fn on<B: Compute>(options: &Options, usual: usize, machine: &str) -> Result<Report> {
    let job = job(options)?;
    let launched = Launcher::detect()?.is_some();
    let (prompts, graphs) = (&job.prompts, options.graph);
    let (split, sharded) = if launched {
        let world = World::<B>::from_env()?;
        ensure!(
            options.ranks.is_none_or(|ranks| ranks == world.size()),
            "--ranks differs from what {} says, which is {}",
            world.launcher(),
            world.size()
        );
        let split = options.split(world.size())?;
        (split, on_rank(&job, world, split, prompts, graphs)?)
    } else {
        let ranks = options.ranks(usual);
        let split = options.split(ranks)?;
        let mut runs =
            World::<B>::run(ranks, |world| on_rank(&job, world, split, prompts, graphs))?;
        ensure!(
            runs.iter().all(|(run, _)| run.texts == runs[0].0.texts),
            "the ranks generated different texts"
        );
        (split, runs.swap_remove(0))
    };
    let (run, eager) = sharded;
    let alone = match run.rank {
        0 => {
            // The sharded run's tokens, whatever this one would choose: a difference shows where it
            // arises. So it is below.
            let texts = &run.texts;
            let mut runs =
                World::<B>::run(1, |world| on_rank(&job, world, Split::ONE, texts, false))?;
            Some(runs.swap_remove(0).0)
        }
        _ => None,
    };
    Report::new(machine.into(), split, &job, run, eager, alone)
}

/// One rank's run and, if that goes through graphs, the same once more without them: with weights of
/// its own, since uses of what a graph needs are ordered with its launches.
fn on_rank<B: Compute>(
    job: &Job,
    world: World<B>,
    split: Split,
    texts: &[Vec<u8>],
    graphs: bool,
) -> symm_core::Result<(Run, Option<Run>)> {
    let kernels = Arc::new(B::Kernels::new(&world)?);
    let world = Rc::new(world);
    let run = job.run(&world, &kernels, split, texts.to_vec(), graphs)?;
    world.pool().unseal();
    let eager = graphs.then(|| job.run(&world, &kernels, split, run.texts.clone(), false));
    Ok((run, eager.transpose()?))
}

fn job(options: &Options) -> Result<Job> {
    let model = options.model()?;
    let folder = options.weights.clone().unwrap_or_else(env::temp_dir);
    let path = options.file.clone().unwrap_or_else(default_text);
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (batch, prompt) = (options.batch, options.prompt);
    ensure!(
        text.len() >= batch * prompt,
        "{} has {} bytes, {batch} prompts of {prompt} need more",
        path.display(),
        text.len()
    );
    Ok(Job {
        model,
        checkpoint: Checkpoint::open(&model, &folder)?,
        source: path.display().to_string(),
        prompts: text
            .chunks_exact(prompt)
            .take(batch)
            .map(<[u8]>::to_vec)
            .collect(),
        chunk: options.chunk,
        steps: options.steps,
    })
}

/// The repository's README.md, or else the example's own source.
fn default_text() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = package.with_file_name("README.md");
    if readme.is_file() {
        readme
    } else {
        package.join("decoder.rs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `run` fails where logits differ.
    #[test]
    fn every_split_agrees_with_one_rank() -> Result<()> {
        let tiny = Options {
            backend: Choice::Host,
            layers: 2,
            hidden: 32,
            heads: 4,
            batch: 3,
            prompt: 11,
            chunk: 4,
            steps: 5,
            ..Options::default()
        };
        for (tp, cp, graph) in [(2, 2, true), (4, 1, true), (1, 3, true), (2, 2, false)] {
            let report = run(&Options {
                tp: Some(tp),
                cp: Some(cp),
                graph,
                ..tiny.clone()
            })?;
            assert_eq!((report.tp, report.cp), (tp, cp));
            let positions = 3 * 11 + 5 + 4 + 2;
            assert_eq!(
                report.alone.as_ref().map(|alone| alone.positions),
                Some(positions)
            );
            assert_eq!(report.graphs.is_some(), graph);
            let lengths: Vec<usize> = report.texts.iter().map(Vec::len).collect();
            assert_eq!(lengths, [11 + 5, 11 + 4, 11 + 2]);
            for (group, size) in [("tp", tp), ("cp", cp)] {
                let paths = |path| {
                    report
                        .collectives
                        .keys()
                        .filter(|(of, _, taken)| *of == group && taken == path)
                        .count()
                };
                assert_eq!(paths("symmetric") > 0, size > 1, "{report}");
                // The graphs have a segment of their own.
                let windows = usize::from(size > 1) * (1 + usize::from(graph));
                assert_eq!(report.windows[group], windows, "{report}");
            }
        }
        Ok(())
    }
}
