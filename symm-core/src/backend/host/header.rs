//! What ranks tell each other about one collective call, and what must be equal.
//!
//! The rules for windows are NCCL's, written down here on purpose apart from the crate's own choice
//! of a path: this is what that choice is tested against.

use crate::backend::call::{Call, Op, ReduceOp};
use crate::element::Dtype;
use crate::error::{Error, Result, Rule};

/// Where an operand lies: which window of the communicator, and where in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) window: u64,
    pub(super) offset: u64,
}

/// One rank's call, as it is sent ahead of its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) op: Op,
    pub(super) dtype: Dtype,
    pub(super) count: u64,
    /// NCCL would take a kernel that reaches into its peers' windows.
    pub(super) symmetric: bool,
    /// The operands that peers address in that kernel: send, then receive.
    pub(super) addressed: [Option<Place>; 2],
}

impl Header {
    /// Bytes of an encoded header; data follows at this offset.
    pub(super) const BYTES: usize = 56;

    /// The header of a call whose operands lie in these windows, in a group of `ranks`.
    pub(super) fn new(
        call: &Call,
        ranks: usize,
        version: u32,
        send: Option<Place>,
        recv: Option<Place>,
    ) -> Self {
        let symmetric =
            ranks > 1 && !call.avoid_windows && has_kernel(call.op, call.dtype, version) && {
                let both = send.is_some() && recv.is_some();
                match call.op {
                    Op::AllGather if version >= 22902 => recv.is_some(),
                    Op::ReduceScatter(_) if version >= 22902 => send.is_some(),
                    _ => both,
                }
            };
        let addressed = match call.op {
            Op::AllReduce(_) => [send, recv],
            Op::ReduceScatter(_) => [send, None],
            Op::AllGather => [None, recv],
            _ => [None, None],
        };
        Self {
            op: call.op,
            dtype: call.dtype,
            count: call.count as u64,
            symmetric,
            addressed,
        }
    }

    /// What runs on these versions only because nothing refuses it: NCCL chooses a kernel that was
    /// never built.
    pub(super) fn check_defects(&self, version: u32, in_windows: bool) -> Result<()> {
        if self.op.is_exchange() && in_windows && (22700..22902).contains(&version) {
            let why = "before NCCL 2.29.2 later collectives on that memory follow a null pointer: use a communicator without windows";
            return Err(Error::Unsupported {
                what: "sending or receiving memory in windows",
                why: why.into(),
            });
        }
        if self.symmetric
            && self.op == Op::AllReduce(ReduceOp::Avg)
            && (23003..=23007).contains(&version)
        {
            let why = "NCCL 2.30.3 to 2.30.7 choose a kernel that does not exist: avoid the windows, or sum and scale";
            return Err(Error::Unsupported {
                what: "all_reduce with Avg on windows",
                why: why.into(),
            });
        }
        Ok(())
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let (op, reduce, root) = match self.op {
            Op::AllReduce(op) => (0, op as u64, 0),
            Op::AllGather => (1, 0, 0),
            Op::ReduceScatter(op) => (2, op as u64, 0),
            Op::Broadcast { root } => (3, 0, root),
            Op::Reduce { op, root } => (4, op as u64, root),
            Op::AllToAll => (5, 0, 0),
            Op::Gather { root } => (6, 0, root),
            Op::Scatter { root } => (7, 0, root),
            Op::Send { peer } => (8, 0, peer),
            Op::Recv { peer } => (9, 0, peer),
        };
        let [send, recv] = self.addressed;
        let flags = u64::from(self.symmetric)
            | u64::from(send.is_some()) << 1
            | u64::from(recv.is_some()) << 2;
        let kind = op | reduce << 8 | (self.dtype as u64) << 16 | flags << 24;
        let [window, offset] = send.map_or([0, 0], |place| [place.window, place.offset]);
        let [other_window, other_offset] =
            recv.map_or([0, 0], |place| [place.window, place.offset]);
        let words = [
            kind,
            root as u64,
            self.count,
            window,
            offset,
            other_window,
            other_offset,
        ];
        words.into_iter().flat_map(u64::to_le_bytes).collect()
    }

    /// The header at the start of a value.
    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let words: Vec<u64> = value
            .get(..Self::BYTES)?
            .as_chunks::<8>()
            .0
            .iter()
            .map(|word| u64::from_le_bytes(*word))
            .collect();
        let &[
            kind,
            root,
            count,
            window,
            offset,
            other_window,
            other_offset,
        ] = &words[..]
        else {
            return None;
        };
        let root = root as usize;
        let reduce = [
            ReduceOp::Sum,
            ReduceOp::Prod,
            ReduceOp::Max,
            ReduceOp::Min,
            ReduceOp::Avg,
        ]
        .get((kind >> 8 & 0xFF) as usize)
        .copied()?;
        let op = match kind & 0xFF {
            0 => Op::AllReduce(reduce),
            1 => Op::AllGather,
            2 => Op::ReduceScatter(reduce),
            3 => Op::Broadcast { root },
            4 => Op::Reduce { op: reduce, root },
            5 => Op::AllToAll,
            6 => Op::Gather { root },
            7 => Op::Scatter { root },
            8 => Op::Send { peer: root },
            9 => Op::Recv { peer: root },
            _ => return None,
        };
        let dtype = DTYPES.get((kind >> 16 & 0xFF) as usize).copied()?;
        let flag = |bit: u64| kind >> (24 + bit) & 1 == 1;
        let addressed = [
            flag(1).then_some(Place { window, offset }),
            flag(2).then_some(Place {
                window: other_window,
                offset: other_offset,
            }),
        ];
        Some(Self {
            op,
            dtype,
            count,
            symmetric: flag(0),
            addressed,
        })
    }

    /// What is called, in words.
    fn describe(&self) -> String {
        let what = match self.op {
            Op::AllReduce(op) | Op::ReduceScatter(op) => format!("({op:?})"),
            Op::Reduce { op, root } => format!("({op:?}, root {root})"),
            Op::Broadcast { root } | Op::Gather { root } | Op::Scatter { root } => {
                format!("(root {root})")
            }
            Op::AllGather | Op::AllToAll | Op::Send { .. } | Op::Recv { .. } => String::new(),
        };
        format!(
            "{}{what} of {} {:?}",
            self.op.name(),
            self.count,
            self.dtype
        )
    }

    fn same_call(&self, other: &Self) -> bool {
        let op = match (self.op, other.op) {
            (Op::Send { .. }, Op::Recv { .. }) => true,
            (a, b) => a == b,
        };
        op && self.dtype == other.dtype && self.count == other.count
    }
}

