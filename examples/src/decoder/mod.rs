//! A small transformer decoder, tensor parallel by context parallel, on GPUs or on ranks that are
//! threads.
//!
//! | file | what it shows |
//! |---|---|
//! | `layers` | the annotated layers: whose memory a collective works on |
//! | `model`, `generate` | the decoder of one rank, and greedy decoding |
//! | `checkpoint` | a safetensors file, of which each rank reads its slices |
//! | `kernels` | the arithmetic on both backends; it knows nothing of groups |
//! | `rank` | what the layers of a rank share |
//! | `options`, `report` | the command line; the table, and the comparison with one rank |

mod checkpoint;
mod generate;
mod kernels;
mod layers;
mod model;
mod options;
mod rank;
mod report;

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use symm_core::{Cuda, Host, World, groups};

pub use options::{Choice, Options};
pub use report::{Comparison, Report, Speed, TOLERANCE};

use checkpoint::Checkpoint;
use generate::Job;
use kernels::Compute;
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

/// Decodes as the options say, and checks every position's logits against one rank. Where `RANK`
/// and `WORLD_SIZE` are set, as by torchrun, this process is one rank of many; else the ranks are
/// threads of this process.
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
    let launched = env::var_os("RANK").is_some() && env::var_os("WORLD_SIZE").is_some();
    let (split, sharded) = if launched {
        let world = World::<B>::from_env()?;
        ensure!(
            options.ranks.is_none_or(|ranks| ranks == world.size()),
            "--ranks differs from WORLD_SIZE, which is {}",
            world.size()
        );
        let split = options.split(world.size())?;
        (split, job.run(world, split, job.prompts.clone())?)
    } else {
        let ranks = options.ranks(usual);
        let split = options.split(ranks)?;
        let mut runs = World::<B>::run(ranks, |world| job.run(world, split, job.prompts.clone()))?;
        ensure!(
            runs.iter().all(|run| run.texts == runs[0].texts),
            "the ranks generated different texts"
        );
        (split, runs.swap_remove(0))
    };
    let alone = match sharded.rank {
        0 => {
            // The sharded run's tokens, whatever this one would choose: a difference shows where it
            // arises.
            let runs =
                World::<B>::run(1, |world| job.run(world, Split::ONE, sharded.texts.clone()))?;
            Some(Comparison::new(&job, &sharded, &runs[0])?)
        }
        _ => None,
    };
    Ok(Report::new(machine.into(), split, &job, sharded, alone))
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
            prompt: 11,
            chunk: 4,
            steps: 5,
            ..Options::default()
        };
        for (tp, cp) in [(2, 2), (4, 1), (1, 3)] {
            let report = run(&Options {
                tp: Some(tp),
                cp: Some(cp),
                ..tiny.clone()
            })?;
            assert_eq!((report.tp, report.cp), (tp, cp));
            assert_eq!(
                report.alone.map(|alone| alone.positions),
                Some(2 * (11 + 5))
            );
            assert!(report.texts.iter().all(|text| text.len() == 11 + 5));
            for (group, size) in [("tp", tp), ("cp", cp)] {
                let paths = |path| {
                    report
                        .collectives
                        .keys()
                        .filter(|(of, _, taken)| *of == group && taken == path)
                        .count()
                };
                assert_eq!(paths("symmetric") > 0, size > 1, "{report}");
                assert_eq!(report.windows[group], usize::from(size > 1), "{report}");
            }
        }
        Ok(())
    }
}
