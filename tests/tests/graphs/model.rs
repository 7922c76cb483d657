//! The naive model: what every buffer holds on both ranks, and whose every byte is.

use std::collections::{BTreeMap, BTreeSet};

/// Ranks of the worlds that are modelled.
pub(crate) const RANKS: usize = 2;
/// Whole numbers beyond this are not exact in `f32`.
const EXACT: f32 = 16_777_216.0;

/// Names a buffer; never used twice.
pub(crate) type Id = u64;
/// Names a graph; never used twice.
pub(crate) type Name = u64;

/// What the `i`-th element is: `start + i * step`. Closed under all that programs do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) start: f32,
    pub(crate) step: f32,
}

impl Line {
    pub(crate) const ZERO: Self = Self {
        start: 0.0,
        step: 0.0,
    };

    pub(crate) fn elements(self, len: usize) -> Vec<f32> {
        (0..len)
            .map(|i| self.start + i as f32 * self.step)
            .collect()
    }

    /// `None` where the sum is not exact.
    fn plus(self, other: Self, len: usize) -> Option<Self> {
        let sum = Self {
            start: self.start + other.start,
            step: self.step + other.step,
        };
        (sum.start + sum.step * len as f32 <= EXACT).then_some(sum)
    }
}

/// What a buffer holds, by rank; `None` where that is undefined, or not exact.
pub(crate) type Contents = [Option<Line>; RANKS];

/// One operation, on buffers that are as long as each other.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Effect {
    Zero(Id),
    Copy { to: Id, from: Id },
    Sum { to: Id, from: Id },
    Broadcast { buf: Id, root: usize },
}

impl Effect {
    /// What it writes.
    pub(crate) fn target(self) -> Id {
        match self {
            Effect::Zero(to) | Effect::Copy { to, .. } | Effect::Sum { to, .. } => to,
            Effect::Broadcast { buf, .. } => buf,
        }
    }
}

/// A buffer, as long as a handle or a graph has it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) len: usize,
    pub(crate) contents: Contents,
    /// First address and bytes on this rank.
    range: (u64, u64),
    /// Whether the program has a handle.
    pub(crate) handle: bool,
    graphs: BTreeSet<Name>,
}

/// A live graph.
#[derive(Clone, Debug)]
pub(crate) struct Captured {
    pub(crate) pool: usize,
    effects: Vec<Effect>,
    /// What it allocated and gave back, which other graphs of its pool may use too.
    temporaries: Vec<(u64, u64)>,
    /// Contents of its temporaries are undefined at the start of each launch.
    locals: BTreeMap<Id, usize>,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) bufs: BTreeMap<Id, Known>,
    pub(crate) graphs: BTreeMap<Name, Captured>,
    next: u64,
}

/// Who asks for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    /// A program outside captures.
    Eager,
    /// A prime or a capture of the pool, for a temporary as far as is known.
    Pass(usize),
}

