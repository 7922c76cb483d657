//! The table of entry points, declared once.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::PathBuf;

use libloading::Library;

use super::{Config, RawComm, RawStream, RawWindow, UniqueId};

/// The type of `symm_nccl_forwards`.
type Forwards = unsafe extern "C" fn(*const c_char) -> c_int;

/// The symbol's name as a C string.
macro_rules! name {
    ($name:ident) => {
        const {
            match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => c"",
            }
        }
    };
}

/// Declares [`Nccl`] and how it is filled: a missing symbol of the first list is an error, one of
/// the second is `None`.
macro_rules! entry_points {
    (
        required { $( fn $name:ident($($arg:ty),* $(,)?) -> $ret:ty; )* }
        optional { $( fn $option:ident($($option_arg:ty),* $(,)?) -> $option_ret:ty; )* }
    ) => {
        /// NCCL, loaded. The fields bear the names of `nccl.h`.
        #[expect(non_snake_case, reason = "NCCL's own names, to be found by searching for them")]
        #[derive(Debug)]
        pub(in super::super) struct Nccl {
            /// As `ncclGetVersion` says, e.g. 23007.
            pub(in super::super) version: u32,
            /// The file that was loaded.
            pub(in super::super) path: PathBuf,
            $( pub(in super::super) $name: unsafe extern "C" fn($($arg),*) -> $ret, )*
            $( pub(in super::super) $option: Option<unsafe extern "C" fn($($option_arg),*) -> $option_ret>, )*
            /// Keeps the entry points valid.
            _library: Library,
        }

        #[cfg(test)]
        pub(super) const REQUIRED: &[&str] = &[$( stringify!($name) ),*];

        impl Nccl {
            /// Looks every entry point up. Fails with the name of the first that is missing.
            #[expect(non_snake_case, reason = "as above")]
            pub(super) fn resolve(library: Library, version: u32, path: PathBuf) -> Result<Self, &'static str> {
                // SAFETY: the types are those of nccl.h, which have not changed for any of these
                // names since 2.27.
                unsafe {
                    let forwards = library.get::<Forwards>(b"symm_nccl_forwards\0").ok().map(|symbol| *symbol);
                    let has = |name: &CStr| forwards.is_none_or(|has| has(name.as_ptr()) != 0);
                    $( let $name = *library.get(name!($name).to_bytes_with_nul()).ok().filter(|_| has(name!($name))).ok_or(stringify!($name))?; )*
                    $( let $option = library.get(name!($option).to_bytes_with_nul()).ok().filter(|_| has(name!($option))).map(|symbol| *symbol); )*
                    Ok(Self { version, path, $( $name, )* $( $option, )* _library: library })
                }
            }
        }
    };
}

entry_points! {
    required {
        fn ncclGetErrorString(c_int) -> *const c_char;
        fn ncclGetLastError(RawComm) -> *const c_char;

        fn ncclGetUniqueId(*mut UniqueId) -> c_int;
        fn ncclCommInitRankConfig(*mut RawComm, c_int, UniqueId, c_int, *mut Config) -> c_int;
        fn ncclCommSplit(RawComm, c_int, c_int, *mut RawComm, *mut Config) -> c_int;
        fn ncclCommDestroy(RawComm) -> c_int;
        fn ncclCommAbort(RawComm) -> c_int;
        fn ncclCommGetAsyncError(RawComm, *mut c_int) -> c_int;
        fn ncclCommCount(RawComm, *mut c_int) -> c_int;
        fn ncclCommUserRank(RawComm, *mut c_int) -> c_int;
        fn ncclCommCuDevice(RawComm, *mut c_int) -> c_int;

        fn ncclMemAlloc(*mut *mut c_void, usize) -> c_int;
        fn ncclMemFree(*mut c_void) -> c_int;
        fn ncclCommWindowRegister(RawComm, *mut c_void, usize, *mut RawWindow, c_int) -> c_int;
        fn ncclCommWindowDeregister(RawComm, RawWindow) -> c_int;

        fn ncclGroupStart() -> c_int;
        fn ncclGroupEnd() -> c_int;
        fn ncclAllReduce(*const c_void, *mut c_void, usize, c_int, c_int, RawComm, RawStream) -> c_int;
        fn ncclAllGather(*const c_void, *mut c_void, usize, c_int, RawComm, RawStream) -> c_int;
        fn ncclReduceScatter(*const c_void, *mut c_void, usize, c_int, c_int, RawComm, RawStream) -> c_int;
        fn ncclBroadcast(*const c_void, *mut c_void, usize, c_int, c_int, RawComm, RawStream) -> c_int;
        fn ncclReduce(*const c_void, *mut c_void, usize, c_int, c_int, c_int, RawComm, RawStream) -> c_int;
        fn ncclSend(*const c_void, usize, c_int, c_int, RawComm, RawStream) -> c_int;
        fn ncclRecv(*mut c_void, usize, c_int, c_int, RawComm, RawStream) -> c_int;
        fn ncclRedOpCreatePreMulSum(*mut c_int, *mut c_void, c_int, c_int, RawComm) -> c_int;
        fn ncclRedOpDestroy(c_int, RawComm) -> c_int;
    }
    optional {
        // 2.28
        fn ncclAlltoAll(*const c_void, *mut c_void, usize, c_int, RawComm, RawStream) -> c_int;
        fn ncclGather(*const c_void, *mut c_void, usize, c_int, c_int, RawComm, RawStream) -> c_int;
        fn ncclScatter(*const c_void, *mut c_void, usize, c_int, c_int, RawComm, RawStream) -> c_int;
        // A library with this symbol forwards to another NCCL on purpose, to log calls or to inject
        // faults.
        // It answers 1 for the names that the other NCCL has, 0 for the rest.
        fn symm_nccl_forwards(*const c_char) -> c_int;
        // 2.28.7
        fn ncclCommRevoke(RawComm, c_int) -> c_int;
        // 2.29.7
        fn ncclCommSuspend(RawComm, c_int) -> c_int;
        fn ncclCommResume(RawComm) -> c_int;
        fn ncclCommMemStats(RawComm, c_int, *mut u64) -> c_int;
        // 2.29.2
        fn ncclGetPeerDevicePointer(RawWindow, usize, c_int, *mut *mut c_void) -> c_int;
    }
}
