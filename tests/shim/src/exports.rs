//! What NCCL exports, as far as symm-core looks it up (`nccl_sys/table.rs` there).

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use crate::answer::{Answer, Entry, Place, Shown, arguments};
use crate::comms::{self, Known};
use crate::real;

type Comm = *mut c_void;
type Window = *mut c_void;
type Stream = *mut c_void;

/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UniqueId([u8; 128]);

/// A hash of it (FNV-1a), equal in all processes.
impl Shown for UniqueId {
    fn shown(&self) -> Option<String> {
        let hash = self.0.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
        });
        Some(format!("{hash:016x}"))
    }
}

impl Place for UniqueId {}

/// `ncclConfig_t`, which is passed on as it is.
#[repr(C)]
#[derive(Debug)]
pub struct Config {
    size: usize,
}

impl Place for Config {}

/// The real function of this name and type, looked up once.
macro_rules! real {
    ($name:ident, $type:ty) => {{
        static REAL: OnceLock<Option<$type>> = OnceLock::new();
        // SAFETY: the type is that of nccl.h.
        *REAL.get_or_init(|| unsafe { real::symbol(concat!(stringify!($name), "\0").as_bytes()) })
    }};
}

/// Exports functions that return a code. `of` names the argument that is the communicator, `gives`
/// is what the log gets of the results, `then` what is to be done with them.
macro_rules! exports {
    ($(
        fn $name:ident($($arg:ident: $type:ty),* $(,)?)
        $(of $comm:ident)? $(with $parent:ident, $null:ident)? $(gives $outputs:expr)?;
    )*) => { $(
        #[doc = concat!("`", stringify!($name), "` of nccl.h.")]
        ///
        /// # Safety
        /// As for NCCL's own.
        #[allow(non_snake_case, clippy::too_many_arguments)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $type),*) -> c_int {
            #[allow(unused_mut, unused_assignments)]
            let mut comm: Option<Comm> = None;
            $( comm = Some($comm); )?
            let all: &[(&str, &dyn Shown)] = &[$((stringify!($arg), &$arg)),*];
            let all: Vec<_> = all
                .iter()
                .filter(|(name, _)| comm.is_none() || *name != "comm")
                .copied()
                .collect();
            let entry = Entry { name: stringify!($name), comm, arguments: &arguments(&all) };
            entry.pass(|_known, _null| {
                $( let ($parent, $null) = (_known, _null); )?
                let Some(real) = real!($name, unsafe extern "C" fn($($type),*) -> c_int) else {
                    return Answer::absent();
                };
                // SAFETY: the arguments are the caller's, and so is the promise.
                let code = unsafe { real($($arg),*) };
                #[allow(unused_mut, unused_assignments)]
                let mut outputs = String::new();
                // SAFETY: the call succeeded, so where results go there are results.
                $( if code == 0 { outputs = unsafe { $outputs }; } )?
                Answer { code, outputs }
            })
        }
    )* };
}

