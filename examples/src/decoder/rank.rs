//! What the layers of a rank share: its groups, its kernels, and counters of what it did.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use symm_core::{CapturedCall, Group, GroupTag, Pass, Path, Result, World};

use super::kernels::Compute;
use super::options::Split;
use super::{Cp, Tp};

/// How many collectives ran, by group, operation and path.
pub(super) type Collectives = BTreeMap<(&'static str, &'static str, String), u64>;

/// What the rank does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Kernels may run for the first time.
    WarmingUp,
    /// Nothing runs: the work is recorded.
    Capturing,
    Running,
}

impl From<Pass> for Phase {
    fn from(pass: Pass) -> Self {
        match pass {
            Pass::Prime => Phase::WarmingUp,
            Pass::Capture => Phase::Capturing,
        }
    }
}

/// One rank of the model.
pub(super) struct Rank<B: Compute> {
    pub(super) kernels: Arc<B::Kernels>,
    pub(super) tp: Group<Tp, B>,
    pub(super) cp: Group<Cp, B>,
    pub(super) world: Rc<World<B>>,
    /// [`Phase::WarmingUp`] at first.
    pub(super) phase: Cell<Phase>,
    scopes: RefCell<BTreeMap<&'static str, u64>>,
    collectives: RefCell<Collectives>,
}

impl<B: Compute> Rank<B> {
    /// Neighbours form a group of `tp`, for they talk more; every `tp`-th rank one of `cp`.
    pub(super) fn new(
        world: &Rc<World<B>>,
        kernels: &Arc<B::Kernels>,
        split: Split,
    ) -> Result<Self> {
        Ok(Self {
            kernels: Arc::clone(kernels),
            tp: world.split(world.rank() / split.tp, world.rank() % split.tp)?,
            cp: world.split(world.rank() % split.tp, world.rank() / split.tp)?,
            world: Rc::clone(world),
            phase: Cell::new(Phase::WarmingUp),
            scopes: RefCell::default(),
            collectives: RefCell::default(),
        })
    }

    /// An annotated function was entered.
    pub(super) fn entered<G: GroupTag>(&self) {
        *self.scopes.borrow_mut().entry(G::NAME).or_default() += 1;
    }

    /// A collective was launched, or captured.
    ///
    /// While kernels run for the first time, it is waited for: CUDA loads them lazily, and loading
    /// may wait for the device, which waits for its peers in the collective, with a lock held that
    /// ranks of the same process need to launch theirs.
    pub(super) fn launched<G: GroupTag>(&self, operation: &'static str, path: Path) -> Result<()> {
        match self.phase.get() {
            Phase::Capturing => return Ok(()), // it runs when the graph does
            Phase::WarmingUp => self.world.synchronize()?,
            Phase::Running => {}
        }
        self.count(G::NAME, operation, path);
        Ok(())
    }

    /// A graph with these collectives was launched.
    pub(super) fn replayed(&self, calls: &[CapturedCall]) {
        for call in calls {
            let groups = [Tp::NAME, Cp::NAME].into_iter();
            for group in groups.filter(|group| *group == call.group) {
                self.count(group, call.operation, call.path);
            }
        }
    }

    fn count(&self, group: &'static str, operation: &'static str, path: Path) {
        let key = (group, operation, path.to_string());
        *self.collectives.borrow_mut().entry(key).or_default() += 1;
    }

    /// Scopes opened, by group.
    pub(super) fn scopes(&self) -> BTreeMap<&'static str, u64> {
        self.scopes.borrow().clone()
    }

    /// Collectives that ran.
    pub(super) fn collectives(&self) -> Collectives {
        self.collectives.borrow().clone()
    }
}