impl Model {
    pub(crate) fn name(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A new buffer of the program's, whose contents are undefined.
    pub(crate) fn add(&mut self, id: Id, len: usize, range: (u64, u64)) {
        let known = Known {
            len,
            contents: [None; RANKS],
            range,
            handle: true,
            graphs: BTreeSet::new(),
        };
        self.bufs.insert(id, known);
    }

    /// Buffers that the program has a handle of.
    pub(crate) fn handles(&self) -> impl Iterator<Item = (Id, &Known)> {
        let all = self.bufs.iter().map(|(id, known)| (*id, known));
        all.filter(|(_, known)| known.handle)
    }

    /// The program drops its handle.
    pub(crate) fn drop_handle(&mut self, id: Id) {
        if let Some(known) = self.bufs.get_mut(&id) {
            known.handle = false;
        }
        self.forget();
    }

    fn forget(&mut self) {
        self.bufs
            .retain(|_, known| known.handle || !known.graphs.is_empty());
    }

    /// A graph has come to be. `outputs` are the locals that are still there, with their handles.
    pub(crate) fn add_graph(
        &mut self,
        name: Name,
        pool: usize,
        effects: Vec<Effect>,
        outer: &BTreeSet<Id>,
        temporaries: BTreeMap<Id, (usize, (u64, u64))>,
    ) {
        for id in outer {
            if let Some(known) = self.bufs.get_mut(id) {
                known.graphs.insert(name);
            }
        }
        let captured = Captured {
            pool,
            effects,
            temporaries: temporaries.values().map(|(_, range)| *range).collect(),
            locals: temporaries
                .iter()
                .map(|(id, (len, _))| (*id, *len))
                .collect(),
        };
        self.graphs.insert(name, captured);
    }

    pub(crate) fn drop_graph(&mut self, name: Name) {
        self.graphs.remove(&name);
        for known in self.bufs.values_mut() {
            known.graphs.remove(&name);
        }
        self.forget();
    }

    /// Whether the range may be handed out: nobody has it, and if a live graph writes there it is
    /// one of the pool that asks.
    pub(crate) fn may_have(&self, asks: Asks, range: (u64, u64)) -> Result<(), String> {
        let taken = self
            .bufs
            .iter()
            .find(|(_, known)| overlap(known.range, range));
        if let Some((id, known)) = taken {
            return Err(format!(
                "{asks:?} got {range:x?}, which is buffer {id}'s: {known:x?}"
            ));
        }
        let shared = |graph: &&Captured| asks == Asks::Pass(graph.pool);
        let mut others = self.graphs.iter().filter(|(_, graph)| !shared(graph));
        match others.find(|(_, graph)| graph.touches(range)) {
            None => Ok(()),
            Some((name, _)) => Err(format!(
                "{asks:?} got {range:x?}, where graph {name} writes"
            )),
        }
    }

    /// Whether what outlives its capture may lie there: where no live graph writes.
    pub(crate) fn may_stay(&self, range: (u64, u64)) -> Result<(), String> {
        match self.graphs.iter().find(|(_, graph)| graph.touches(range)) {
            None => Ok(()),
            Some((name, _)) => Err(format!(
                "an output is at {range:x?}, where graph {name} writes"
            )),
        }
    }

    /// What a launch does.
    pub(crate) fn launch(&mut self, name: Name) {
        let Some(graph) = self.graphs.get(&name).cloned() else {
            return;
        };
        let mut locals: BTreeMap<Id, (usize, Contents)> = graph
            .locals
            .iter()
            .map(|(id, len)| (*id, (*len, [None; RANKS])))
            .collect();
        for effect in graph.effects {
            self.apply(effect, &mut locals);
        }
    }

    /// Buffers that the program has a handle of, and the graph writes.
    pub(crate) fn written_by(&self, name: Name) -> Vec<Id> {
        let effects = self.graphs.get(&name).map(|graph| &graph.effects[..]);
        let written = effects
            .unwrap_or_default()
            .iter()
            .map(|effect| effect.target());
        let has_handle = |id: &Id| self.bufs.get(id).is_some_and(|known| known.handle);
        written.filter(has_handle).collect()
    }

    /// What an operation does; `locals` are buffers that nobody else has.
    pub(crate) fn apply(&mut self, effect: Effect, locals: &mut BTreeMap<Id, (usize, Contents)>) {
        let get = |model: &Self, id: Id| match locals.get(&id) {
            Some((len, contents)) => (*len, *contents),
            None => model
                .bufs
                .get(&id)
                .map_or((0, [None; RANKS]), |known| (known.len, known.contents)),
        };
        let (to, contents) = match effect {
            Effect::Zero(to) => (to, [Some(Line::ZERO); RANKS]),
            Effect::Copy { to, from } => (to, get(self, from).1),
            Effect::Sum { to, from } => {
                let (len, [a, b]) = get(self, from);
                let sum = a.zip(b).and_then(|(a, b)| a.plus(b, len));
                (to, [sum; RANKS])
            }
            Effect::Broadcast { buf, root } => (buf, [get(self, buf).1[root]; RANKS]),
        };
        match locals.get_mut(&to) {
            Some((_, known)) => *known = contents,
            None => {
                if let Some(known) = self.bufs.get_mut(&to) {
                    known.contents = contents;
                }
            }
        }
    }
}

impl Captured {
    fn touches(&self, range: (u64, u64)) -> bool {
        self.temporaries.iter().any(|own| overlap(*own, range))
    }
}

fn overlap(a: (u64, u64), b: (u64, u64)) -> bool {
    a.0 < b.0 + b.1 && b.0 < a.0 + a.1
}
