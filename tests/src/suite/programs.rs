//! Long random programs, compared step by step with a model of all ranks on the CPU.

use symm_core::{Backend, Group, GroupTag, ReduceOp, Result, SymmBuf, World, symm};

use super::data::{Rng, reduced};
use super::{Case, Cp, Left, Outcome, Right, Tp};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![on_one_stream, on_many_streams, with_two_groups_of_one_arena, on_rows_and_columns from 4]
}

const BUFFERS: usize = 4;
const STEPS: usize = 200;
/// Sums beyond this are replaced, so that `f32` stays exact.
const LARGEST: f32 = 65_536.0;

/// The buffers of one group on this rank, and what they hold on all ranks of it.
struct Program<G: GroupTag, B: Backend> {
    group: Group<G, B>,
    part: usize,
    bufs: Vec<SymmBuf<f32, G, B>>,
    /// By rank of the group, then by buffer.
    model: Vec<Vec<Vec<f32>>>,
}

impl<G: GroupTag, B: Backend> Program<G, B> {
    fn new(group: Group<G, B>, part: usize) -> Outcome<Self> {
        let len = part * group.size();
        let bufs = symm!(group = group, {
            (0..BUFFERS)
                .map(|_| group.zeros(len))
                .collect::<Result<Vec<_>>>()?
        })?;
        let model = vec![vec![vec![0.0; len]; BUFFERS]; group.size()];
        Ok(Self {
            group,
            part,
            bufs,
            model,
        })
    }

    /// One step. The random numbers are the same on all ranks of the group.
    fn step(&mut self, rng: &mut Rng) -> Outcome {
        let (from, to) = (rng.below(BUFFERS), rng.below(BUFFERS));
        let (part, ranks, me) = (self.part, self.group.size(), self.group.rank());
        let root = rng.below(ranks);
        match rng.below(9) {
            0 => self.refill(rng, to)?,
            1 => self.replace(to)?,
            2 => {
                self.group
                    .all_reduce_in_place(&mut self.bufs[to], ReduceOp::Sum)?;
                self.reduced(ReduceOp::Sum, to, to);
            }
            3 if from != to => {
                let (src, dst) = pair(&mut self.bufs, from, to);
                self.group.all_reduce(src, dst, ReduceOp::Max)?;
                self.reduced(ReduceOp::Max, from, to);
            }
            4 if from != to => {
                let (src, dst) = pair(&mut self.bufs, from, to);
                self.group
                    .all_gather(src.view(root * part..(root + 1) * part)?, dst)?;
                let whole: Vec<f32> = self
                    .model
                    .iter()
                    .flat_map(|of_rank| of_rank[from][root * part..][..part].to_vec())
                    .collect();
                self.model
                    .iter_mut()
                    .for_each(|of_rank| of_rank[to].clone_from(&whole));
            }
            5 => {
                self.group
                    .reduce_scatter_in_place(&mut self.bufs[to], ReduceOp::Sum)?;
                let sum = self.reduction(ReduceOp::Sum, to);
                for (rank, of_rank) in self.model.iter_mut().enumerate() {
                    of_rank[to][rank * part..][..part].copy_from_slice(&sum[rank * part..][..part]);
                }
            }
            6 => {
                self.group.broadcast_in_place(&mut self.bufs[to], root)?;
                let sent = self.model[root][to].clone();
                self.model
                    .iter_mut()
                    .for_each(|of_rank| of_rank[to].clone_from(&sent));
            }
            7 if from != to => {
                let (src, dst) = pair(&mut self.bufs, from, to);
                self.group.all_to_all(src, dst)?;
                for receiver in 0..ranks {
                    let parts = self
                        .model
                        .iter()
                        .flat_map(|of_rank| of_rank[from][receiver * part..][..part].to_vec())
                        .collect();
                    self.model[receiver][to] = parts;
                }
            }
            _ => ensure_same!(self.bufs[to].to_vec()?, self.model[me][to], "buffer {to}"),
        }
        let too_large = (0..BUFFERS).filter(|&buf| {
            self.model
                .iter()
                .any(|of_rank| of_rank[buf].iter().any(|x| x.abs() > LARGEST))
        });
        too_large
            .collect::<Vec<_>>()
            .into_iter()
            .try_for_each(|buf| self.refill(rng, buf))
    }

