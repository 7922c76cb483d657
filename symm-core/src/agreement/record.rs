//! What a rank states at an agreed point, as words of shared memory and as text.

use std::fmt;

use crate::backend::call::{Op, ReduceOp};
use crate::element::Dtype;
use crate::group::path::{Path, Reason};
use crate::pool::placement::Position;
use crate::site::Site;

/// What a rank is about to do, where, and what its arena looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) what: What,
    pub(crate) arena: ArenaMark,
    pub(crate) place: Place,
}

/// What counts as a point of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A collective, or a batch of several in one NCCL group.
    Call(Stated),
    /// All ranks meet, to register what is pending.
    Round {
        /// Segments without a window.
        segments: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// The end of a capture, where graphs are compared.
    Capture,
    /// A replay of the group's graph of this number.
    GraphLaunch { graph: u64 },
    /// A round that gives empty segments back.
    Trim,
    /// A round that measures paths.
    Calibration,
    /// The world is about to be suspended.
    Suspend,
    /// A scope was left by an error or a panic.
    Left,
}

/// A collective as peers see it. Of a batch, its first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stated {
    pub(crate) op: Op,
    pub(crate) dtype: Dtype,
    pub(crate) bytes: u64,
    pub(crate) path: Path,
    /// It runs on the twin communicator.
    pub(crate) twin: bool,
    /// Where in its window the operand lies that peers address; `None` on plain paths.
    pub(crate) window: Option<Position>,
    /// Calls of the batch beside this one.
    pub(crate) more: u32,
}

/// The history of an arena's allocations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ArenaMark {
    pub(crate) digest: u64,
    pub(crate) allocations: u64,
}

/// Words of the longest file name that is kept; of longer ones it is the end.
const FILE: usize = 6;

/// A line of a source file, as it can be told to another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    line: u32,
    file: [u64; FILE],
}

/// A record in shared memory. The first [`COMPARED`] words are what ranks have to have in common;
/// the others are for messages.
pub(crate) type Words = [u64; WORDS];
pub(crate) const WORDS: usize = 9 + FILE;
pub(crate) const COMPARED: usize = 7;

/// Bit positions in the first word.
mod at {
    pub(super) const KIND: u32 = 0;
    pub(super) const OPERATION: u32 = 8;
    pub(super) const REDUCTION: u32 = 16;
    pub(super) const DTYPE: u32 = 24;
    pub(super) const CLASS: u32 = 32;
    pub(super) const TWIN: u32 = 40;
    pub(super) const WINDOW: u32 = 41;
}

/// The bits of the first word that say which way NCCL is told to go.
#[cfg(test)]
pub(super) const PATH_BITS: u64 = 0xFF << at::CLASS;

const REDUCTIONS: [ReduceOp; 5] = [
    ReduceOp::Sum,
    ReduceOp::Prod,
    ReduceOp::Max,
    ReduceOp::Min,
    ReduceOp::Avg,
];

const DTYPES: [(Dtype, &str); 10] = [
    (Dtype::I8, "i8"),
    (Dtype::U8, "u8"),
    (Dtype::I32, "i32"),
    (Dtype::U32, "u32"),
    (Dtype::I64, "i64"),
    (Dtype::U64, "u64"),
    (Dtype::F16, "f16"),
    (Dtype::F32, "f32"),
    (Dtype::F64, "f64"),
    (Dtype::Bf16, "bf16"),
];

impl From<(u64, u64)> for ArenaMark {
    /// Of an arena's history: its digest, and how many allocations it counts.
    fn from((digest, allocations): (u64, u64)) -> Self {
        Self {
            digest,
            allocations,
        }
    }
}

impl Record {
    /// The word of a batch's first call that counts the calls beside it, in its lower half.
    pub(crate) const MORE: usize = 1;

    #[inline]
    pub(crate) fn new(what: What, arena: ArenaMark, site: Site) -> Self {
        Self {
            what,
            arena,
            place: site.into(),
        }
    }

