//! What the examples of symm-core are made of, as a library, so that tests run it too.
//!
//! [`decoder`] is a small transformer whose layers are annotated with the groups that their buffers
//! belong to. [`doctor`] says what a machine has of what symmetric memory needs.
//! [`Start`] is the command line of the others.

pub mod decoder;
pub mod doctor;
mod start;

use clap::ValueEnum;

pub use start::Start;

/// Which backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// GPUs where there are enough, else the host.
    Auto,
    /// Ranks as threads, without a GPU.
    Host,
    /// GPUs.
    Cuda,
}