    fn check(&self) -> Outcome {
        for (buf, model) in self.bufs.iter().zip(&self.model[self.group.rank()]) {
            ensure_same!(buf.to_vec()?, model, "at the end");
        }
        Ok(())
    }

    fn refill(&mut self, rng: &mut Rng, buf: usize) -> Outcome {
        for of_rank in &mut self.model {
            of_rank[buf]
                .iter_mut()
                .for_each(|x| *x = rng.below(100) as f32);
        }
        Ok(self.bufs[buf].copy_from_slice(&self.model[self.group.rank()][buf])?)
    }

    /// Another block in the buffer's place; the old one may still be in use by what was enqueued.
    fn replace(&mut self, buf: usize) -> Outcome {
        self.bufs[buf] = symm!(group = self.group, {
            self.group.from_slice(&self.model[self.group.rank()][buf])?
        })?;
        Ok(())
    }

    fn reduced(&mut self, op: ReduceOp, from: usize, to: usize) {
        let result = self.reduction(op, from);
        self.model
            .iter_mut()
            .for_each(|of_rank| of_rank[to].clone_from(&result));
    }

    fn reduction(&self, op: ReduceOp, buf: usize) -> Vec<f32> {
        let parts: Vec<_> = self
            .model
            .iter()
            .map(|of_rank| of_rank[buf].clone())
            .collect();
        reduced(op, &parts)
    }
}

/// A source and a destination that are not the same.
fn pair<T>(all: &mut [T], from: usize, to: usize) -> (&T, &mut T) {
    let (low, high) = all.split_at_mut(from.max(to));
    match from < to {
        true => (&low[from], &mut high[0]),
        false => (&high[0], &mut low[to]),
    }
}

fn on_one_stream<B: Backend>(world: &World<B>) -> Outcome {
    let mut program = Program::new(world.split::<Tp>(0, 0)?, 129)?;
    let mut rng = Rng::new(1);
    (0..STEPS).try_for_each(|_| program.step(&mut rng))?;
    program.check()
}

fn on_many_streams<B: Backend>(world: &World<B>) -> Outcome {
    let streams = [
        world.stream().clone(),
        world.new_stream()?,
        world.new_stream()?,
        world.new_stream()?,
    ];
    let mut program = Program::new(world.split::<Tp>(0, 0)?, 3001)?;
    let mut rng = Rng::new(2);
    for _ in 0..STEPS {
        let _on = world.on_stream(&streams[rng.below(streams.len())])?;
        program.step(&mut rng)?;
    }
    program.check()
}

fn with_two_groups_of_one_arena<B: Backend>(world: &World<B>) -> Outcome {
    let mut left = Program::new(world.split::<Left>(0, 0)?, 77)?;
    let mut right = Program::new(world.split::<Right>(0, world.size() - world.rank())?, 300)?;
    let mut rng = Rng::new(3);
    for _ in 0..STEPS {
        match rng.below(2) {
            0 => left.step(&mut rng)?,
            _ => right.step(&mut rng)?,
        }
    }
    left.check()?;
    right.check()
}

fn on_rows_and_columns<B: Backend>(world: &World<B>) -> Outcome {
    let (row, column) = (world.rank() / 2, world.rank() % 2);
    let mut rows = Program::new(world.split::<Tp>(row, column)?, 200)?;
    let mut columns = Program::new(world.split::<Cp>(column, row)?, 51)?;
    // Every group has a program of its own, so overlapping groups come to differ; which of the two
    // goes on is the world's choice.
    let (mut of_rows, mut of_columns) = (Rng::new(row as u64), Rng::new(100 + column as u64));
    let mut turns = Rng::new(4);
    for _ in 0..STEPS {
        match turns.below(2) {
            0 => rows.step(&mut of_rows)?,
            _ => columns.step(&mut of_columns)?,
        }
    }
    rows.check()?;
    columns.check()
}