    /// The words of the record. What differs between two records that are not equal lies in the
    /// compared words, but for the place and the reason of a plain path: ranks may take the same
    /// plain kernel for different reasons.
    #[inline]
    pub(crate) fn words(&self) -> Words {
        let mut words = [0; WORDS];
        let mut reason = 0;
        match self.what {
            What::Call(call) => {
                let (operation, reduction, rank) = split(call.op);
                let (class, why) = match call.path {
                    Path::Symmetric => (1, 0),
                    // Here NCCL is kept from the window, where it would take another kernel.
                    Path::Plain(Reason::Defect) => (2, Reason::Defect as u64),
                    Path::Plain(reason) => (3, reason as u64),
                };
                reason = why;
                words[0] = 1 << at::KIND
                    | operation << at::OPERATION
                    | reduction << at::REDUCTION
                    | (call.dtype as u64) << at::DTYPE
                    | class << at::CLASS
                    | u64::from(call.twin) << at::TWIN
                    | u64::from(call.window.is_some()) << at::WINDOW;
                words[Self::MORE] = rank << 32 | u64::from(call.more);
                words[2] = call.bytes;
                if let Some(position) = call.window {
                    words[3] = position.segment as u64;
                    words[4] = position.offset;
                }
            }
            What::Round { segments, bytes } => {
                words[0] = 2;
                words[2] = bytes;
                words[3] = segments;
            }
            What::Capture => words[0] = 3,
            What::GraphLaunch { graph } => {
                words[0] = 4;
                words[2] = graph;
            }
            What::Trim => words[0] = 5,
            What::Left => words[0] = 6,
            What::Calibration => words[0] = 7,
            What::Suspend => words[0] = 8,
        }
        words[5] = self.arena.digest;
        words[6] = self.arena.allocations;
        words[7] = u64::from(self.place.line) | reason << 32;
        words[9..].copy_from_slice(&self.place.file);
        words
    }

    /// The record of the words; `None` for words that no record has.
    pub(crate) fn of(words: &Words) -> Option<Self> {
        let byte = |shift: u32| words[0] >> shift & 0xFF;
        let position = Position {
            segment: words[3] as usize,
            offset: words[4],
        };
        let what = match byte(at::KIND) {
            1 => What::Call(Stated {
                op: join(byte(at::OPERATION), byte(at::REDUCTION), words[1] >> 32)?,
                dtype: DTYPES.get(byte(at::DTYPE) as usize)?.0,
                bytes: words[2],
                path: match byte(at::CLASS) {
                    1 => Path::Symmetric,
                    2 | 3 => Path::Plain(*Reason::ALL.get((words[7] >> 32) as usize)?),
                    _ => return None,
                },
                twin: words[0] >> at::TWIN & 1 == 1,
                window: (words[0] >> at::WINDOW & 1 == 1).then_some(position),
                more: words[Self::MORE] as u32,
            }),
            2 => What::Round {
                segments: words[3],
                bytes: words[2],
            },
            3 => What::Capture,
            4 => What::GraphLaunch { graph: words[2] },
            5 => What::Trim,
            6 => What::Left,
            7 => What::Calibration,
            8 => What::Suspend,
            _ => return None,
        };
        let mut file = [0; FILE];
        file.copy_from_slice(&words[9..]);
        Some(Self {
            what,
            arena: ArenaMark {
                digest: words[5],
                allocations: words[6],
            },
            place: Place {
                line: words[7] as u32,
                file,
            },
        })
    }
}

/// Operation, reduction, and the root or peer.
fn split(op: Op) -> (u64, u64, u64) {
    let (code, reduction, rank) = match op {
        Op::AllReduce(op) => (1, op as u64, 0),
        Op::AllGather => (2, 0, 0),
        Op::ReduceScatter(op) => (3, op as u64, 0),
        Op::Broadcast { root } => (4, 0, root),
        Op::Reduce { op, root } => (5, op as u64, root),
        Op::AllToAll => (6, 0, 0),
        Op::Gather { root } => (7, 0, root),
        Op::Scatter { root } => (8, 0, root),
        Op::Send { peer } => (9, 0, peer),
        Op::Recv { peer } => (10, 0, peer),
    };
    (code, reduction, rank as u64)
}

