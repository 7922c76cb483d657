//! One rank's run: the prompts in chunks, then one token of each sequence after another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use symm_core::{GroupTag, PoolStats, Result, World};

use super::batches::{Batches, Captures};
use super::checkpoint::Checkpoint;
use super::inputs::{Inputs, Row};
use super::kernels::Compute;
use super::model::Decoder;
use super::options::{Model, Split, VOCABULARY};
use super::rank::{Collectives, Phase, Rank};
use super::{Cp, Tp};

/// What is to be decoded.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) model: Model,
    /// Where the text is from.
    pub(super) source: String,
    pub(super) checkpoint: Checkpoint,
    /// As many bytes of each sequence.
    pub(super) prompts: Vec<Vec<u8>>,
    pub(super) chunk: usize,
    /// Tokens to generate for the first sequence.
    pub(super) steps: usize,
}

/// What one rank did.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) rank: usize,
    /// The prompts and what was generated.
    pub(super) texts: Vec<Vec<u8>>,
    /// Of every position, in the order in which they went through the model: `[rows][VOCABULARY]`.
    pub(super) logits: Vec<f32>,
    pub(super) prefill: Duration,
    /// Steps of decoding, by the number of sequences.
    pub(super) decode: BTreeMap<usize, Steps>,
    /// The graphs through which it decoded, if it did.
    pub(super) captures: Option<Captures>,
    pub(super) scopes: BTreeMap<&'static str, u64>,
    pub(super) collectives: Collectives,
    /// Segments with a window, by group.
    pub(super) windows: [(&'static str, usize); 2],
    pub(super) pool: PoolStats,
}

/// Steps of as many sequences.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Steps {
    pub(super) tokens: usize,
    pub(super) took: Duration,
}

impl Job {
    /// Bytes of each prompt.
    pub(super) fn prompt_len(&self) -> usize {
        self.prompts.first().map_or(0, Vec::len)
    }

    /// The parts in which the prompts go through the model.
    fn chunks(&self) -> impl Iterator<Item = Range<usize>> {
        let prompt = self.prompt_len();
        (0..prompt)
            .step_by(self.chunk)
            .map(move |start| start..prompt.min(start + self.chunk))
    }

    /// Tokens to generate for the sequence: fewer for each than for the one before.
    pub(super) fn steps_of(&self, sequence: usize) -> usize {
        let batch = self.prompts.len();
        (self.steps * (batch - sequence)).div_ceil(batch)
    }

    /// How many sequences go on at the step: those at the front.
    fn going_on(&self, step: usize) -> usize {
        (0..self.prompts.len())
            .take_while(|sequence| self.steps_of(*sequence) > step)
            .count()
    }

    /// Continues `texts`, the prompts or longer, greedily; the steps are captured if `graphs` says
    /// so. Bytes that are there already are taken as they are.
    pub(super) fn run<B: Compute>(
        &self,
        world: &Rc<World<B>>,
        kernels: &Arc<B::Kernels>,
        split: Split,
        mut texts: Vec<Vec<u8>>,
        graphs: bool,
    ) -> Result<Run> {
        let context = self.prompt_len() + self.steps;
        let rank = Rc::new(Rank::new(world, kernels, split)?);
        let mut decoder = Decoder::load(
            &rank,
            &self.checkpoint.loader(&rank)?,
            &self.model,
            texts.len(),
            context,
        )?;

        // Every shape once: kernels are loaded, the arenas grow and are registered. After that,
        // growing would be a mistake.
        for len in self
            .chunks()
            .map(|chunk| chunk.len())
            .collect::<BTreeSet<_>>()
        {
            prefill(&rank, &mut decoder, &texts, 0..len)?;
        }
        let mut batches = Batches::new(&rank, &mut decoder, texts.len(), graphs)?;
        rank.phase.set(Phase::Running);
        world.pool().seal();

        let mut logits = Vec::with_capacity(texts.len() * context * VOCABULARY);
        let mut latest = Vec::new();
        let started = Instant::now();
        for chunk in self.chunks() {
            latest = prefill(&rank, &mut decoder, &texts, chunk)?;
            logits.extend_from_slice(&latest);
        }
        let took = started.elapsed();

        let mut latest = last_rows(&latest, texts.len());
        let mut decode = BTreeMap::<usize, Steps>::new();
        for (step, position) in (self.prompt_len()..context).enumerate() {
            let started = Instant::now();
            let sequences = self.going_on(step);
            let texts = &mut texts[..sequences];
            for (text, logits) in texts.iter_mut().zip(latest.chunks_exact(VOCABULARY)) {
                if text.len() == position {
                    text.push(most_likely(logits));
                }
            }
            let rows: Vec<Row> = texts
                .iter()
                .map(|text| (text[position], position))
                .collect();
            latest = batches.step(&mut decoder, &rows)?;
            logits.extend_from_slice(&latest);
            let steps = decode.entry(sequences).or_default();
            steps.tokens += sequences;
            steps.took += started.elapsed();
        }
        Ok(Run {
            rank: world.rank(),
            texts,
            logits,
            prefill: took,
            decode,
            captures: batches.captures(),
            scopes: rank.scopes(),
            collectives: rank.collectives(),
            windows: [(Tp::NAME, rank.tp.windows()), (Cp::NAME, rank.cp.windows())],
            pool: world.pool().stats(),
        })
    }
}

impl Run {
    /// All steps of decoding together.
    pub(super) fn decoded(&self) -> Steps {
        let add = |sum: Steps, steps: &Steps| Steps {
            tokens: sum.tokens + steps.tokens,
            took: sum.took + steps.took,
        };
        self.decode.values().fold(Steps::default(), add)
    }
}

/// The logits of these positions of all sequences.
fn prefill<B: Compute>(
    rank: &Rank<B>,
    decoder: &mut Decoder<B>,
    texts: &[Vec<u8>],
    chunk: Range<usize>,
) -> Result<Vec<f32>> {
    let rows: Vec<Row> = texts
        .iter()
        .flat_map(|text| chunk.clone().map(|position| (text[position], position)))
        .collect();
    let mut inputs = Inputs::new(rank.world.pool(), texts.len(), chunk.len())?;
    inputs.write(&rows)?;
    let logits = decoder.forward(&inputs)?;
    decoder.read(&logits)
}

/// The logits of each sequence's last row.
fn last_rows(logits: &[f32], sequences: usize) -> Vec<f32> {
    logits
        .chunks_exact(logits.len() / sequences)
        .flat_map(|rows| &rows[rows.len() - VOCABULARY..])
        .copied()
        .collect()
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Model {
            layers,
            hidden,
            heads,
            kv_heads,
            ..
        } = self.model;
        let million = self.model.parameters() as f64 / 1e6;
        writeln!(
            f,
            "model: {million:.1} M parameters, {layers} layers, hidden {hidden}, {heads} heads over \
             {kv_heads} of keys and values, f32"
        )?;
        let (batch, prompt) = (self.prompts.len(), self.prompt_len());
        let steps: Vec<String> = (0..batch)
            .map(|sequence| self.steps_of(sequence).to_string())
            .collect();
        write!(
            f,
            "text: {batch} x {prompt} bytes of {}, continued by {} tokens",
            self.source,
            steps.join(", ")
        )
    }
}

/// The token that greedy decoding takes.
pub(super) fn most_likely(logits: &[f32]) -> u8 {
    let best = logits
        .iter()
        .enumerate()
        .max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.map_or(0, |(token, _)| token as u8)
}
