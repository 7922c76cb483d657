//! One rank's real buffers and graphs, and the calls that the model predicts.

use std::collections::BTreeMap;

use symm_core::host::HostStream;
use symm_core::{
    Buf, Graph, GraphPool, Group, Host, Plain, PlainMut, ReduceOp, Result, SymmBuf, World, groups,
    plain, plain_mut, symm,
};

use crate::model::{Effect, Id, Name};

groups! { pub Tp = "tp"; }

/// Memory of either place.
#[derive(Debug)]
pub(crate) enum Buffer {
    Symm(SymmBuf<f32, Tp, Host>),
    Plain(Buf<f32, Host>),
}

impl Buffer {
    fn buf(&self) -> &Buf<f32, Host> {
        match self {
            Self::Symm(buf) => buf,
            Self::Plain(buf) => buf,
        }
    }

    fn source(&self) -> Plain<'_, f32, Host> {
        plain(self.buf())
    }

    fn target(&mut self) -> PlainMut<'_, f32, Host> {
        match self {
            Self::Symm(buf) => plain_mut(buf),
            Self::Plain(buf) => plain_mut(buf),
        }
    }

    /// First address, and bytes of the block.
    pub(crate) fn range(&self) -> (u64, u64) {
        let bytes = self.buf().num_bytes() as u64;
        match self {
            Self::Symm(buf) => (buf.address(), bytes.next_multiple_of(512)),
            Self::Plain(buf) => (buf.address(), bytes),
        }
    }

    pub(crate) fn to_vec(&self) -> Result<Vec<f32>> {
        self.buf().to_vec()
    }

    pub(crate) fn write(&mut self, data: &[f32]) -> Result<()> {
        match self {
            Self::Symm(buf) => buf.copy_from_slice(data),
            Self::Plain(buf) => buf.copy_from_slice(data),
        }
    }
}

/// What this rank has.
pub(crate) struct Real {
    pub(crate) world: World<Host>,
    pub(crate) tp: Group<Tp, Host>,
    pub(crate) streams: [HostStream; 3],
    pub(crate) pools: [GraphPool<Host>; 2],
    pub(crate) graphs: BTreeMap<Name, Graph<Vec<Buffer>, Host>>,
    pub(crate) bufs: BTreeMap<Id, Buffer>,
    /// A digest of all places so far.
    pub(crate) places: u64,
}

impl Real {
    pub(crate) fn new(world: World<Host>) -> Result<Self> {
        Ok(Self {
            tp: world.split(0, 0)?,
            streams: [
                world.stream().clone(),
                world.new_stream()?,
                world.new_stream()?,
            ],
            pools: [GraphPool::new(world.pool()), GraphPool::new(world.pool())],
            graphs: BTreeMap::new(),
            bufs: BTreeMap::new(),
            places: 0,
            world,
        })
    }

    pub(crate) fn allocate(&mut self, id: Id, len: usize, symmetric: bool) -> Result<(u64, u64)> {
        let buf = match symmetric {
            true => Buffer::Symm(symm!(group = self.tp, { self.tp.empty(len)? })?),
            false => Buffer::Plain(Buf::empty(len)?),
        };
        if let Some(position) = buf.buf().position() {
            let place = position.offset << 8 | position.segment as u64;
            self.places = (self.places.rotate_left(7) ^ place).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
        let range = buf.range();
        self.bufs.insert(id, buf);
        Ok(range)
    }

    pub(crate) fn run(&mut self, effect: Effect) -> Result<()> {
        let to = effect.target();
        let Some(mut target) = self.bufs.remove(&to) else {
            return Ok(());
        };
        let outcome = self.run_on(effect, &mut target);
        self.bufs.insert(to, target);
        outcome
    }

    fn run_on(&self, effect: Effect, to: &mut Buffer) -> Result<()> {
        match effect {
            Effect::Zero(_) => match to {
                Buffer::Symm(to) => to.fill_zero(),
                Buffer::Plain(to) => to.fill_zero(),
            },
            Effect::Copy { from, .. } => match to {
                Buffer::Symm(to) => to.copy_from(self.bufs[&from].source()),
                Buffer::Plain(to) => to.copy_from(self.bufs[&from].source()),
            },
            Effect::Sum { to: id, from } if id == from => match to {
                Buffer::Symm(to) => self.tp.all_reduce_in_place(to, ReduceOp::Sum).map(drop),
                Buffer::Plain(to) => self
                    .tp
                    .all_reduce_in_place(plain_mut(to), ReduceOp::Sum)
                    .map(drop),
            },
            Effect::Sum { from, .. } => {
                let path = match (&self.bufs[&from], to) {
                    (Buffer::Symm(from), Buffer::Symm(to)) => {
                        self.tp.all_reduce(from, to, ReduceOp::Sum)
                    }
                    (from, to) => self
                        .tp
                        .all_reduce(from.source(), to.target(), ReduceOp::Sum),
                };
                path.map(drop)
            }
            Effect::Broadcast { root, .. } => {
                self.tp.broadcast_in_place(to.target(), root).map(drop)
            }
        }
    }
}
