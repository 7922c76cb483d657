//! The atomics of this folder, in one place so that the loom test can compile its modules with
//! loom's.

pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};
