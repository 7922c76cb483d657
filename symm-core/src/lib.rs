//! Scoped NCCL symmetric memory for Rust.
//!
//! NCCL runs its fastest kernels only on memory that came from `ncclMemAlloc` and is registered as
//! a symmetric window with the very communicator that the collective uses, at equal offsets on all
//! ranks. This crate makes that a matter of scopes and types:
//!
//! - [`groups!`] declares tags; [`World::split`] makes a [`Group`] of one.
//! - A **scope** of the group ([`#[symmetric]`](macro@symmetric), [`symm!`], [`Group::scope`])
//!   redirects this thread's allocations to the group's **arena**; when it closes, the **segments**
//!   that it touched are registered with the group's communicator: one **window** each.
//! - A [`SymmBuf`] owns a **block** of a segment and carries its group in its type: the collectives
//!   of another group do not take it.
//! - [`SymmBuf::share`] makes a [`Shared`] buffer: clones for any thread, whose memory returns once
//!   all ranks have dropped it; [`Group::trim`] gives empty segments back.
//! - Every collective returns its [`Path`]: symmetric, or plain for a [`Reason`].
//! - [`Group::calibrate`] measures where windows are slower: from then on such calls go without.
//! - [`GraphPool::capture`] makes a CUDA graph that owns every byte it touches: captures allocate
//!   from arenas of their own, in scopes too, and the [`Graph`] keeps what its work uses.
//! - [`Cuda`] runs on GPUs, [`Host`] anywhere: ranks as threads, real data, and errors where NCCL
//!   is silent.
//!
//! ```
//! use symm_core::{Backend, Group, Host, Path, ReduceOp, Result, SymmBuf, World, groups, symmetric};
//!
//! groups! {
//!     /// Tensor parallel: partial sums of the linear layers.
//!     pub Tp = "tp";
//! }
//!
//! struct RowParallel<B: Backend> {
//!     tp: Group<Tp, B>,
//! }
//!
//! impl<B: Backend> RowParallel<B> {
//!     #[symmetric(group = self.tp)]
//!     fn forward(&self, partial: &[f32]) -> Result<SymmBuf<f32, Tp, B>> {
//!         let mut sum = SymmBuf::from_slice(partial)?;
//!         let path = self.tp.all_reduce_in_place(&mut sum, ReduceOp::Sum)?;
//!         assert_eq!(path, Path::Symmetric);
//!         Ok(sum)
//!     }
//! }
//!
//! let sums = World::<Host>::run(4, |world| {
//!     let layer = RowParallel { tp: world.split(0, 0)? };
//!     layer.forward(&[world.rank() as f32; 3])?.to_vec()
//! })?;
//! assert_eq!(sums, [[6.0; 3]; 4]);
//! # Ok::<(), symm_core::Error>(())
//! ```
//!
//! # What ranks have to do alike
//!
//! The ranks of a group open the same scopes, allocate the same sizes in the same order in them,
//! and call the same collectives; then every block lies at the same place on all of them. The order
//! of frees between two allocations does not matter. What differs by rank is allocated outside of
//! scopes, under [`Group::suspend`], or with [`SymmBuf::empty_padded`].
//!
//! # Features
//!
//! - `cuda` (default): the [`Cuda`] backend. It links nothing; driver and NCCL are looked for when
//!   they are needed. Without it, [`Cuda`] exists and says that it was built without.
//! - `serde` (default): a [`Snapshot`] is written and read as JSON, and drawn as a page of HTML
//!   (`Snapshot::to_html`). Snapshots themselves, and their differences, are there without it.
//! - `nvtx`: ranges for Nsight Systems of scopes, registrations, collectives, captures and graph
//!   launches, in the domain `symm`. NVTX is headers alone, so no library has to be there when it
//!   runs; it is built with libclang and a C compiler.
//!
//! # What a program's memory does
//!
//! [`Pool::stats`] says how much there is, [`Pool::snapshot`] what lies where. While a pool records
//! ([`Pool::record`], [`Config::memory_history`]), blocks also have the line that allocated them and
//! there is a timeline; [`Snapshot::diff`] then names the lines that leak.
//!
//! # Logs
//!
//! Rare things are told to a subscriber of the crate `tracing`, with the fields `group`, `rank`,
//! `bytes`, `site` and `ms` where they apply. Scopes, allocations and collectives that have nothing
//! new to do tell nothing; where nobody listens, the rest costs a load.
//!
//! | target | level | what |
//! | --- | --- | --- |
//! | `symm_core::registration` | info | `segment registered`; warn: `no window for the segment` |
//! | `symm_core::registration` | debug | the span `round`, in which a group registers |
//! | `symm_core::scope` | debug | the span `scope`: the end of one that has something to register |
//! | `symm_core::pool` | info | `arena grew by a segment`, `arena trimmed` |
//! | `symm_core::capture` | info | the spans `prime` and `capture`, `graph captured`; warn: `capture discarded` |
//! | `symm_core::path` | info | `group calibrated`, `table of paths changed`, `twin communicator made` |
//! | `symm_core::path` | debug | `first collective on this path` |
//! | `symm_core::world` | error | `world poisoned`; info: `world rebuilt` |

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
