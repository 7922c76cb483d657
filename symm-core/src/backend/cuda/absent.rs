//! The backend in a build without the feature `cuda`: it says so when it is opened, and nothing of
//! it can exist.

use std::ffi::c_void;
use std::time::Duration;

use super::probe::Probe;
use super::{Cuda, NAME};
use crate::backend::call::Call;
use crate::backend::driver::{Access, Driver, Releases, Seat, Split, Sweep};
use crate::capture::CaptureMode;
use crate::error::{Error, Result};
use crate::scope::routing::Routing;

/// Has no values.
#[derive(Clone, Debug)]
pub enum Never {}

fn unavailable() -> Error {
    Error::Unavailable {
        backend: NAME,
        why: "built without the feature `cuda`".into(),
    }
}

pub(super) fn probe() -> Probe {
    Probe {
        driver: Err(unavailable()),
        nccl: Err(unavailable()),
        nccl_candidates: Vec::new(),
    }
}

/// The functions that take a value of which there is none.
macro_rules! unreachable_without {
    ($( $(#[$unsafe:ident])? fn $name:ident($first:ident: $type:ty $(, $arg:ty)* $(,)?) -> $ret:ty; )*) => { $(
        unreachable_without! { @ $($unsafe)? $name($first: $type $(, _: $arg)*) -> $ret }
    )* };
    (@ $name:ident($first:ident: $type:ty $(, _: $arg:ty)*) -> $ret:ty) => {
        fn $name($first: $type $(, _: $arg)*) -> $ret { match *$first {} }
    };
    (@ $unsafe:ident $name:ident($first:ident: $type:ty $(, _: $arg:ty)*) -> $ret:ty) => {
        unsafe fn $name($first: $type $(, _: $arg)*) -> $ret { match *$first {} }
    };
}

#[diagnostic::do_not_recommend]
impl Driver for Cuda {
    const NAME: &'static str = NAME;
    const SWEEP: Sweep = Sweep {
        largest: 0,
        repeats: 0,
        calls: |_| 0,
    };

    type Options = ();
    type Device = Never;
    type Stream = Never;
    type Segment = Never;
    type Plain = Never;
    type Comm = Never;
    type Window = Never;
    type Fence = Never;
    type Recording = Never;
    type Graph = Never;

    #[inline]
    fn routing<R>(f: impl FnOnce(&Routing<Self>) -> R) -> Option<R> {
        thread_local!(static ROUTING: Routing<Cuda> = const { Routing::new() });
        ROUTING.try_with(f).ok()
    }

    fn open(_: &Seat, (): &()) -> Result<Never> {
        Err(unavailable())
    }

    unreachable_without! {
        fn describe(device: &Never) -> String;
        fn recover(device: &Never) -> Result<()>;
        fn facts(device: &Never) -> Vec<(String, String)>;
        fn new_stream(device: &Never) -> Result<Never>;
        fn same_stream(a: &Never, &Never) -> bool;
        fn stream_on(device: &Never, &Never) -> bool;
        fn wait_stream(stream: &Never, &Never) -> Result<()>;
        fn synchronize(stream: &Never) -> Result<()>;
        fn is_done(stream: &Never) -> Result<bool>;
        fn alloc_segment(device: &Never, u64) -> Result<Never>;
        fn segment_base(segment: &Never) -> u64;
        fn free_segment(device: &Never, Never) -> Result<()>;
        fn alloc_plain(stream: &Never, u64) -> Result<Never>;
        fn plain_base(plain: &Never) -> u64;
        #[requires] fn upload(stream: &Never, u64, &[u8]) -> Result<()>;
        #[requires] fn download(stream: &Never, u64, &mut [u8]) -> Result<()>;
        #[requires] fn copy(stream: &Never, u64, u64, u64) -> Result<()>;
        #[requires] fn fill(stream: &Never, u64, u8, u64) -> Result<()>;
        #[requires] fn fence(owner: &Never, u64, u64) -> Result<Never>;
        fn fence_before(fence: &Never, &Never, Access) -> Result<()>;
        fn fence_after(fence: &Never, &Never, Access) -> Result<()>;
        fn connect(device: &Never, &Seat, &Split) -> Result<Never>;
        fn split(device: &Never, &Never, &Split) -> Result<Never>;
        fn destroy(device: &Never, Never) -> Result<()>;
        fn revoke(device: &Never, &Never) -> Result<()>;
        fn releases(comm: &Never) -> Releases;
        fn abort(device: &Never, Never) -> Result<()>;
        fn can_suspend(comm: &Never) -> Result<()>;
        fn suspend(device: &Never, &Never) -> Result<u64>;
        fn resume(device: &Never, &Never) -> Result<()>;
        fn version(comm: &Never) -> u32;
        fn register(device: &Never, &Never, &Never) -> Result<Option<Never>>;
        fn deregister(device: &Never, &Never, Never) -> Result<()>;
        fn kernels_of_all(comm: &Never) -> Option<fn(&Never, &Never) -> Result<bool>>;
        fn symmetric_kernels(device: &Never, &Never, &Never) -> Result<bool>;
        fn window_handle(window: &Never) -> *mut c_void;
        fn peer_address(comm: &Never, &Never, u64, usize) -> Result<Option<u64>>;
        #[requires] fn launch(device: &Never, &Never, &Never, &[Call]) -> Result<()>;
        fn begin_capture(device: &Never, &Never, CaptureMode) -> Result<Never>;
        fn end_capture(device: &Never, Never) -> Result<Never>;
        fn graph_nodes(device: &Never, &Never) -> Result<Vec<String>>;
        #[requires] fn launch_graph(device: &Never, &Never, &Never) -> Result<()>;
        fn destroy_graph(device: &Never, Never) -> Result<()>;
        fn model(device: &Never) -> Option<String>;
        fn timed(device: &Never, &Never, &mut dyn FnMut() -> Result<()>) -> Result<Duration>;
    }
}
