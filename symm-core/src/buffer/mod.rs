//! Buffers: what users hold, read, write and pass to collectives.

#![allow(unsafe_code)]

mod buf;
pub(crate) mod bytes;
pub(crate) mod launch;
pub(crate) mod lease;
pub(crate) mod memory;
pub(crate) mod meter;
pub(crate) mod operand;
pub(crate) mod plain;
pub(crate) mod redzone;
mod shared;
pub(crate) mod shared_memory;
mod symm;
mod uses;
mod view;

pub use buf::Buf;
pub use operand::{Dst, Src};
pub use plain::{Plain, PlainMut, PlainSource, PlainTarget, plain, plain_mut};
pub use shared::{Shared, SharedMut, SharedView};
pub use symm::{SymmBuf, WindowRef};
pub use view::{SymmView, SymmViewMut};
