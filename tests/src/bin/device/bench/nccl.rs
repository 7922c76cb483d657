//! NCCL's own calls, without symm-core: the file that it loaded, opened once more.

use std::ffi::{c_int, c_void};
use std::path::Path;
use std::ptr;

use libloading::Library;
use symm_core::Cuda;
use symm_tests::suite::{Failure, Outcome};

pub(super) type Comm = *mut c_void;
pub(super) type Window = *mut c_void;
type Stream = *mut c_void;

/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct UniqueId(pub(super) [u8; 128]);

/// `ncclBfloat16`.
pub(super) const BF16: c_int = 9;
/// `ncclSum`.
pub(super) const SUM: c_int = 0;
/// `NCCL_WIN_COLL_SYMMETRIC`.
const WIN_COLL_SYMMETRIC: c_int = 1;

macro_rules! entry_points {
    ($( fn $name:ident($($arg:ty),*); )*) => {
        /// The fields bear the names of `nccl.h`.
        #[expect(non_snake_case, reason = "NCCL's own names")]
        pub(super) struct Nccl {
            $( pub(super) $name: unsafe extern "C" fn($($arg),*) -> c_int, )*
            /// Keeps the entry points valid.
            _library: Library,
        }

        impl Nccl {
            #[expect(non_snake_case, reason = "as above")]
            fn open(path: &Path) -> Result<Self, libloading::Error> {
                // SAFETY: symm-core has loaded this file, so nothing of it runs now; the types are
                // those of nccl.h.
                unsafe {
                    let library = Library::new(path)?;
                    $( let $name = *library.get(concat!(stringify!($name), "\0").as_bytes())?; )*
                    Ok(Self { $( $name, )* _library: library })
                }
            }
        }
    };
}

entry_points! {
    fn ncclGetUniqueId(*mut UniqueId);
    fn ncclCommInitRank(*mut Comm, c_int, UniqueId, c_int);
    fn ncclCommSplit(Comm, c_int, c_int, *mut Comm, *mut c_void);
    fn ncclCommDestroy(Comm);
    fn ncclMemAlloc(*mut *mut c_void, usize);
    fn ncclMemFree(*mut c_void);
    fn ncclCommWindowRegister(Comm, *mut c_void, usize, *mut Window, c_int);
    fn ncclCommWindowDeregister(Comm, Window);
    fn ncclAllReduce(*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream);
    fn ncclAllGather(*const c_void, *mut c_void, usize, c_int, Comm, Stream);
    fn ncclReduceScatter(*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream);
}

/// What a call returned.
#[track_caller]
pub(super) fn check(call: &str, code: c_int) -> Outcome {
    match code {
        0 => Ok(()),
        code => Err(Failure::new(format!(
            "raw {call} failed with code {code} (set NCCL_DEBUG=WARN for more)"
        ))),
    }
}

/// The thread's device is current in all of these. What a run that failed leaves goes with its
/// process.
impl Nccl {
    /// The library that symm-core uses.
    pub(super) fn loaded() -> Outcome<Self> {
        let path = Cuda::probe().nccl?.path;
        let opened = Self::open(&path);
        opened.map_err(|error| Failure::new(format!("{}: {error}", path.display())))
    }

    pub(super) fn unique_id(&self) -> Outcome<UniqueId> {
        let mut id = UniqueId([0; 128]);
        // SAFETY: the pointer is to a live variable.
        check("ncclGetUniqueId", unsafe {
            (self.ncclGetUniqueId)(&mut id)
        })?;
        Ok(id)
    }

    pub(super) fn connect(&self, ranks: usize, id: UniqueId, rank: usize) -> Outcome<Comm> {
        let mut comm = ptr::null_mut();
        // SAFETY: the pointer is to a live variable.
        let code = unsafe { (self.ncclCommInitRank)(&mut comm, ranks as c_int, id, rank as c_int) };
        check("ncclCommInitRank", code)?;
        Ok(comm)
    }

    /// Another communicator of the same ranks.
    pub(super) fn split(&self, comm: Comm, rank: usize) -> Outcome<Comm> {
        let mut child = ptr::null_mut();
        // SAFETY: the communicator is alive, the pointer is to a live variable, and without a
        // configuration the child has its parent's.
        let code =
            unsafe { (self.ncclCommSplit)(comm, 0, rank as c_int, &mut child, ptr::null_mut()) };
        check("ncclCommSplit", code)?;
        Ok(child)
    }

    pub(super) fn destroy(&self, comm: Comm) -> Outcome {
        // SAFETY: the caller has it from `connect` or `split`, and uses it no more.
        check("ncclCommDestroy", unsafe { (self.ncclCommDestroy)(comm) })
    }

    pub(super) fn alloc(&self, bytes: usize) -> Outcome<u64> {
        let mut base = ptr::null_mut();
        // SAFETY: the pointer is to a live variable.
        check("ncclMemAlloc", unsafe {
            (self.ncclMemAlloc)(&mut base, bytes)
        })?;
        Ok(base as u64)
    }

    pub(super) fn free(&self, base: u64) -> Outcome {
        // SAFETY: the caller has it from `alloc`, and nothing uses it any more.
        check("ncclMemFree", unsafe {
            (self.ncclMemFree)(base as *mut c_void)
        })
    }

    pub(super) fn register(&self, comm: Comm, base: u64, bytes: usize) -> Outcome<Window> {
        // NCCL keeps the address of a call that fails: the slot is leaked then.
        let slot: &mut Window = Box::leak(Box::new(ptr::null_mut()));
        // SAFETY: communicator and memory are alive, and the slot stays.
        let code = unsafe {
            (self.ncclCommWindowRegister)(
                comm,
                base as *mut c_void,
                bytes,
                slot,
                WIN_COLL_SYMMETRIC,
            )
        };
        check("ncclCommWindowRegister", code)?;
        match *slot {
            window if window.is_null() => Err(Failure::new(
                "this machine's communicators have no windows: raw windowed cannot be measured",
            )),
            window => Ok(window),
        }
    }

    pub(super) fn deregister(&self, comm: Comm, window: Window) -> Outcome {
        // SAFETY: the caller has it from `register`, and nothing uses it any more.
        check("ncclCommWindowDeregister", unsafe {
            (self.ncclCommWindowDeregister)(comm, window)
        })
    }
}
