//! What came out of a run, and whether it comes to the same eagerly and on one rank.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use symm_core::{GraphPoolStats, GraphStats, PoolStats};

use super::batches::Captures;
use super::generate::{Job, Run, Steps, most_likely};
use super::options::{Split, VOCABULARY};

/// How far logits may be apart, by their norm. Sums in another order differ by a few units of the
/// last place, 6e-8, at each step.
pub const TOLERANCE: f64 = 1e-4;

/// What one rank did. Printed, it is a table.
#[derive(Clone, Debug)]
pub struct Report {
    /// The rank that reports.
    pub rank: usize,
    /// Ranks of a tensor parallel group.
    pub tp: usize,
    /// Ranks of a context parallel group.
    pub cp: usize,
    /// What it ran on, and why not on GPUs.
    pub machine: String,
    /// Tokens a second.
    pub speed: Speed,
    /// Scopes opened, by group.
    pub scopes: BTreeMap<&'static str, u64>,
    /// Segments with a window, by group.
    pub windows: BTreeMap<&'static str, usize>,
    /// How many collectives ran, in graphs too, by group, operation and path.
    pub collectives: BTreeMap<(&'static str, &'static str, String), u64>,
    /// The pool at the end.
    pub pool: PoolStats,
    /// The prompts and what was generated.
    pub texts: Vec<Vec<u8>>,
    /// The graphs through which it decoded; `None` if they were not asked for.
    pub graphs: Option<Graphs>,
    /// How one rank compares; `None` on other ranks than 0.
    pub alone: Option<Comparison>,
    pub(super) job: String,
    pub(super) prompt: usize,
}

/// Tokens a second, of all sequences together.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Of the prompts.
    pub prefill: f64,
    /// Of what was generated.
    pub decode: f64,
}

/// The graphs of one rank, beside the same work without them.
#[derive(Clone, Debug)]
pub struct Graphs {
    /// By the rows that they compute.
    pub captured: BTreeMap<usize, GraphStats>,
    /// Where they are from.
    pub pool: GraphPoolStats,
    /// Steps of decoding, by the number of sequences.
    pub batches: BTreeMap<usize, Batch>,
    /// How the same ranks compare without graphs.
    pub eager: Comparison,
}

/// Steps with the same number of sequences.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// Time for each token without graphs.
    pub eager: Duration,
    /// Time for each token by replays.
    pub replayed: Duration,
}

/// The same tokens through the same model in another way, without graphs: on one rank, or on all.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// Positions compared, of all sequences together.
    pub positions: usize,
    /// The largest `|a - b| / |b|` of a position's logits.
    pub relative: f64,
    /// The largest difference of two logits.
    pub difference: f64,
    /// Positions with the same most likely token.
    pub same_token: usize,
    /// Tokens a second in that way.
    pub speed: Speed,
}

impl Report {
    pub(super) fn new(
        machine: String,
        split: Split,
        job: &Job,
        run: Run,
        eager: Option<Run>,
        alone: Option<Run>,
    ) -> Result<Self> {
        let compare =
            |other: &Run, whose| compare(&run.logits, &other.logits, whose, Speed::new(job, other));
        let alone = alone
            .map(|alone| compare(&alone, "one rank's"))
            .transpose()?;
        let graphs = match (&run.captures, eager) {
            (Some(captures), Some(eager)) => {
                let comparison = compare(&eager, "those without graphs")?;
                Some(Graphs::new(captures, &run, &eager, comparison))
            }
            _ => None,
        };
        Ok(Self {
            rank: run.rank,
            tp: split.tp,
            cp: split.cp,
            machine,
            speed: Speed::new(job, &run),
            scopes: run.scopes,
            windows: run.windows.into(),
            collectives: run.collectives,
            pool: run.pool,
            texts: run.texts,
            graphs,
            alone,
            job: job.to_string(),
            prompt: job.prompt_len(),
        })
    }
}

impl Speed {
    fn new(job: &Job, run: &Run) -> Self {
        // Also where there was nothing to do.
        let rate =
            |tokens: usize, time: Duration| tokens as f64 / time.as_secs_f64().max(f64::EPSILON);
        let Steps { tokens, took } = run.decoded();
        Self {
            prefill: rate(job.prompts.len() * job.prompt_len(), run.prefill),
            decode: rate(tokens, took),
        }
    }
}

impl Graphs {
    fn new(captures: &Captures, run: &Run, eager: &Run, comparison: Comparison) -> Self {
        let each = |steps: &Steps| steps.took / steps.tokens.max(1) as u32;
        let both = run.decode.iter().zip(eager.decode.values());
        let batch = |((sequences, replayed), eager): ((&usize, &Steps), &Steps)| {
            let times = Batch {
                eager: each(eager),
                replayed: each(replayed),
            };
            (*sequences, times)
        };
        Self {
            captured: captures.graphs.clone(),
            pool: captures.pool.clone(),
            batches: both.map(batch).collect(),
            eager: comparison,
        }
    }
}

/// Fails where the logits are further apart than rounding explains.
fn compare(ours: &[f32], theirs: &[f32], whose: &str, speed: Speed) -> Result<Comparison> {
    let mut comparison = Comparison {
        positions: 0,
        relative: 0.0,
        difference: 0.0,
        same_token: 0,
        speed,
    };
    ensure!(
        ours.len() == theirs.len(),
        "there are {} logits, and {} of {whose}",
        ours.len(),
        theirs.len()
    );
    for (a, b) in ours
        .chunks_exact(VOCABULARY)
        .zip(theirs.chunks_exact(VOCABULARY))
    {
        let differences = || a.iter().zip(b).map(|(a, b)| f64::from(a - b));
        let relative = norm(differences()) / norm(b.iter().copied().map(f64::from));
        // Not `>`, which NaN would pass.
        let agrees = relative <= TOLERANCE;
        ensure!(
            agrees,
            "row {} of the logits is {relative:.1e} from {whose} (limit {TOLERANCE:.0e})",
            comparison.positions
        );
        comparison.positions += 1;
        comparison.relative = comparison.relative.max(relative);
        comparison.difference = differences()
            .map(f64::abs)
            .fold(comparison.difference, f64::max);
        comparison.same_token += usize::from(most_likely(a) == most_likely(b));
    }
    Ok(comparison)
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rounding_passes() {
        let logits: Vec<f32> = (0..VOCABULARY).map(|token| (token as f32).sin()).collect();
        let speed = Speed {
            prefill: 0.0,
            decode: 0.0,
        };
        let relative = |change: &dyn Fn(f32) -> f32| {
            let changed: Vec<f32> = logits.iter().copied().map(change).collect();
            let comparison = compare(&changed, &logits, "one rank's", speed);
            comparison.ok().map(|comparison| comparison.relative)
        };
        assert_eq!(relative(&|logit| logit), Some(0.0));
        assert!(relative(&|logit| logit * 1.000_01).is_some_and(|relative| relative > 5e-6));
        assert_eq!(relative(&|logit| logit * 1.001), None);
        assert_eq!(
            relative(&|logit| if logit == 0.0 { f32::NAN } else { logit }),
            None
        );
    }
}
