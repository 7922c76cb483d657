//! Random programs: eager buffers, scopes, collectives, captures, replays and drops in any order, on
//! two ranks, step by step beside the model.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use symm_core::{Config, Error, GraphPool, Host, Need, Pass, Result, World, host};

use crate::model::{Asks, Contents, Effect, Id, Line, Model, Name, RANKS};
use crate::rank::{Buffer, Real};
use crate::step::{Op, PLANNED, Rng, Step, some_effect};

/// Each seed's program is one trial of so many steps.
const SEEDS: u64 = 20;
const STEPS: usize = 15_000;
const MOST_BUFFERS: usize = 40;
const MOST_GRAPHS: usize = 10;

pub(crate) fn trials() -> Vec<Trial> {
    let trial = |seed| Trial::test(format!("model/seed-{seed}"), move || trial(seed));
    (1..=SEEDS).map(trial).collect()
}

fn trial(seed: u64) -> Result<(), Failed> {
    let options = host::Options::default().seed(seed);
    // Small segments, so that arenas have several.
    let config = Config::default()
        .deadline(Duration::from_secs(60))
        .first_segment(2 << 20)
        .segment_cap(4 << 20)
        .options(options);
    let places = config.run_with(RANKS, |world| {
        let step = Cell::new(0);
        let outcome = Driver::new(world, seed).and_then(|driver| driver.run(&step));
        outcome.map_err(|wrong| Wrong(format!("seed {seed}, step {}: {wrong}", step.get())))
    })?;
    match places[0] == places[1] {
        true => Ok(()),
        false => Err(format!("seed {seed}: the ranks placed their blocks differently").into()),
    }
}

/// What did not hold.
#[derive(Debug)]
struct Wrong(String);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Error> for Wrong {
    #[track_caller]
    fn from(error: Error) -> Self {
        let line = std::panic::Location::caller().line();
        Self(format!("line {line}: {error}"))
    }
}

impl From<String> for Wrong {
    fn from(wrong: String) -> Self {
        Self(wrong)
    }
}

/// What a pass has come to.
#[derive(Debug, Default)]
struct Run {
    /// Locals that are there, by their number in the step.
    alive: BTreeMap<u64, (Id, usize, (u64, u64))>,
    gone: BTreeMap<Id, (usize, (u64, u64))>,
    contents: BTreeMap<Id, (usize, Contents)>,
    effects: Vec<Effect>,
    dropped: Vec<Id>,
    wrong: Option<String>,
}

struct Driver {
    rng: Rng,
    model: Model,
    real: Real,
}

impl Driver {
    fn new(world: World<Host>, seed: u64) -> Result<Self, Wrong> {
        Ok(Self {
            rng: Rng(seed),
            model: Model::default(),
            real: Real::new(world)?,
        })
    }

    fn run(mut self, step: &Cell<usize>) -> Result<u64, Wrong> {
        for n in 0..STEPS {
            step.set(n);
            self.step()?;
            if n % 1000 == 999 {
                self.compare_all()?;
            }
        }
        self.compare_all()?;
        // Everything goes, in the order of the names.
        let (places, world) = (self.real.places, self.real.world);
        drop((
            self.real.bufs,
            self.real.graphs,
            self.real.pools,
            self.real.tp,
        ));
        drop(world);
        Ok(places)
    }

    fn step(&mut self) -> Result<(), Wrong> {
        let stream = self.rng.below(3);
        let on = self
            .real
            .world
            .on_stream(&self.real.streams[stream].clone())?;
        let (bufs, graphs) = (self.model.handles().count(), self.model.graphs.len());
        match self.rng.below(1000) {
            _ if bufs > MOST_BUFFERS => self.drop_one()?,
            _ if graphs > MOST_GRAPHS => self.drop_graph()?,
            0..180 => self.allocate()?,
            180..300 => self.drop_one()?,
            300..400 => self.write()?,
            400..600 => self.effect()?,
            600..660 => self.compare_one()?,
            660..920 => self.launch()?,
            920..965 => self.capture()?,
            965..997 => self.drop_graph()?,
            _ => self.replace_pool()?,
        }
        on.end()?;
        Ok(())
    }

    fn allocate(&mut self) -> Result<(), Wrong> {
        let (id, len, symmetric) = (self.model.name(), self.rng.len(), self.rng.below(3) > 0);
        let range = self.real.allocate(id, len, symmetric)?;
        self.model.may_have(Asks::Eager, range)?;
        self.model.add(id, len, range);
        Ok(())
    }

    fn any_handle(&mut self) -> Option<Id> {
        let ids: Vec<Id> = self.model.handles().map(|(id, _)| id).collect();
        self.rng.pick(&ids)
    }