const DTYPES: [Dtype; 10] = [
    Dtype::I8,
    Dtype::U8,
    Dtype::I32,
    Dtype::U32,
    Dtype::I64,
    Dtype::U64,
    Dtype::F16,
    Dtype::F32,
    Dtype::F64,
    Dtype::Bf16,
];

/// Whether NCCL has a symmetric kernel for the operation, windows or not.
fn has_kernel(op: Op, dtype: Dtype, version: u32) -> bool {
    let small_float = matches!(dtype, Dtype::F16 | Dtype::Bf16 | Dtype::F32);
    match op {
        Op::AllGather => true,
        Op::AllReduce(ReduceOp::Sum) | Op::ReduceScatter(ReduceOp::Sum) => small_float,
        Op::AllReduce(ReduceOp::Avg) | Op::ReduceScatter(ReduceOp::Avg) => {
            small_float && version >= 23003
        }
        _ => false,
    }
}

/// Compares what the members of a call said; all of them find the same.
pub(super) fn compare(
    headers: &[Header],
    members: &[usize],
    rank: usize,
    group: &str,
    what: &str,
) -> Result<()> {
    let Some((first, others)) = headers.split_first() else {
        return Ok(());
    };
    for (other, &member) in others.iter().zip(&members[1..]) {
        let two = |a: String, b: String| format!("rank {} {a}, rank {member} {b}", members[0]);
        let violation = |rule, detail: String| Error::Violation {
            rank,
            rule,
            detail: format!("{what}: {detail}").into(),
        };
        if !first.same_call(other) {
            let calls = |header: &Header| format!("calls {}", header.describe());
            let detail = two(calls(first), calls(other)).into();
            return Err(Error::RanksDiffer {
                group: group.into(),
                what: what.into(),
                detail,
            });
        }
        if first.symmetric != other.symmetric {
            let windows = |header: &Header| {
                if header.symmetric {
                    "has its operands in windows"
                } else {
                    "has not, or avoids them"
                }
                .to_owned()
            };
            return Err(violation(
                Rule::MissingWindow,
                two(windows(first), windows(other)),
            ));
        }
        if first.symmetric && first.addressed != other.addressed {
            let places = |header: &Header| {
                let places = header
                    .addressed
                    .iter()
                    .flatten()
                    .map(|place| format!("offset {} of window {}", place.offset, place.window));
                format!("is at {}", places.collect::<Vec<_>>().join(" and "))
            };
            return Err(violation(
                Rule::UnequalOffsets,
                two(places(first), places(other)),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Option<Place> = Some(Place {
        window: 1,
        offset: 512,
    });

    fn header(op: Op, version: u32, send: Option<Place>, recv: Option<Place>) -> Header {
        let call = Call {
            op,
            dtype: Dtype::Bf16,
            count: 8,
            send: 1,
            recv: 2,
            avoid_windows: false,
        };
        Header::new(&call, 2, version, send, recv)
    }

    #[test]
    fn a_header_survives_the_wire() {
        let ops = [
            Op::AllReduce(ReduceOp::Avg),
            Op::Scatter { root: 3 },
            Op::Recv { peer: 1 },
            Op::AllGather,
        ];
        for (op, place) in ops.into_iter().flat_map(|op| [(op, None), (op, HERE)]) {
            let sent = header(op, 23007, None, place);
            let bytes = sent.encode();
            assert_eq!(bytes.len(), Header::BYTES);
            assert_eq!(Header::decode(&bytes), Some(sent));
        }
        assert_eq!(Header::decode(&[0xFF; Header::BYTES]), None);
    }

    #[test]
    fn which_operands_must_lie_in_windows() {
        let sum = ReduceOp::Sum;
        for (op, version, send, recv, symmetric) in [
            (Op::AllReduce(sum), 23007, HERE, HERE, true),
            (Op::AllReduce(sum), 23007, HERE, None, false),
            (Op::AllReduce(ReduceOp::Max), 23007, HERE, HERE, false),
            (Op::AllGather, 23007, None, HERE, true),
            (Op::AllGather, 22809, None, HERE, false),
            (Op::ReduceScatter(sum), 22902, HERE, None, true),
            (Op::ReduceScatter(ReduceOp::Avg), 22907, HERE, None, false),
            (Op::Broadcast { root: 0 }, 23007, HERE, HERE, false),
        ] {
            assert_eq!(
                header(op, version, send, recv).symmetric,
                symmetric,
                "{op:?} {version}"
            );
        }
        assert!(
            header(Op::AllReduce(ReduceOp::Avg), 23007, HERE, HERE)
                .check_defects(23007, true)
                .is_err()
        );
        let message = header(Op::Send { peer: 1 }, 22809, HERE, None);
        assert!(message.check_defects(22809, true).is_err());
        assert!(message.check_defects(22809, false).is_ok());
        assert!(message.check_defects(22902, true).is_ok());
    }
}