fn join(code: u64, reduction: u64, rank: u64) -> Option<Op> {
    let reduction = *REDUCTIONS.get(reduction as usize)?;
    let rank = rank as usize;
    Some(match code {
        1 => Op::AllReduce(reduction),
        2 => Op::AllGather,
        3 => Op::ReduceScatter(reduction),
        4 => Op::Broadcast { root: rank },
        5 => Op::Reduce {
            op: reduction,
            root: rank,
        },
        6 => Op::AllToAll,
        7 => Op::Gather { root: rank },
        8 => Op::Scatter { root: rank },
        9 => Op::Send { peer: rank },
        10 => Op::Recv { peer: rank },
        _ => return None,
    })
}

impl Place {
    #[cfg(test)]
    pub(super) const NOWHERE: Place = Place {
        line: 0,
        file: [0; FILE],
    };

    /// A line, and the last 48 bytes of its file's name.
    #[inline]
    pub(crate) fn new(line: u32, file: &str) -> Self {
        let bytes = file.as_bytes();
        let mut tail = [0; 8 * FILE];
        match bytes.last_chunk() {
            Some(last) => tail = *last,
            None => tail[..bytes.len()].copy_from_slice(bytes),
        }
        let mut words = [0; FILE];
        for (word, bytes) in words.iter_mut().zip(tail.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Self { line, file: words }
    }
}

impl From<Site> for Place {
    fn from(site: Site) -> Self {
        Self::new(site.line(), site.file())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: Vec<u8> = self.file.iter().flat_map(|w| w.to_le_bytes()).collect();
        let length = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        let name = String::from_utf8_lossy(&bytes[..length]);
        match name.split_once('/') {
            // Cut off somewhere: from the next folder on.
            Some((_, rest)) if length == bytes.len() => write!(f, "../{rest}:{}", self.line),
            _ => write!(f, "{name}:{}", self.line),
        }
    }
}

/// The record in words: `all_reduce of 4096 bytes (f32, sum, symmetric at offset 512 of segment 0)
/// at src/moe.rs:88`.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Call(call) => call.fmt(f)?,
            What::Round { segments: 0, .. } => f.write_str("a round with nothing pending")?,
            What::Round { segments, bytes } => {
                let s = if *segments == 1 { "" } else { "s" };
                write!(
                    f,
                    "a round with {segments} segment{s} pending ({bytes} bytes)"
                )?;
            }
            What::Capture => f.write_str("the end of a capture")?,
            What::GraphLaunch { graph } => write!(f, "a launch of graph {graph}")?,
            What::Trim => f.write_str("a trim")?,
            What::Calibration => f.write_str("a calibration")?,
            What::Suspend => f.write_str("world.suspend")?,
            What::Left => f.write_str("a scope left by an error or a panic")?,
        }
        write!(f, " at {}", self.place)
    }
}

impl fmt::Display for Stated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.op.name())?;
        match self.op {
            Op::Broadcast { root } | Op::Scatter { root } => write!(f, " from rank {root}")?,
            Op::Reduce { root, .. } | Op::Gather { root } => write!(f, " to rank {root}")?,
            Op::Send { peer } => write!(f, " to rank {peer}")?,
            Op::Recv { peer } => write!(f, " from rank {peer}")?,
            _ => {}
        }
        let dtype = DTYPES.get(self.dtype as usize).map_or("?", |entry| entry.1);
        write!(f, " of {} bytes ({dtype}, ", self.bytes)?;
        if let Op::AllReduce(op) | Op::ReduceScatter(op) | Op::Reduce { op, .. } = self.op {
            write!(f, "{}, ", format!("{op:?}").to_lowercase())?;
        }
        write!(f, "{}", self.path)?;
        if let Some(Position { segment, offset }) = self.window {
            write!(f, " at offset {offset} of segment {segment}")?;
        }
        f.write_str(if self.twin { ", on the twin)" } else { ")" })?;
        match self.more {
            0 => Ok(()),
            1 => f.write_str(" and 1 call more in its batch"),
            more => write!(f, " and {more} calls more in its batch"),
        }
    }
}
