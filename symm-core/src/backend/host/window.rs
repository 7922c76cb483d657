//! Segments and the windows on them.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::device::Shared;
use crate::error::{Error, Result, Rule};

/// Memory that can become a window.
#[derive(Debug)]
pub struct Segment {
    pub(super) base: u64,
    pub(super) bytes: u64,
    /// Windows that are on it, of any communicator.
    pub(super) windows: Arc<AtomicUsize>,
}

/// A registered segment.
#[derive(Clone, Debug)]
pub struct Window {
    pub(super) comm: u64,
    /// The how manieth of its communicator it is; never used twice.
    pub(super) ordinal: u64,
    pub(super) base: u64,
    pub(super) bytes: u64,
    /// Where the members have it.
    pub(super) bases: Arc<[u64]>,
    pub(super) on_segment: Arc<AtomicUsize>,
    /// Collectives under way that have an operand in it.
    pub(super) in_use: Arc<AtomicUsize>,
}

/// A collective under way uses a window.
#[derive(Debug)]
pub(super) struct InUse(Arc<AtomicUsize>);

impl InUse {
    pub(super) fn of(window: &Window) -> Self {
        window.in_use.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(&window.in_use))
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Segment {
    pub(super) fn new(device: &Shared, bytes: u64) -> Result<Self> {
        let base = device.allocate(bytes, 2 << 20, "a segment")?;
        Ok(Self {
            base,
            bytes,
            windows: Arc::default(),
        })
    }

    pub(super) fn base(&self) -> u64 {
        self.base
    }

    pub(super) fn free(self, device: &Shared) -> Result<()> {
        let windows = self.windows.load(Ordering::Acquire);
        if windows > 0 {
            let detail = format!(
                "the segment of {} bytes at {:#x} has {windows} windows",
                self.bytes, self.base
            );
            return Err(Error::Violation {
                rank: device.rank(),
                rule: Rule::FreedWhileRegistered,
                detail: detail.into(),
            });
        }
        device.free(self.base);
        Ok(())
    }
}

impl Window {
    /// A value that names the window, as a handle does; not a place in memory.
    pub(super) fn handle(&self) -> *mut c_void {
        ptr::without_provenance_mut((self.comm as usize) << 20 | (self.ordinal as usize + 1))
    }
}