exports! {
    fn ncclGetVersion(version: *mut c_int) gives format!(" version={}", *version);
    fn ncclGetUniqueId(id: *mut UniqueId)
        gives format!(" id={}", (*id).shown().unwrap_or_default());
    fn ncclCommInitRankConfig(
        new: *mut Comm, nranks: c_int, id: UniqueId, newrank: c_int, config: *mut Config,
    ) gives made(*new, None);
    fn ncclCommSplit(comm: Comm, color: c_int, key: c_int, new: *mut Comm, config: *mut Config)
        of comm with parent, _null gives made(*new, parent);
    fn ncclCommDestroy(comm: Comm) of comm;
    fn ncclCommAbort(comm: Comm) of comm;
    fn ncclCommRevoke(comm: Comm, flags: c_int) of comm;
    fn ncclCommSuspend(comm: Comm, flags: c_int) of comm;
    fn ncclCommResume(comm: Comm) of comm;
    fn ncclCommMemStats(comm: Comm, stat: c_int, value: *mut u64)
        of comm gives format!(" value={}", *value);
    fn ncclCommGetAsyncError(comm: Comm, error: *mut c_int)
        of comm gives format!(" error={}", *error);
    fn ncclCommCount(comm: Comm, count: *mut c_int) of comm gives format!(" count={}", *count);
    fn ncclCommUserRank(comm: Comm, is: *mut c_int) of comm gives format!(" is={}", *is);
    fn ncclCommCuDevice(comm: Comm, device: *mut c_int)
        of comm gives format!(" device={}", *device);

    fn ncclMemAlloc(ptr: *mut *mut c_void, size: usize) gives format!(" ptr={:p}", *ptr);
    fn ncclMemFree(ptr: *mut c_void);
    fn ncclCommWindowRegister(
        comm: Comm, buff: *mut c_void, size: usize, window: *mut Window, winflags: c_int,
    ) of comm with _parent, null gives {
        if null {
            take_back(comm, *window);
            *window = ptr::null_mut();
        }
        format!(" window={:p}", *window)
    };
    fn ncclCommWindowDeregister(comm: Comm, window: Window) of comm;
    fn ncclGetPeerDevicePointer(
        window: Window, offset: usize, peer: c_int, at: *mut *mut c_void,
    ) gives format!(" at={:p}", *at);

    fn ncclGroupStart();
    fn ncclGroupEnd();
    fn ncclAllReduce(
        send: *const c_void, recv: *mut c_void, count: usize, dtype: c_int, op: c_int, comm: Comm,
        stream: Stream,
    ) of comm;
    fn ncclAllGather(
        send: *const c_void, recv: *mut c_void, count: usize, dtype: c_int, comm: Comm,
        stream: Stream,
    ) of comm;
    fn ncclReduceScatter(
        send: *const c_void, recv: *mut c_void, count: usize, dtype: c_int, op: c_int, comm: Comm,
        stream: Stream,
    ) of comm;
    fn ncclBroadcast(
        send: *const c_void, recv: *mut c_void, count: usize, dtype: c_int, root: c_int, comm: Comm,
        stream: Stream,
    ) of comm;
    fn ncclReduce(
        send: *const c_void, recv: *mut c_void, count: usize, dtype: c_int, op: c_int, root: c_int,
        comm: Comm, stream: Stream,
    ) of comm;
    fn ncclAlltoAll(
        send: *const c_void, recv: *mut c_void, count: usize, dtype: c_int, comm: Comm,
        stream: Stream,
    ) of comm;
    fn ncclGather(
        send: *const c_void, recv: *mut c_void, count: usize, dtype: c_int, root: c_int, comm: Comm,
        stream: Stream,
    ) of comm;
    fn ncclScatter(
        send: *const c_void, recv: *mut c_void, count: usize, dtype: c_int, root: c_int, comm: Comm,
        stream: Stream,
    ) of comm;
    fn ncclSend(
        send: *const c_void, count: usize, dtype: c_int, peer: c_int, comm: Comm, stream: Stream,
    ) of comm;
    fn ncclRecv(
        recv: *mut c_void, count: usize, dtype: c_int, peer: c_int, comm: Comm, stream: Stream,
    ) of comm;
    fn ncclRedOpCreatePreMulSum(
        op: *mut c_int, scalar: *mut c_void, dtype: c_int, residence: c_int, comm: Comm,
    ) of comm gives format!(" op={}", *op);
    fn ncclRedOpDestroy(op: c_int, comm: Comm) of comm;
}

/// Exports functions that return a text.
macro_rules! texts {
    ($( fn $name:ident($arg:ident: $type:ty); )*) => { $(
        #[doc = concat!("`", stringify!($name), "` of nccl.h. Logged nowhere: it changes nothing.")]
        ///
        /// # Safety
        /// As for NCCL's own.
        #[allow(non_snake_case)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($arg: $type) -> *const c_char {
            let real = real!($name, unsafe extern "C" fn($type) -> *const c_char);
            // SAFETY: the argument is the caller's, and so is the promise.
            real.map_or(c"the real NCCL lacks this".as_ptr(), |real| unsafe { real($arg) })
        }
    )* };
}

texts! {
    fn ncclGetErrorString(code: c_int);
    fn ncclGetLastError(comm: Comm);
}

/// Tells symm-core that another NCCL in this process is meant, and which names that one has: 1 for
/// those, 0 for the rest.
///
/// # Safety
/// `name` is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn symm_nccl_forwards(name: *const c_char) -> c_int {
    if name.is_null() {
        return 0;
    }
    // SAFETY: the caller vouches for the string.
    let name = unsafe { CStr::from_ptr(name) };
    c_int::from(name == c"symm_nccl_forwards" || real::has(name.to_bytes_with_nul()))
}

/// Asks the real library for the new communicator's rank and size, and remembers it.
///
/// # Safety
/// `comm` is NULL or a live communicator.
unsafe fn made(comm: Comm, parent: Option<&Known>) -> String {
    type Ask = unsafe extern "C" fn(Comm, *mut c_int) -> c_int;
    if comm.is_null() {
        return " new=0x0".into();
    }
    let ask = |ask: Option<Ask>| {
        let mut answer = -1;
        // SAFETY: the caller vouches for the communicator.
        let code = ask.map(|ask| unsafe { ask(comm, &mut answer) });
        usize::try_from(answer).ok().filter(|_| code == Some(0))
    };
    let (rank, size) = (
        ask(real!(ncclCommUserRank, Ask)).unwrap_or_default(),
        ask(real!(ncclCommCount, Ask)).unwrap_or_default(),
    );
    comms::made(comm, rank, parent);
    format!(" new={comm:p} newrank={rank} newsize={size}")
}

/// Deregisters a window that the caller is not to see.
///
/// # Safety
/// The window is NULL or the communicator's.
unsafe fn take_back(comm: Comm, window: Window) {
    type Deregister = unsafe extern "C" fn(Comm, Window) -> c_int;
    if let Some(deregister) =
        real!(ncclCommWindowDeregister, Deregister).filter(|_| !window.is_null())
    {
        // SAFETY: the caller vouches for it.
        let code = unsafe { deregister(comm, window) };
        crate::log::line(&format!("note window={window:p} taken back, code={code}"));
    }
}
