//! What to decode, with which model, on which ranks.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{ArgAction, Parser};

use super::kernels::MAX_HEAD_DIM;
use crate::Choice;

/// Bytes are the tokens.
pub(super) const VOCABULARY: usize = 256;

/// The decoder's settings; [`Options::default`] is what it does without arguments.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "decoder",
    about = "Decodes a text file, tensor parallel by context parallel, and checks it on one rank"
)]
pub struct Options {
    /// Where the ranks run; auto takes GPUs where there are two or more
    #[arg(long, value_enum, default_value_t = Choice::Auto)]
    pub backend: Choice,
    /// Ranks in all; by default 4, and at most one a GPU
    #[arg(long)]
    pub ranks: Option<usize>,
    /// Ranks over which heads, the MLP's columns and the vocabulary are split
    #[arg(long)]
    pub tp: Option<usize>,
    /// Ranks over which the positions of the KV cache are split
    #[arg(long)]
    pub cp: Option<usize>,
    /// Transformer blocks
    #[arg(long, default_value_t = 4)]
    pub layers: usize,
    /// Width of the residual stream; the MLP is three times as wide
    #[arg(long, default_value_t = 256)]
    pub hidden: usize,
    /// Query heads
    #[arg(long, default_value_t = 8)]
    pub heads: usize,
    /// Key and value heads
    #[arg(long, default_value_t = 4)]
    pub kv_heads: usize,
    /// Seed of the weights
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Text to continue; by default the repository's README.md, or this example's own source
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// Sequences, each of which takes the next bytes of the file as its prompt
    #[arg(long, default_value_t = 4)]
    pub batch: usize,
    /// Bytes of a prompt
    #[arg(long, default_value_t = 128)]
    pub prompt: usize,
    /// Positions of the prompt that go through the model at once
    #[arg(long, default_value_t = 32)]
    pub chunk: usize,
    /// Tokens to generate for the first sequence; the others end one after another before it
    #[arg(long, default_value_t = 64)]
    pub steps: usize,
    /// Decode through captured graphs, one for each power of two sequences, and eagerly besides
    #[arg(long, action = ArgAction::Set, default_value_t = true, num_args = 0..=1,
          default_missing_value = "true", value_name = "BOOL")]
    pub graph: bool,
    /// Folder of the weights' file, which is written if it is not there; by default the system's
    /// folder for temporary files
    #[arg(long)]
    pub weights: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self::parse_from(["decoder"])
    }
}

/// The sizes of the model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Model {
    pub(super) layers: usize,
    pub(super) hidden: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) seed: u64,
}

impl Model {
    /// Width of the MLP.
    pub(super) fn inner(&self) -> usize {
        3 * self.hidden
    }
}

/// How the ranks are split: neighbours form a group of `tp`, for they talk more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    pub(super) tp: usize,
    pub(super) cp: usize,
}

impl Split {
    pub(super) const ONE: Split = Split { tp: 1, cp: 1 };
}

impl Options {
    /// The model, if its sizes fit together.
    pub(super) fn model(&self) -> Result<Model> {
        let &Self {
            layers,
            hidden,
            heads,
            kv_heads,
            seed,
            ..
        } = self;
        ensure!(
            self.batch > 0 && self.prompt > 0 && self.chunk > 0,
            "--batch, --prompt and --chunk must be at least 1"
        );
        ensure!(
            heads > 0 && hidden.is_multiple_of(2 * heads),
            "--hidden {hidden} must be a multiple of twice the {heads} heads"
        );
        ensure!(
            kv_heads > 0 && heads.is_multiple_of(kv_heads),
            "--heads {heads} must be a multiple of --kv-heads {kv_heads}"
        );
        let head_dim = hidden / heads;
        ensure!(
            (2..=MAX_HEAD_DIM).contains(&head_dim),
            "heads of {head_dim} are not between 2 and {MAX_HEAD_DIM}: change --hidden or --heads"
        );
        Ok(Model {
            layers,
            hidden,
            heads,
            kv_heads,
            head_dim,
            seed,
        })
    }

    /// How many ranks to start where `usual` are to be had.
    pub(super) fn ranks(&self, usual: usize) -> usize {
        match (self.ranks, self.tp, self.cp) {
            (Some(ranks), ..) => ranks,
            (None, Some(tp), Some(cp)) => tp * cp,
            (None, Some(part), None) | (None, None, Some(part)) => {
                usual.next_multiple_of(part.max(1))
            }
            (None, None, None) => usual,
        }
    }

    /// How to split that many ranks.
    pub(super) fn split(&self, ranks: usize) -> Result<Split> {
        let split = match (self.tp, self.cp) {
            (Some(tp), Some(cp)) => Split { tp, cp },
            (Some(tp), None) => Split {
                tp,
                cp: ranks / tp.max(1),
            },
            (None, Some(cp)) => Split {
                tp: ranks / cp.max(1),
                cp,
            },
            (None, None) if ranks.is_multiple_of(4) => Split {
                tp: ranks / 2,
                cp: 2,
            },
            (None, None) => Split { tp: ranks, cp: 1 },
        };
        let Split { tp, cp } = split;
        ensure!(
            ranks > 0 && tp * cp == ranks,
            "{ranks} ranks cannot be split into tp {tp} x cp {cp}"
        );
        for (what, count) in [
            ("query heads", self.heads),
            ("key and value heads", self.kv_heads),
            ("the vocabulary", VOCABULARY),
        ] {
            ensure!(
                count.is_multiple_of(tp),
                "--tp {tp} must divide the {count} of {what}"
            );
        }
        Ok(split)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_split_as_asked_and_by_default() {
        let split = |ranks, tp, cp| {
            Options {
                ranks,
                tp,
                cp,
                ..Options::default()
            }
            .split(ranks.unwrap_or(4))
            .ok()
        };
        assert_eq!(split(None, None, None), Some(Split { tp: 2, cp: 2 }));
        assert_eq!(split(Some(2), None, None), Some(Split { tp: 2, cp: 1 }));
        assert_eq!(split(None, Some(4), None), Some(Split { tp: 4, cp: 1 }));
        assert_eq!(split(Some(2), None, Some(2)), Some(Split { tp: 1, cp: 2 }));
        assert_eq!(
            split(Some(3), None, None),
            None,
            "3 does not divide the heads"
        );
        assert_eq!(split(Some(0), None, None), None);
        assert_eq!(split(None, Some(3), Some(2)), None);
    }
}
