//! The order of one buffer's uses on several streams, shared with cudarc.

use std::cell::{RefCell, UnsafeCell};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::mem;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut, SyncOnDrop};

use super::device::{self, stream_error};
use crate::error::Result;

/// A cudarc slice over memory that is not cudarc's: its two events, of the last reads and of the
/// last write, order our work with cudarc's kernels and copies. Where the user switched cudarc's
/// event tracking off there are none, and streams wait for each other instead.
pub struct Fence {
    /// Boxed, because `write` refers to it; never dropped as a slice, which would free the memory.
    slice: NonNull<CudaSlice<u8>>,
    /// The whole memory, to be written. cudarc makes one only from an exclusive reference, so it is
    /// made once and copied.
    write: CudaViewMut<'static, u8>,
    /// Whether the slice has events.
    tracked: bool,
    latest: RefCell<Use>,
    /// By first and last byte.
    arguments: RefCell<BTreeMap<(usize, usize), Rc<Argument>>>,
}

/// The latest use, and whether the events know of it.
#[derive(Debug)]
struct Use {
    stream: Arc<CudaStream>,
    recorded: bool,
}

impl Fence {
    /// Behind all work that is on `owner` now.
    ///
    /// # Safety
    /// The memory is the stream's device's and outlives the fence.
    pub(super) unsafe fn new(owner: &Arc<CudaStream>, addr: u64, bytes: u64) -> Result<Self> {
        // `upgrade_device_ptr` unwraps the events that it makes: let a broken context be an error
        // here.
        drop(
            owner
                .context()
                .new_event(None)
                .map_err(|error| stream_error(owner, "cuEventCreate", error))?,
        );
        // SAFETY: the caller vouches for the memory, and nothing frees it through the slice.
        let slice = unsafe { owner.upgrade_device_ptr::<u8>(addr, bytes as usize) };
        let slice = NonNull::from(Box::leak(Box::new(slice)));
        // SAFETY: just made; all that the view keeps are shared references to the two events.
        let write = unsafe { (*slice.as_ptr()).as_view_mut() };
        let fence = Self {
            slice,
            write,
            tracked: owner.context().is_event_tracking(),
            latest: RefCell::new(Use {
                stream: Arc::clone(owner),
                recorded: false,
            }),
            arguments: RefCell::default(),
        };
        fence.after(owner)?;
        Ok(fence)
    }

    /// Whether cudarc orders uses of this memory on `stream` by the events: it asks the slice's
    /// context whether to wait, the stream's whether to record, and these are two when the user
    /// made a context of his own for the device.
    fn is_managed(&self, stream: &CudaStream) -> bool {
        self.tracked
            && [self.slice().context(), stream.context()]
                .iter()
                .all(|context| context.is_managing_stream_synchronization())
    }

    /// Makes later work on `stream` wait for the uses up to now.
    pub(super) fn before(&self, stream: &Arc<CudaStream>) -> Result<()> {
        let managed = self.is_managed(stream);
        if managed {
            // Only the waits: what records the use would do so on drop, before there is one.
            mem::forget(self.events(stream));
            recorded_errors(stream)?;
        }
        let latest = self.latest.borrow();
        if managed && latest.recorded {
            return Ok(());
        }
        device::wait(stream, &latest.stream)
    }

    /// Notes the work that is on `stream` now as a use.
    pub(super) fn after(&self, stream: &Arc<CudaStream>) -> Result<()> {
        let recorded = self.is_managed(stream);
        if recorded {
            drop(self.events(stream));
            recorded_errors(stream)?;
        }
        *self.latest.borrow_mut() = Use {
            stream: Arc::clone(stream),
            recorded,
        };
        Ok(())
    }

    /// cudarc's way to order a use: waits at once, records on drop. Every use counts as a write:
    /// there is one event for all reads, so a second reader on another stream would make the first
    /// forgotten, and the memory would be reused under it.
    pub(super) fn events<'a>(&'a self, stream: &'a CudaStream) -> SyncOnDrop<'a> {
        self.whole_mut().view_ptr_mut(stream).1
    }

    /// The memory as cudarc sees it, to be read.
    fn slice(&self) -> &CudaSlice<u8> {
        // SAFETY: the box lives as long as the fence, and nothing has an exclusive reference to it.
        unsafe { self.slice.as_ref() }
    }

    /// The same, to be written.
    fn whole_mut(&self) -> CudaViewMut<'_, u8> {
        // SAFETY: a view is an address, a length and shared references to events that live as long
        // as the fence. It has no destructor.
        unsafe { ptr::read(&self.write) }
    }

    /// A range of bytes as an argument of kernels.
    pub(super) fn argument(&self, range: Range<usize>) -> Option<&Argument> {
        let mut arguments = self.arguments.borrow_mut();
        let argument = match arguments.entry((range.start, range.end)) {
            Entry::Occupied(entry) => Rc::as_ptr(entry.get()),
            Entry::Vacant(entry) => Rc::as_ptr(entry.insert(Rc::new(self.cut(range)?))),
        };
        // SAFETY: it stays where it is, and in the map, as long as the fence.
        Some(unsafe { &*argument })
    }

    fn cut(&self, range: Range<usize>) -> Option<Argument> {
        let read = self.slice().try_slice(range.clone())?;
        let mut whole = self.whole_mut();
        let write = whole.try_slice_mut(range)?;
        // SAFETY: what both refer to is the slice, which lives as long as the fence and thereby as
        // its arguments, not the view they were cut from.
        Some(unsafe {
            Argument {
                read: mem::transmute::<CudaView<'_, u8>, CudaView<'static, u8>>(read),
                write: UnsafeCell::new(mem::transmute::<
                    CudaViewMut<'_, u8>,
                    CudaViewMut<'static, u8>,
                >(write)),
            }
        })
    }
}

/// cudarc's `launch` reads an argument's address where the argument lies, so each range that a
/// kernel takes needs a place that stays.
pub(super) struct Argument {
    pub(super) read: CudaView<'static, u8>,
    pub(super) write: UnsafeCell<CudaViewMut<'static, u8>>,
}

/// cudarc's `device_ptr` cannot return errors; it leaves them with the context.
fn recorded_errors(stream: &CudaStream) -> Result<()> {
    stream
        .context()
        .check_err()
        .map_err(|error| stream_error(stream, "cuEventRecord or cuStreamWaitEvent", error))
}

impl Drop for Fence {
    /// Leaves the owner's stream behind all uses that the events know of, as cudarc does before it
    /// frees, and the memory alone.
    fn drop(&mut self) {
        // SAFETY: made by `Box::leak` in `new` and taken back once; `write`, which refers to it, is
        // not used any more.
        unsafe { Box::from_raw(self.slice.as_ptr()) }.leak();
    }
}

impl std::fmt::Debug for Fence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fence")
            .field("tracked", &self.tracked)
            .field("latest", &self.latest)
            .finish_non_exhaustive()
    }
}
