//! Steps of decoding, for batches that shrink: padded to one of a few sizes, each of which is
//! captured once.

use std::collections::BTreeMap;
use std::iter;
use std::rc::Rc;
use std::sync::Arc;

use symm_core::{CapturedCall, Graph, GraphPool, GraphPoolStats, GraphStats, Result};

use super::inputs::{Inputs, Row};
use super::kernels::Compute;
use super::model::{Decoder, Logits};
use super::options::VOCABULARY;
use super::rank::{Phase, Rank};

/// A step for every size of a batch.
pub(super) struct Batches<B: Compute> {
    rank: Rc<Rank<B>>,
    /// By the rows that they compute.
    steps: BTreeMap<usize, Step<B>>,
    /// Where the graphs are from, if there are any: what a step needs for a while, all share.
    graphs: Option<GraphPool<B>>,
}

struct Step<B: Compute> {
    inputs: Inputs<B>,
    captured: Option<Captured<B>>,
}

struct Captured<B: Compute> {
    graph: Graph<Logits<B>, B>,
    /// The collectives that every launch runs.
    calls: Vec<CapturedCall>,
}

/// The graphs at one moment.
#[derive(Clone, Debug)]
pub(super) struct Captures {
    /// By the rows that they compute.
    pub(super) graphs: BTreeMap<usize, GraphStats>,
    pub(super) pool: GraphPoolStats,
}

impl<B: Compute> Batches<B> {
    /// Steps for up to `batch` sequences, run once each. With graphs, a few sizes have to do, and
    /// smaller batches are padded; without, there is one for each.
    pub(super) fn new(
        rank: &Rc<Rank<B>>,
        decoder: &mut Decoder<B>,
        batch: usize,
        graphs: bool,
    ) -> Result<Self> {
        let mut batches = Self {
            rank: Rc::clone(rank),
            steps: BTreeMap::new(),
            graphs: graphs.then(|| GraphPool::new(rank.world.pool())),
        };
        let sizes = if graphs {
            buckets(batch).collect()
        } else {
            (1..=batch).collect::<Vec<_>>()
        };
        for rows in sizes {
            let inputs = Inputs::new(rank.world.pool(), rows, 1)?;
            let captured = match &batches.graphs {
                Some(graphs) => Some(capture(graphs, rank, decoder, &inputs)?),
                None => {
                    decoder.forward(&inputs)?;
                    None
                }
            };
            batches.steps.insert(rows, Step { inputs, captured });
        }
        Ok(batches)
    }

    /// The logits of the rows, which are of the first sequences, one of each.
    pub(super) fn step(&mut self, decoder: &mut Decoder<B>, rows: &[Row]) -> Result<Vec<f32>> {
        let Some((_, step)) = self.steps.range_mut(rows.len()..).next() else {
            return Ok(Vec::new()); // there are steps for all sequences
        };
        step.inputs.write(rows)?;
        let mut logits = match &mut step.captured {
            Some(Captured { graph, calls }) => {
                graph.launch()?;
                self.rank.replayed(calls);
                decoder.read(graph.output())?
            }
            None => {
                let logits = decoder.forward(&step.inputs)?;
                decoder.read(&logits)?
            }
        };
        logits.truncate(rows.len() * VOCABULARY);
        Ok(logits)
    }

    /// The graphs, if there are any.
    pub(super) fn captures(&self) -> Option<Captures> {
        let captured = |(rows, step): (&usize, &Step<B>)| {
            let captured = step.captured.as_ref()?;
            Some((*rows, captured.graph.stats()))
        };
        self.graphs.as_ref().map(|pool| Captures {
            graphs: self.steps.iter().filter_map(captured).collect(),
            pool: pool.stats(),
        })
    }
}

/// Powers of two, and the whole batch.
fn buckets(batch: usize) -> impl Iterator<Item = usize> {
    let powers = iter::successors(Some(1), |size| Some(2 * size));
    powers.take_while(move |size| *size < batch).chain([batch])
}

/// Captures the step that reads these inputs. The first pass is what warms it up.
fn capture<B: Compute>(
    graphs: &GraphPool<B>,
    rank: &Rank<B>,
    decoder: &mut Decoder<B>,
    inputs: &Inputs<B>,
) -> Result<Captured<B>> {
    let before = rank.phase.get();
    let mut graph = graphs.capture(rank.world.stream(), |pass| {
        rank.phase.set(Phase::from(pass));
        decoder.forward(inputs)
    })?;
    rank.phase.set(before);
    graph.keep(Arc::clone(&rank.kernels));
    let calls = graph.stats().calls;
    Ok(Captured { graph, calls })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_batch_has_a_bucket_and_none_is_larger_than_the_whole() {
        for (batch, sizes) in [
            (1, vec![1]),
            (2, vec![1, 2]),
            (4, vec![1, 2, 4]),
            (6, vec![1, 2, 4, 6]),
        ] {
            assert_eq!(buckets(batch).collect::<Vec<_>>(), sizes);
        }
    }
}
