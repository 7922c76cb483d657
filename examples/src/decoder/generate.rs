//! One rank's run: the prompt in chunks, then one token after another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use symm_core::{GroupTag, PoolStats, Result, World};

use super::checkpoint::Checkpoint;
use super::kernels::Compute;
use super::layers::Chunk;
use super::model::Decoder;
use super::options::{Model, Split, VOCABULARY};
use super::rank::{Collectives, Rank};
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
    pub(super) decode: Duration,
    pub(super) scopes: BTreeMap<&'static str, u64>,
    pub(super) collectives: Collectives,
    /// Segments with a window, by group.
    pub(super) windows: [(&'static str, usize); 2],
    pub(super) pool: PoolStats,
}

impl Job {
    /// Bytes of each prompt.
    pub(super) fn prompt_len(&self) -> usize {
        self.prompts.first().map_or(0, Vec::len)
    }

    /// The parts in which the prompt goes through the model.
    fn chunks(&self) -> impl Iterator<Item = Chunk> {
        let prompt = self.prompt_len();
        (0..prompt).step_by(self.chunk).map(move |start| Chunk {
            start,
            len: self.chunk.min(prompt - start),
        })
    }

    /// The steps that follow.
    fn steps(&self) -> impl Iterator<Item = Chunk> {
        let prompt = self.prompt_len();
        (prompt..prompt + self.steps).map(|start| Chunk { start, len: 1 })
    }

    /// Continues `texts`, the prompts or longer, greedily. Bytes that are there already are taken
    /// as they are.
    pub(super) fn run<B: Compute>(
        &self,
        world: World<B>,
        split: Split,
        mut texts: Vec<Vec<u8>>,
    ) -> Result<Run> {
        let context = self.prompt_len() + self.steps;
        let rank = Rc::new(Rank::new(world, split)?);
        let mut decoder = Decoder::load(
            &rank,
            &self.checkpoint.loader(&rank)?,
            &self.model,
            texts.len(),
            context,
        )?;

        // Every shape once: kernels are loaded, the arena grows and is registered. After that,
        // growing would be a mistake.
        rank.warming_up.set(true);
        for len in self
            .chunks()
            .chain(self.steps())
            .map(|chunk| chunk.len)
            .collect::<BTreeSet<_>>()
        {
            let chunk = Chunk { start: 0, len };
            decoder.forward(&tokens(&texts, chunk), chunk)?;
        }
        rank.warming_up.set(false);
        rank.world.pool().seal();

        let mut logits = Vec::with_capacity(texts.len() * context * VOCABULARY);
        let mut latest = Vec::new();
        let started = Instant::now();
        for chunk in self.chunks() {
            latest = decoder.forward(&tokens(&texts, chunk), chunk)?;
            logits.extend_from_slice(&latest);
        }
        let prefill = started.elapsed();
        for chunk in self.steps() {
            let rows = latest.chunks_exact(latest.len() / texts.len());
            for (text, rows) in texts
                .iter_mut()
                .zip(rows)
                .filter(|(text, _)| text.len() == chunk.start)
            {
                text.push(most_likely(&rows[rows.len() - VOCABULARY..]));
            }
            latest = decoder.forward(&tokens(&texts, chunk), chunk)?;
            logits.extend_from_slice(&latest);
        }
        Ok(Run {
            rank: rank.world.rank(),
            texts,
            logits,
            prefill,
            decode: started.elapsed() - prefill,
            scopes: rank.scopes(),
            collectives: rank.collectives(),
            windows: [(Tp::NAME, rank.tp.windows()), (Cp::NAME, rank.cp.windows())],
            pool: rank.world.pool().stats(),
        })
    }
}

/// The chunk's tokens, sequence by sequence.
fn tokens(texts: &[Vec<u8>], chunk: Chunk) -> Vec<u8> {
    texts
        .iter()
        .flat_map(|text| &text[chunk.start..][..chunk.len])
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
        write!(
            f,
            "text: {batch} x {prompt} bytes of {}, each continued by {} tokens",
            self.source, self.steps
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
