//! What the layers of a rank share: its groups, its kernels, and counters of what it did.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use symm_core::{Group, GroupTag, Path, Result, World};

use super::kernels::{Compute, Kernels};
use super::options::Split;
use super::{Cp, Tp};

/// How many collectives ran, by group, operation and path.
pub(super) type Collectives = BTreeMap<(&'static str, &'static str, String), u64>;

/// One rank of the model.
pub(super) struct Rank<B: Compute> {
    pub(super) kernels: B::Kernels,
    pub(super) tp: Group<Tp, B>,
    pub(super) cp: Group<Cp, B>,
    pub(super) world: World<B>,
    /// Set while kernels may run for the first time.
    pub(super) warming_up: Cell<bool>,
    scopes: RefCell<BTreeMap<&'static str, u64>>,
    collectives: RefCell<Collectives>,
}

impl<B: Compute> Rank<B> {
    /// Neighbours form a group of `tp`, for they talk more; every `tp`-th rank one of `cp`.
    pub(super) fn new(world: World<B>, split: Split) -> Result<Self> {
        Ok(Self {
            kernels: B::Kernels::new(&world)?,
            tp: world.split(world.rank() / split.tp, world.rank() % split.tp)?,
            cp: world.split(world.rank() % split.tp, world.rank() / split.tp)?,
            world,
            warming_up: Cell::new(false),
            scopes: RefCell::default(),
            collectives: RefCell::default(),
        })
    }

    /// An annotated function was entered.
    pub(super) fn entered<G: GroupTag>(&self) {
        *self.scopes.borrow_mut().entry(G::NAME).or_default() += 1;
    }

    /// A collective was launched.
    ///
    /// While kernels run for the first time, it is waited for: CUDA loads them lazily, and loading
    /// may wait for the device, which waits for its peers in the collective, with a lock held that
    /// ranks of the same process need to launch theirs.
    pub(super) fn launched<G: GroupTag>(&self, operation: &'static str, path: Path) -> Result<()> {
        *self
            .collectives
            .borrow_mut()
            .entry((G::NAME, operation, path.to_string()))
            .or_default() += 1;
        if self.warming_up.get() {
            self.world.synchronize()
        } else {
            Ok(())
        }
    }

    /// Scopes opened, by group.
    pub(super) fn scopes(&self) -> BTreeMap<&'static str, u64> {
        self.scopes.borrow().clone()
    }

    /// Collectives launched.
    pub(super) fn collectives(&self) -> Collectives {
        self.collectives.borrow().clone()
    }
}
