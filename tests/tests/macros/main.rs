//! The macros at run time: every shape of function, every way out of a scope, every failure of one.
//!
//! Compiled twice, as edition 2024 and as edition 2021 (`../../edition2021`), with all warnings
//! denied each time.

#![deny(warnings, clippy::all, clippy::pedantic, clippy::nursery)]

mod arguments;
mod blocks;
mod errors;
mod exits;
mod functions;
mod policies;
mod sites;

use symm_core::host::{At, CallKind, Fault, Options, What};
use symm_core::{Buf, Config, Group, Host, Result, SymmBuf, World, groups};

groups! {
    /// The group of most tests.
    pub(crate) Tp = "tp";
    /// Another one.
    #[cfg(test)]
    Cp = "cp";
    /// Attributes go to all that a group expands to.
    #[cfg(not(test))]
    Absent = "absent";
}

/// A buffer of [`Layer::tp`].
type Symm = SymmBuf<f32, Tp, Host>;

/// What methods are called on.
struct Layer {
    tp: Group<Tp, Host>,
    cp: Group<Cp, Host>,
    seen: Vec<bool>,
}

impl Layer {
    fn new(world: &World<Host>) -> Result<Self> {
        Ok(Self {
            tp: world.split(0, 0)?,
            cp: world.split(0, 0)?,
            seen: Vec::new(),
        })
    }

    /// Leaves the open scope of `tp` with something to register.
    fn allocate(&self) -> Result<Symm> {
        self.tp.zeros(1)
    }
}

/// Runs `test` on one rank. A scope that is open at the end is an error.
fn alone(test: impl Fn(Layer) -> Result<()> + Sync) -> Result<()> {
    run(1, Options::default(), test)
}

/// Runs it on two ranks, which is what it takes to register anything.
fn paired(test: impl Fn(Layer) -> Result<()> + Sync) -> Result<()> {
    run(2, Options::default(), test)
}

/// Runs it on two ranks whose first registration fails.
fn failing(test: impl Fn(Layer) -> Result<()> + Sync) -> Result<()> {
    let fail = |rank| Fault::new(rank, At::Call(CallKind::Register, 1), What::Fail);
    run(2, Options::default().fault(fail(0)).fault(fail(1)), test)
}

fn run(ranks: usize, options: Options, test: impl Fn(Layer) -> Result<()> + Sync) -> Result<()> {
    let config = Config::<Host>::default().options(options);
    config
        .run(ranks, |world| test(Layer::new(&world)?))
        .map(drop)
}

/// Whether this thread's allocations go to a group's arena.
fn redirected() -> bool {
    Buf::<u8, Host>::empty(1).is_ok_and(|buf| buf.is_symmetric())
}
