//! A libnccl for tests: forwards to the real one, logs every call with its pointers, and lets the
//! k-th call of a rank fail, hang or worse.
//!
//! | variable | meaning |
//! |---|---|
//! | `SYMM_NCCL_PATH` | for symm-core: this library's file |
//! | `SYMM_SHIM_NCCL` | the real library, or its folder; `libnccl.so.2` if it is not set |
//! | `SYMM_SHIM_LOG` | where to append the log; `%p` becomes the process id |
//! | `SYMM_SHIM_FAULT` | faults, separated by commas: see `fault.rs` |
//!
//! A line of the log is a number, the time in microseconds since 1970, the thread, and then one of
//!
//! ```text
//! call ncclCommWindowRegister comm=0x7f10 rank=1 buff=0x4000 size=2097152 flags=1
//! fault ncclCommWindowRegister of=12 what=stop
//! ret ncclCommWindowRegister of=12 code=0 window=0x7f20
//! ```
//!
//! where `of` is the number of the call. Numbers are in the order of the lines; those of a call and
//! of its return enclose what the real library did.

mod answer;
mod comms;
pub mod exports;
mod fault;
mod log;
mod real;