    fn drop_one(&mut self) -> Result<(), Wrong> {
        if let Some(id) = self.any_handle() {
            self.real.bufs.remove(&id);
            self.model.drop_handle(id);
        }
        Ok(())
    }

    /// New contents, preferably for what is undefined.
    fn write(&mut self) -> Result<(), Wrong> {
        let undefined: Vec<Id> = self
            .model
            .handles()
            .filter(|(_, known)| known.contents[0].is_none())
            .map(|(id, _)| id)
            .collect();
        let any = self.any_handle();
        let Some(id) = self.rng.pick(&undefined).or(any) else {
            return Ok(());
        };
        let lines: [Line; RANKS] = [(); RANKS].map(|()| Line {
            start: self.rng.below(1000) as f32,
            step: self.rng.below(4) as f32,
        });
        let known = self.model.bufs.get_mut(&id);
        let known = known.ok_or_else(|| "a handle without a buffer".to_owned())?;
        known.contents = lines.map(Some);
        let data = lines[self.real.world.rank()].elements(known.len);
        let buf = self.real.bufs.get_mut(&id);
        buf.ok_or_else(|| "no such buffer".to_owned())?
            .write(&data)?;
        Ok(())
    }

    fn effect(&mut self) -> Result<(), Wrong> {
        let all: Vec<(Id, usize)> = self.model.handles().map(|(id, b)| (id, b.len)).collect();
        if let Some(effect) = some_effect(&mut self.rng, &all, &all) {
            self.real.run(effect)?;
            self.model.apply(effect, &mut BTreeMap::new());
        }
        Ok(())
    }

    fn compare_one(&mut self) -> Result<(), Wrong> {
        match self.any_handle() {
            Some(id) => self.compare(id),
            None => Ok(()),
        }
    }

    fn compare_all(&mut self) -> Result<(), Wrong> {
        let ids: Vec<Id> = self.model.handles().map(|(id, _)| id).collect();
        ids.into_iter().try_for_each(|id| self.compare(id))
    }

    fn compare(&self, id: Id) -> Result<(), Wrong> {
        let (known, buf) = (&self.model.bufs[&id], &self.real.bufs[&id]);
        let Some(line) = known.contents[self.real.world.rank()] else {
            return Ok(());
        };
        let (got, expected) = (buf.to_vec()?, line.elements(known.len));
        match got
            .iter()
            .zip(&expected)
            .position(|(got, expected)| got != expected)
        {
            None => Ok(()),
            Some(at) => Err(Wrong(format!(
                "buffer {id} holds {} at {at} of {}, not {}: {known:x?}",
                got[at], known.len, expected[at]
            ))),
        }
    }

    /// Some launches, with nothing between them that waits, and a look at what they wrote.
    fn launch(&mut self) -> Result<(), Wrong> {
        let names: Vec<Name> = self.model.graphs.keys().copied().collect();
        let mut written = Vec::new();
        for _ in 0..1 + self.rng.below(3) {
            let Some(name) = self.rng.pick(&names) else {
                return Ok(());
            };
            let graph = self.real.graphs.get_mut(&name);
            graph.ok_or_else(|| "no such graph".to_owned())?.launch()?;
            self.model.launch(name);
            written.extend(self.model.written_by(name));
        }
        match self.rng.pick(&written).filter(|_| self.rng.one_in(3)) {
            Some(id) => self.compare(id),
            None => Ok(()),
        }
    }

    fn drop_graph(&mut self) -> Result<(), Wrong> {
        let names: Vec<Name> = self.model.graphs.keys().copied().collect();
        if let Some(name) = self.rng.pick(&names) {
            self.real.graphs.remove(&name);
            self.model.drop_graph(name);
        }
        Ok(())
    }

    /// A new pool for an old one, whose graphs go; their outputs stay.
    fn replace_pool(&mut self) -> Result<(), Wrong> {
        let pool = self.rng.below(2);
        let of_pool = |model: &Model| {
            let graphs = model.graphs.iter().filter(|(_, graph)| graph.pool == pool);
            graphs.map(|(name, _)| *name).collect::<Vec<Name>>()
        };
        for name in of_pool(&self.model) {
            self.real.graphs.remove(&name);
            self.model.drop_graph(name);
        }
        self.real.pools[pool] = GraphPool::new(self.real.world.pool());
        Ok(())
    }

