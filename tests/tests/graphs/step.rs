//! Steps to capture: a few random operations, the same on both ranks.

use std::collections::BTreeSet;

use symm_core::Pass;

use crate::model::{Effect, Id, RANKS};

/// Elements of buffers: few sizes, so that blocks fit each other's places.
const LENS: [usize; 5] = [1, 500, 4096, 30_000, 60_000];

/// SplitMix64. The same numbers on both ranks.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }

    pub(crate) fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        match from {
            [] => None,
            some => Some(some[self.below(some.len())]),
        }
    }

    pub(crate) fn len(&mut self) -> usize {
        match self.below(20) {
            0 => LENS[4],
            1..4 => LENS[3],
            _ => LENS[self.below(3)],
        }
    }
}

pub(crate) const PLANNED: &str = "planned";
/// The first number of a step's locals, larger than all names of buffers.
const LOCALS: u64 = 1 << 40;

/// One operation of a step that is captured.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// The local of this number, and whether it is in a scope.
    Allocate(u64, usize, bool),
    Run(Effect),
    /// A local's end.
    Drop(Id),
    /// The end of a buffer from outside, in the capture alone.
    DropOuter(Id),
}

/// A step, and how it is captured.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) pool: usize,
    pub(crate) stream: usize,
    /// With the stream on which each runs.
    pub(crate) ops: Vec<(usize, Op)>,
    pub(crate) outer: BTreeSet<Id>,
    /// Captured without a prime, with so many bytes reserved.
    pub(crate) reserved: Option<u64>,
    /// The pass, and the operation, before which it fails.
    pub(crate) fails: Option<(Pass, usize)>,
}

impl Step {
    /// A step of a few operations. Locals are numbered from [`LOCALS`] on, and written before they
    /// are read.
    pub(crate) fn any(rng: &mut Rng, outer: &[(Id, usize)]) -> Self {
        let stream = rng.below(3);
        let (mut ops, mut used, mut locals) = (Vec::new(), BTreeSet::new(), Vec::new());
        let mut next = LOCALS;
        for _ in 0..2 + rng.below(8) {
            let on = if rng.one_in(4) { rng.below(3) } else { stream };
            match rng.below(8) {
                0..3 => {
                    let (local, len) = (next, rng.len());
                    next += 1;
                    ops.push((on, Op::Allocate(local, len, rng.below(3) > 0)));
                    let known: Vec<_> = outer.iter().chain(&locals).copied().collect();
                    let first = some_effect(rng, &[(local, len)], &known);
                    let first = first.filter(|effect| !matches!(effect, Effect::Broadcast { .. }));
                    ops.push((on, Op::Run(first.unwrap_or(Effect::Zero(local)))));
                    locals.push((local, len));
                }
                3 if !locals.is_empty() => {
                    let (local, _) = locals.swap_remove(rng.below(locals.len()));
                    ops.push((on, Op::Drop(local)));
                }
                _ => {
                    let known: Vec<_> = outer.iter().chain(&locals).copied().collect();
                    // Mostly to locals: what a step does to the outside it does twice.
                    let to = if rng.one_in(3) { &known } else { &locals };
                    let effect = some_effect(rng, to, &known);
                    ops.extend(effect.map(|effect| (on, Op::Run(effect))));
                }
            }
        }
        for (local, _) in locals {
            if !rng.one_in(3) {
                ops.push((stream, Op::Drop(local)));
            }
        }
        for (_, op) in &ops {
            if let Op::Run(effect) = op {
                used.extend(effect.operands().into_iter().filter(|id| *id < LOCALS));
            }
        }
        // Some of what it uses ends within it, or what it does not use.
        if rng.one_in(3) {
            let doomed: Vec<Id> = match rng.one_in(2) {
                true => used.iter().copied().collect(),
                false => outer
                    .iter()
                    .map(|(id, _)| *id)
                    .filter(|id| !used.contains(id))
                    .collect(),
            };
            ops.extend(rng.pick(&doomed).map(|id| (stream, Op::DropOuter(id))));
        }
        let reserved = rng.one_in(3).then(|| 512 << rng.below(11));
        let passes = [Pass::Prime, Pass::Capture];
        let fails = rng
            .one_in(8)
            .then(|| (passes[rng.below(2)], rng.below(ops.len() + 1)));
        Step {
            pool: rng.below(2),
            stream,
            ops,
            outer: used,
            reserved,
            fails,
        }
    }
}

/// An operation that writes one of `to` and reads one of `from`.
pub(crate) fn some_effect(
    rng: &mut Rng,
    to: &[(Id, usize)],
    from: &[(Id, usize)],
) -> Option<Effect> {
    let (buf, len) = rng.pick(to)?;
    let alike: Vec<Id> = from
        .iter()
        .filter(|(id, other)| *other == len && *id != buf)
        .map(|(id, _)| *id)
        .collect();
    Some(match (rng.below(6), rng.pick(&alike)) {
        (0..2, Some(from)) => Effect::Copy { to: buf, from },
        (2..4, Some(from)) => Effect::Sum { to: buf, from },
        (4, _) => Effect::Zero(buf),
        (_, _) if from.iter().any(|(id, _)| *id == buf) => match rng.below(4) {
            0 => Effect::Sum { to: buf, from: buf },
            root => Effect::Broadcast {
                buf,
                root: root % RANKS,
            },
        },
        _ => Effect::Zero(buf),
    })
}

impl Effect {
    fn operands(self) -> Vec<Id> {
        match self {
            Effect::Zero(buf) | Effect::Broadcast { buf, .. } => vec![buf],
            Effect::Copy { to, from } | Effect::Sum { to, from } => vec![to, from],
        }
    }
}
