//! What a run did, as a table, and whether one rank alone comes to the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};
use symm_core::PoolStats;

use super::generate::{Job, Run, most_likely};
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
    /// How many collectives ran, by group, operation and path.
    pub collectives: BTreeMap<(&'static str, &'static str, String), u64>,
    /// The pool at the end.
    pub pool: PoolStats,
    /// The prompts and what was generated.
    pub texts: Vec<Vec<u8>>,
    /// How one rank compares; `None` on other ranks than 0.
    pub alone: Option<Comparison>,
    job: String,
    prompt: usize,
}

/// Tokens a second, of all sequences together.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Of the prompts.
    pub prefill: f64,
    /// Of what was generated.
    pub decode: f64,
}

/// The same tokens through the same model on one rank.
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
    /// Tokens a second on one rank.
    pub speed: Speed,
}

impl Report {
    pub(super) fn new(
        machine: String,
        split: Split,
        job: &Job,
        run: Run,
        alone: Option<Comparison>,
    ) -> Self {
        Self {
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
            alone,
            job: job.to_string(),
            prompt: job.prompt_len(),
        }
    }
}

impl Speed {
    fn new(job: &Job, run: &Run) -> Self {
        let rate = |tokens: usize, time: Duration| {
            (job.prompts.len() * tokens) as f64 / time.as_secs_f64()
        };
        Self {
            prefill: rate(job.prompt_len(), run.prefill),
            decode: rate(job.steps, run.decode),
        }
    }
}

impl Comparison {
    pub(super) fn new(job: &Job, sharded: &Run, alone: &Run) -> Result<Self> {
        compare(&sharded.logits, &alone.logits, Speed::new(job, alone))
    }
}

/// Fails where the logits are further apart than rounding explains.
fn compare(sharded: &[f32], alone: &[f32], speed: Speed) -> Result<Comparison> {
    let mut comparison = Comparison {
        positions: 0,
        relative: 0.0,
        difference: 0.0,
        same_token: 0,
        speed,
    };
    ensure!(
        sharded.len() == alone.len(),
        "the ranks gave {} logits, one rank alone {}",
        sharded.len(),
        alone.len()
    );
    for (a, b) in sharded
        .chunks_exact(VOCABULARY)
        .zip(alone.chunks_exact(VOCABULARY))
    {
        let differences = || a.iter().zip(b).map(|(a, b)| f64::from(a - b));
        let relative = norm(differences()) / norm(b.iter().copied().map(f64::from));
        // Not `>`, which NaN would pass.
        let agrees = relative <= TOLERANCE;
        ensure!(
            agrees,
            "row {} of the logits is {relative:.1e} from one rank's (limit {TOLERANCE:.0e})",
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

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, tp, cp, .. } = self;
        writeln!(f, "{}\n{}", self.machine, self.job)?;
        writeln!(f, "ranks: {} = tp {tp} x cp {cp}\n", tp * cp)?;
        self.counts(f, &format!("on rank {rank}"))?;
        self.memory(f)?;
        self.comparison(f)?;
        writeln!(
            f,
            "\nends of the prompts, and what the model (its weights are noise) adds:"
        )?;
        self.texts.iter().try_for_each(|text| {
            let (prompt, added) = text.split_at(self.prompt);
            let end = &prompt[prompt.len().saturating_sub(24)..];
            writeln!(f, "  {} | {}", end.escape_ascii(), added.escape_ascii())
        })
    }
}

impl Report {
    fn counts(&self, f: &mut fmt::Formatter<'_>, title: &str) -> fmt::Result {
        let groups = ["tp", "cp"];
        row(f, title, groups)?;
        row(
            f,
            "scopes opened",
            groups.map(|group| self.scopes.get(group).unwrap_or(&0)),
        )?;
        row(
            f,
            "windows",
            groups.map(|group| self.windows.get(group).unwrap_or(&0)),
        )?;
        let kinds = self
            .collectives
            .keys()
            .map(|(_, operation, path)| (*operation, path));
        for (operation, path) in kinds.collect::<BTreeSet<_>>() {
            let key = |group| (group, operation, path.clone());
            let count = |group| self.collectives.get(&key(group)).unwrap_or(&0);
            row(f, &format!("{operation}, {path}"), groups.map(count))?;
        }
        writeln!(f)
    }

    fn memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pool = &self.pool;
        let peak: u64 = pool.arenas.iter().map(|arena| arena.peak_live_bytes).sum();
        let ordinary = pool.plain_live_bytes;
        row(f, "bytes", ["now", "at most"])?;
        let reserved = format!("reserved, in {} segment(s)", pool.segments);
        row(f, &reserved, [pool.reserved_bytes; 2])?;
        row(f, "in use", [pool.live_bytes(), peak])?;
        row(
            f,
            "ordinary memory, for weights and KV cache",
            [&ordinary.to_string(), ""],
        )?;
        writeln!(f)
    }

    fn comparison(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(alone) = &self.alone else {
            return Ok(());
        };
        let speeds = [self.speed, alone.speed];
        row(f, "tokens a second", ["sharded", "one rank"])?;
        row(f, "prompts", speeds.map(|speed| speed.prefill.round()))?;
        row(f, "generated", speeds.map(|speed| speed.decode.round()))?;
        let Comparison {
            positions,
            relative,
            difference,
            same_token,
            ..
        } = alone;
        writeln!(
            f,
            "\nlogits of {positions} positions agree with those of one rank:"
        )?;
        writeln!(
            f,
            "  {relative:.1e} apart at most, relative to their norm (limit {TOLERANCE:.0e}),"
        )?;
        writeln!(
            f,
            "  no logit by more than {difference:.1e}, {same_token} times the same next token"
        )
    }
}

/// A line of the table: a label and two columns.
fn row(f: &mut fmt::Formatter<'_>, label: &str, [a, b]: [impl fmt::Display; 2]) -> fmt::Result {
    writeln!(f, "{label:<46}{a:>10}{b:>10}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rounding_passes() {
        let logits: Vec<f32> = (0..VOCABULARY).map(|token| (token as f32).sin()).collect();
        let relative = |change: &dyn Fn(f32) -> f32| {
            let changed: Vec<f32> = logits.iter().copied().map(change).collect();
            let comparison = compare(
                &changed,
                &logits,
                Speed {
                    prefill: 0.0,
                    decode: 0.0,
                },
            );
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