    fn capture(&mut self) -> Result<(), Wrong> {
        let outer: Vec<(Id, usize)> = self.model.handles().map(|(id, b)| (id, b.len)).collect();
        let step = Step::any(&mut self.rng, &outer);
        let (pool, stream) = (
            self.real.pools[step.pool].clone(),
            self.real.streams[step.stream].clone(),
        );
        let mut last = Run::default();
        let outcome = match step.reserved {
            None => pool.capture(&stream, |pass| self.pass(&step, pass, &mut last)),
            Some(bytes) => {
                let need = Need::new().group(&self.real.tp, bytes).plain(bytes);
                pool.capture_reserved(&need, &stream, |pass| self.pass(&step, pass, &mut last))
            }
        };
        if let Some(wrong) = last.wrong {
            return Err(Wrong(format!("{wrong}, in {step:?}")));
        }
        let dropped = last.dropped;
        match outcome {
            Ok(graph) => {
                let name = self.model.name();
                let mut held = step.outer.clone();
                for (id, len, range) in last.alive.into_values() {
                    self.model.may_stay(range)?;
                    self.model.add(id, len, range);
                    held.insert(id);
                }
                self.model
                    .add_graph(name, step.pool, last.effects, &held, last.gone);
                self.real.graphs.insert(name, graph);
            }
            Err(error) => {
                let expected = match &error {
                    Error::Config { what } => step.fails.is_some() && **what == *PLANNED,
                    Error::CaptureMiss { .. } | Error::GraphOverlap { .. } => {
                        step.reserved.is_some()
                    }
                    _ => false,
                };
                if !expected {
                    return Err(Wrong(format!("{error}, in {step:?}")));
                }
                for (id, ..) in last.alive.into_values() {
                    self.real.bufs.remove(&id);
                }
            }
        }
        dropped
            .into_iter()
            .for_each(|id| self.model.drop_handle(id));
        Ok(())
    }

    /// One run of the step. What is wrong beside its errors goes to `run`. A prime returns its
    /// locals, which end after it; those of a capture become the program's.
    fn pass(&mut self, step: &Step, pass: Pass, run: &mut Run) -> Result<Vec<Buffer>> {
        *run = Run::default();
        let outcome = self.operations(step, pass, run);
        if pass == Pass::Capture {
            return outcome.map(|()| Vec::new());
        }
        let locals = std::mem::take(&mut run.alive).into_values();
        let locals: Vec<_> = locals
            .filter_map(|(id, ..)| self.real.bufs.remove(&id))
            .collect();
        outcome.map(|()| locals)
    }

    fn operations(&mut self, step: &Step, pass: Pass, run: &mut Run) -> Result<()> {
        for (n, (stream, op)) in step.ops.iter().enumerate() {
            if step.fails == Some((pass, n)) {
                return Err(Error::Config {
                    what: PLANNED.into(),
                });
            }
            let on = match *stream == step.stream {
                true => None,
                false => {
                    let side = self.real.streams[*stream].clone();
                    Some(self.real.world.on_stream(&side)?)
                }
            };
            match *op {
                Op::Allocate(local, len, symmetric) => {
                    let id = self.model.name();
                    let range = self.real.allocate(id, len, symmetric)?;
                    let asked = self.model.may_have(Asks::Pass(step.pool), range);
                    run.wrong = run
                        .wrong
                        .take()
                        .or(asked.err())
                        .or_else(|| run.overlap(range));
                    run.alive.insert(local, (id, len, range));
                    run.contents.insert(id, (len, Default::default()));
                }
                Op::Run(effect) => {
                    let effect = run.resolve(effect);
                    self.real.run(effect)?;
                    if pass == Pass::Prime {
                        self.model.apply(effect, &mut run.contents);
                    }
                    run.effects.push(effect);
                }
                Op::Drop(local) => {
                    if let Some((id, len, range)) = run.alive.remove(&local) {
                        self.real.bufs.remove(&id);
                        run.gone.insert(id, (len, range));
                    }
                }
                Op::DropOuter(id) => {
                    if pass == Pass::Capture {
                        self.real.bufs.remove(&id);
                        run.dropped.push(id);
                    }
                }
            }
            on.map_or(Ok(()), |on| on.end())?;
        }
        Ok(())
    }
}

impl Run {
    /// The effect with the names of this pass's locals.
    fn resolve(&self, effect: Effect) -> Effect {
        let name = |id: Id| self.alive.get(&id).map_or(id, |(name, ..)| *name);
        match effect {
            Effect::Zero(buf) => Effect::Zero(name(buf)),
            Effect::Copy { to, from } => Effect::Copy {
                to: name(to),
                from: name(from),
            },
            Effect::Sum { to, from } => Effect::Sum {
                to: name(to),
                from: name(from),
            },
            Effect::Broadcast { buf, root } => Effect::Broadcast {
                buf: name(buf),
                root,
            },
        }
    }

    /// What is wrong if another local that is there has a byte of the range.
    fn overlap(&self, range: (u64, u64)) -> Option<String> {
        let mut others = self.alive.values();
        let other = others
            .find(|(.., other)| range.0 < other.0 + other.1 && other.0 < range.0 + range.1)?;
        Some(format!(
            "a local got {range:x?}, which local {other:x?} has"
        ))
    }
}
