#![doc = include_str!("../docs/crate.md")]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)
)]
// Only where memory and foreign functions are: backends and buffers.
#![deny(unsafe_code)]

extern crate self as symm_core;

#[doc(hidden)]
pub mod __private;
pub(crate) mod agreement;
pub(crate) mod backend;
mod buffer;
mod capture;
mod element;
mod error;
mod group;
#[cfg(any(doc, doctest))]
pub mod guide;
mod launch;
mod pool;
mod range;
mod registration;
mod rendezvous;
mod scope;
mod site;
mod trace;

pub use agreement::limits::OnUnrecoverable;
pub use backend::call::ReduceOp;
pub use backend::{Backend, Cuda, Host, cuda, host};
pub use buffer::{
    Buf, Dst, Plain, PlainMut, PlainSource, PlainTarget, Shared, SharedMut, SharedView, Src,
    SymmBuf, SymmView, SymmViewMut, WindowRef, plain, plain_mut,
};
pub use capture::{
    Capture, CaptureMode, CapturedCall, Graph, GraphArenaStats, GraphOptions, GraphPool,
    GraphPoolStats, GraphStats, Need, Pass, Prime,
};
pub use element::Element;
pub use error::{Error, Result, Rule};
pub use group::calibration::{Calibration, CalibrationPoint};
pub use group::config::Config;
pub use group::counts::PathCount;
pub use group::path::{Path, Reason};
pub use group::sleep::Suspended;
pub use group::strict::Strict;
pub use group::tag::{Dyn, GroupTag};
pub use group::world::World;
pub use group::{Batch, Group};
pub use half::{bf16, f16};
pub use launch::Launcher;
pub use pool::{
    ArenaStats, BlockMap, BlockState, GraphMap, GraphName, Growth, PlainMap, Pool, PoolStats,
    Position, Sample, SegmentMap, Snapshot, SnapshotDiff, WindowMap, WindowState,
};
pub use scope::{Scope, StreamScope, Suspension};
pub use site::Site;
pub use symm_macros::{groups, symm, symmetric};

/// What makes a type neither `Send` nor `Sync`, named for the compiler's messages.
#[derive(Debug)]
pub(crate) struct StaysOnItsThread(#[allow(dead_code)] [*const (); 0]);
