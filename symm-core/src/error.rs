//! The one error type: every message says what happened, where, and what to do.

mod rule;

use std::time::Duration;

pub use rule::Rule;

use crate::group::path::Reason;
use crate::site::Site;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong.
///
/// Messages name the rank, the group and the source line where these are known, and end with what
/// to do about it. Details are boxed, because an `Error` shares the return slot of every
/// allocation.
///
/// ```
/// use symm_core::{Error, Host, SymmBuf, World, groups};
/// groups! { pub Tp = "tp"; }
///
/// let outside = World::<Host>::run(1, |_world| SymmBuf::<f32, Tp, Host>::empty(8).map(|_| ()));
/// assert!(matches!(outside, Err(Error::NoScope { .. })));
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The backend cannot run on this machine, or was not built in.
    #[error("the {backend} backend cannot run here: {why}")]
    Unavailable {
        /// `"cuda"` or `"host"`.
        backend: &'static str,
        /// What is missing, and what was tried.
        why: Box<str>,
    },
    /// More ranks than devices.
    #[error(
        "{ranks} ranks need {ranks} devices, but only {devices} can be seen: start fewer ranks, widen CUDA_VISIBLE_DEVICES, or, for tests with \
         NCCL 2.30.3 or later, set NCCL_MULTI_RANK_GPU_ENABLE=1"
    )]
    TooFewDevices {
        /// Ranks of the world on this host.
        ranks: usize,
        /// Devices that the driver shows.
        devices: usize,
    },
    /// An environment variable is missing or malformed.
    #[error("environment variable {name}: {problem}")]
    Environment {
        /// The variable.
        name: &'static str,
        /// What is wrong, and what is expected.
        problem: Box<str>,
    },
    /// A bad number of ranks, a bad size of a segment, and the like.
    #[error("{what}")]
    Config {
        /// What is wrong, and what is expected.
        what: Box<str>,
    },
    /// The ranks of a world did not find each other.
    #[error("rank {rank} could not meet its peers: {why}")]
    Rendezvous {
        /// The rank that reports.
        rank: usize,
        /// What failed, and where it was tried.
        why: Box<str>,
    },
    /// Peers did not come to an agreed point in time.
    #[error(
        "rank {rank} waited {after:?} for {} at {what}: they are stuck, gone, or took another way through the program",
        peers(missing)
    )]
    Timeout {
        /// The rank that waited.
        rank: usize,
        /// World ranks that did not come; empty where nobody can tell, because all are inside NCCL.
        missing: Box<[usize]>,
        /// What the rank waited for.
        what: Box<str>,
        /// How long it waited.
        after: Duration,
    },
    /// Another rank returned an error, panicked or left.
    #[error("rank {rank} failed: {cause}")]
    PeerFailed {
        /// The world rank that failed.
        rank: usize,
        /// Its error, as it reported it.
        cause: Box<str>,
    },
    /// The ranks of a group called different things at one point.
    #[error("the ranks of {group} differ at {what}: {detail}")]
    RanksDiffer {
        /// The group.
        group: Box<str>,
        /// The step at which they differ.
        what: Box<str>,
        /// Which rank did what.
        detail: Box<str>,
    },
    /// The world failed before; nothing runs in it any more.
    #[error(
        "this world failed, so nothing is launched in it any more until all ranks have called world.rebuild() ({})",
        told(*rank, cause)
    )]
    Poisoned {
        /// The rank that failed first.
        rank: usize,
        /// Its failure.
        cause: Box<str>,
    },
    /// The world sleeps: [`World::suspend`](crate::World::suspend) gave back what NCCL needs to run.
    #[error(
        "rank {rank}: this world is suspended, so nothing that needs NCCL is started in it until all ranks have called world.resume()"
    )]
    Suspended {
        /// The rank.
        rank: usize,
    },
    /// The world failed, and something in it cannot be released.
    #[error(
        "rank {rank}: {what}; only the end of the process gives the device back: restart it, and see Config::on_unrecoverable"
    )]
    Unrecoverable {
        /// The rank.
        rank: usize,
        /// What is stuck.
        what: Box<str>,
    },
    /// A collective of a strict group would not have taken a symmetric kernel.
    #[error(
        "{operation} on {group} at {site} would be plain ({reason}), but the group is strict: mend the cause, or allow the reason with group.set_strict(Strict::new().allow(..))"
    )]
    NotSymmetric {
        /// The operation.
        operation: &'static str,
        /// The group.
        group: Box<str>,
        /// Why it would be plain.
        reason: Reason,
        /// Where it was called.
        site: Site,
    },
    /// The device has no memory left.
    #[error(
        "rank {rank}: the device has no memory left for {need} bytes of {what}: free something, lower the budget of others, or reserve() earlier"
    )]
    OutOfMemory {
        /// The rank.
        rank: usize,
        /// Bytes that were asked of the device.
        need: u64,
        /// What they were for.
        what: Box<str>,
    },
    /// The pool's byte budget does not allow another segment.
    #[error(
        "rank {rank}: a segment of {need} bytes for arena {arena} would exceed the pool's budget of {budget} bytes ({reserved} are reserved): raise \
         the budget, or free buffers before this allocation"
    )]
    BudgetExceeded {
        /// The rank.
        rank: usize,
        /// The arena that had to grow.
        arena: Box<str>,
        /// Bytes of the segment that was needed.
        need: u64,
        /// Bytes reserved so far.
        reserved: u64,
        /// The budget in bytes.
        budget: u64,
    },
    /// The pool was sealed and an arena would have to grow.
    #[error(
        "rank {rank}: arena {arena} is sealed and has no free block of {need} bytes: reserve() more before seal(), or unseal() where growth is welcome"
    )]
    Sealed {
        /// The rank.
        rank: usize,
        /// The arena.
        arena: Box<str>,
        /// Bytes of the block that was needed: what was asked for, rounded up to whole granules (512
        /// bytes). For a reservation, its bytes.
        need: u64,
    },
    /// A capture needs more memory than was reserved for it.
    #[error(
        "the capture at {site}: graph arena {arena} has no free block of {need} bytes (the largest that is free and registered has {have}): let the capture prime its step, reserve() more, or allow growth; the pool is as it was"
    )]
    CaptureMiss {
        /// The arena.
        arena: Box<str>,
        /// Bytes of the block that was needed: what was asked for, rounded up to whole granules (512
        /// bytes).
        need: u64,
        /// Bytes of the largest free block.
        have: u64,
        /// Where the capture began.
        site: Site,
    },
    /// Something would outlive a capture, or a prime, on memory that another graph writes.
    #[error(
        "graph arena {arena}: {bytes} bytes outlive the capture at {here}, but lie where the graph captured at {there} writes: allocate them before the capture, let the capture prime its step, or reserve() more"
    )]
    GraphOverlap {
        /// The arena.
        arena: Box<str>,
        /// Bytes of the block.
        bytes: u64,
        /// Where the capture began.
        here: Site,
        /// Where the capture of the other graph began.
        there: Site,
    },
    /// A graph of a world that was rebuilt since.
    #[error(
        "the graph captured at {site} belongs to communicators that failed: its world was rebuilt since, so capture it again"
    )]
    StaleGraph {
        /// Where the capture began.
        site: Site,
    },
    /// Memory of somebody else in a capture, which the graph could not keep.
    #[error(
        "{what} is memory that this crate does not own, in the capture at {site}: replays would use it when it is gone; pass plain(&Arc<CudaSlice>) to read it, or hand it over with pool.adopt(slice)"
    )]
    CaptureForeign {
        /// The operation and the operand.
        what: Box<str>,
        /// Where the capture began.
        site: Site,
    },
    /// Something that a capture cannot hold.
    #[error("{what} is not possible in the capture at {site}: {why}")]
    InCapture {
        /// What was called.
        what: &'static str,
        /// Why not, and what to do.
        why: &'static str,
        /// Where the capture, or prime, began.
        site: Site,
    },
    /// A length or a byte count that no memory can have.
    #[error("{elements} elements of {bytes_each} bytes do not fit an address space")]
    TooLarge {
        /// Elements asked for.
        elements: usize,
        /// Bytes of one element.
        bytes_each: usize,
    },
    /// A symmetric buffer was asked for outside any scope of its group.
    #[error(
        "no scope of group {group} is open on this thread: annotate the function with #[symmetric(group = ..)], or open group.scope()"
    )]
    NoScope {
        /// The tag that was asked for.
        group: &'static str,
    },
    /// The innermost scope of the tag belongs to another group.
    #[error(
        "the innermost scope of {wanted} on this thread is of {found}: open a scope of the group that the buffer is for"
    )]
    WrongScope {
        /// The group that was asked for.
        wanted: Box<str>,
        /// The group whose scope is open.
        found: Box<str>,
    },
    /// The scopes that are open on this thread are of another backend.
    #[error(
        "a buffer of the {wanted} backend was asked for, but the scopes on this thread are of the {found} backend: name it, as in `SymmBuf::<f32, Tp, _>`"
    )]
    WrongBackend {
        /// The backend of the buffer.
        wanted: &'static str,
        /// The backend of the innermost scope.
        found: &'static str,
    },
    /// Ordinary memory was asked for on a thread that belongs to no world.
    #[error(
        "this thread belongs to no world of the {backend} backend: use world.pool().empty(..), or allocate on the thread that made the world"
    )]
    NoWorld {
        /// The backend that was asked for.
        backend: &'static str,
    },
    /// Scopes were closed in another order than they were opened.
    #[error(
        "the scope opened at {closed} was closed before the one opened inside it at {inner}: close scopes in reverse order, and never leak one"
    )]
    ScopeOrder {
        /// Where the scope that was closed was opened.
        closed: Site,
        /// Where a scope was opened that is still open inside it.
        inner: Site,
    },
    /// A rank ended with a scope open.
    #[error(
        "the scope opened at {site} was never closed or dropped: a leaked scope redirects every later allocation of its thread"
    )]
    ScopeLeaked {
        /// Where the outermost of them was opened.
        site: Site,
    },
    /// A buffer of one group met another group.
    #[error(
        "{what}: the buffer belongs to {buffer}, but the call is on {group}: use the buffer's own group, or pass it as plain(&buffer)"
    )]
    GroupMismatch {
        /// The operation and operand.
        what: Box<str>,
        /// The buffer's group.
        buffer: Box<str>,
        /// The group that was called.
        group: Box<str>,
    },
    /// [`Group::downcast`](crate::Group::downcast) to a tag that the group does not have.
    #[error(
        "{group} has the tag {found}, not {wanted}: downcast it to the tag that it was split with, which is Dyn for world.split_dyn"
    )]
    WrongTag {
        /// The group.
        group: Box<str>,
        /// The tag that it was split with, by its path.
        found: &'static str,
        /// The tag that was asked for.
        wanted: &'static str,
    },
    /// Another thread uses the group, or an arena that it shares.
    #[error(
        "{group} is in use at {there} on another thread, so {here} may not use it: one thread at a time may use a group, or its ranks would differ"
    )]
    GroupBusy {
        /// The group.
        group: Box<str>,
        /// Where the refused call is.
        here: Site,
        /// Where the other thread entered.
        there: Site,
    },
    /// An operand has the wrong number of elements.
    #[error("{what}, on {group}: {got} elements, {expected} are needed")]
    Length {
        /// The operation and the operand.
        what: Box<str>,
        /// The group.
        group: Box<str>,
        /// Its elements.
        got: usize,
        /// Elements needed.
        expected: usize,
    },
    /// A range of elements outside its buffer.
    #[error("elements {start}..{end} lie outside a buffer of {len}")]
    Range {
        /// First element.
        start: usize,
        /// One past the last element.
        end: usize,
        /// Elements of the buffer.
        len: usize,
    },
    /// A copy between memory of different lengths.
    #[error(
        "a copy of {got} elements into {expected}: copy as many as there are, or take a view of the longer side"
    )]
    CopyLength {
        /// Elements of the source.
        got: usize,
        /// Elements of the destination.
        expected: usize,
    },
    /// Two operands overlap in a way that the operation does not allow.
    #[error(
        "{operation} on {group}: source and destination overlap: use the in-place form, or buffers that do not overlap"
    )]
    Overlap {
        /// The operation.
        operation: &'static str,
        /// The group.
        group: Box<str>,
    },
    /// A root or peer that the group does not have.
    #[error("{operation} on {group}: rank {rank} does not exist in a group of {size}")]
    NoSuchRank {
        /// The operation.
        operation: &'static str,
        /// The group.
        group: Box<str>,
        /// The rank that was named.
        rank: usize,
        /// Ranks of the group.
        size: usize,
    },
    /// Memory or a stream of another device, world or rank.
    #[error(
        "{what} is of {found}, but {device} is needed: use what belongs to the group's own rank"
    )]
    WrongDevice {
        /// The operation and the operand.
        what: Box<str>,
        /// Where the operand is.
        found: Box<str>,
        /// Where the group is.
        device: Box<str>,
    },
    /// The NCCL in use does not have what was asked for.
    #[error("{what} is not available: {why}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// Why not, and from which version on.
        why: Box<str>,
    },
    /// Registering a segment failed.
    #[error(
        "{group}: segment {segment} ({bytes} bytes) could not be registered (scope at {site}): {cause}"
    )]
    Registration {
        /// The group.
        group: Box<str>,
        /// Index of the segment in its arena.
        segment: usize,
        /// Its bytes.
        bytes: u64,
        /// The scope or call whose end made it due.
        site: Site,
        /// What the backend said.
        cause: Box<Error>,
    },
    /// A call of the driver or of NCCL failed.
    #[error("rank {rank}: {call} failed with code {code}: {text}")]
    Backend {
        /// The rank.
        rank: usize,
        /// The function that failed.
        call: &'static str,
        /// Its code.
        code: i32,
        /// What the library says about it.
        text: Box<str>,
    },
    /// Something wrote past the end of a buffer: [`Config::redzones`](crate::Config::redzones) found
    /// it when the buffer was freed.
    #[error(
        "rank {rank}: {changed} bytes behind a buffer of {bytes} bytes (arena {arena}, segment {segment}, offset {offset}) were overwritten, the \
         first of them {first} bytes past its end: see which kernels use the buffer, or the one that follows it, and which sizes they are given; \
         what lies behind the redzone may be wrong too"
    )]
    Redzone {
        /// The rank.
        rank: usize,
        /// The arena.
        arena: Box<str>,
        /// Index of the segment in its arena.
        segment: usize,
        /// Where the buffer began in the segment.
        offset: u64,
        /// Bytes of the buffer.
        bytes: u64,
        /// Bytes from the buffer's end to the first that was overwritten; 0 is the very next one.
        first: u64,
        /// How many bytes were overwritten, up to the end of the buffer's block.
        changed: u32,
    },
    /// The host backend saw something that real hardware would do silently wrong.
    #[error("rank {rank}: {rule}: {detail}")]
    Violation {
        /// The rank that reports.
        rank: usize,
        /// The rule that was broken.
        rule: Rule,
        /// Where, and by how much.
        detail: Box<str>,
    },
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        std::io::Error::other(error)
    }
}

impl Error {
    /// Whether the failure is of the machine or its set-up (no driver, no NCCL, too few devices),
    /// so that a caller may fall back.
    ///
    /// ```
    /// use symm_core::{Cuda, Host, World};
    /// // On a machine without GPUs:
    /// match World::<Cuda>::run(1, |w| Ok(w.size())) {
    ///     Ok(sizes) => assert_eq!(sizes, [1]),
    ///     Err(e) => assert!(e.is_unavailable(), "{e}"),
    /// }
    /// ```
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Error::Unavailable { .. } | Error::TooFewDevices { .. }
        )
    }
}

/// Whose failure it is; most say so themselves.
fn told(rank: usize, cause: &str) -> String {
    let own = format!("rank {rank}: ");
    format!("{own}{}", cause.strip_prefix(&own).unwrap_or(cause))
}

/// Who is waited for.
fn peers(missing: &[usize]) -> String {
    match missing {
        [] => "its peers".into(),
        ranks => format!("ranks {ranks:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_stays_small() {
        assert!(size_of::<Error>() <= 64, "{} bytes", size_of::<Error>());
    }
}
