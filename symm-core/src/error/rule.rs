//! The rules that the host backend keeps where real hardware would do something silently wrong.

use std::fmt;

/// What the host backend checks and NCCL does not.
///
/// ```
/// # use symm_core::{Config, Error, Host, ReduceOp, Rule, groups, symm};
/// # groups! { pub Tp = "tp"; }
/// // Without the comparison of ranks, what they allocate differently goes unseen in NCCL.
/// let outcome = Config::<Host>::default().checks(false).run(2, |world| {
///     let tp = world.split::<Tp>(0, 0)?;
///     tp.reserve(1 << 20)?;
///     let _y = symm!(group = tp, { tp.empty::<u8>(512 * (1 + tp.rank()))? })?;
///     let mut x = symm!(group = tp, { tp.zeros::<f32>(4)? })?;
///     tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
///     world.synchronize()
/// });
/// let Err(Error::Violation { rule, .. }) = outcome else { panic!("{outcome:?}") };
/// assert_eq!(rule, Rule::UnequalOffsets);
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// The operand that peers address lies at different offsets of its window.
    UnequalOffsets,
    /// Some ranks of a collective have the window and others do not.
    MissingWindow,
    /// An operand runs past the end of its window or allocation.
    Overrun,
    /// Memory was used after it was given back to the device.
    UseAfterFree,
    /// A second window on a segment that has one already.
    DoubleRegistration,
    /// A segment was freed while a window on it was alive.
    FreedWhileRegistered,
    /// A window outlived its communicator, was deregistered twice, or while work used it.
    StaleWindow,
    /// A stream that is being captured would wait for work that is not part of the capture.
    CaptureIsolation,
    /// A call that a capture cannot hold.
    CaptureUnsupported,
    /// A capture ended before its first stream had waited for all that joined.
    CaptureUnjoined,
    /// What a graph uses was given back while the graph was alive, or the graph while it ran.
    GraphAlive,
    /// A communicator was used after it was revoked, or after its world was rebuilt.
    RevokedComm,
    /// A communicator was used while it was suspended, or suspended or resumed twice.
    SuspendedComm,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rule::UnequalOffsets => {
                "unequal window offsets (NCCL would compute garbage on all ranks, with success)"
            }
            Rule::MissingWindow => {
                "some ranks have a window and others do not (NCCL's kernels would differ and hang)"
            }
            Rule::Overrun => {
                "an operand runs past its window or allocation (NCCL checks the start alone)"
            }
            Rule::UseAfterFree => "memory used after it was freed",
            Rule::DoubleRegistration => {
                "a second window on one segment of one communicator (undefined behaviour in NCCL)"
            }
            Rule::FreedWhileRegistered => {
                "a segment freed while it is registered (NCCL would go on with the old memory)"
            }
            Rule::StaleWindow => "a window used after its communicator or itself was destroyed",
            Rule::CaptureIsolation => {
                "a captured stream waits for work outside its capture (a replay would not)"
            }
            Rule::CaptureUnsupported => {
                "a call that a capture cannot hold (CUDA would invalidate the capture)"
            }
            Rule::CaptureUnjoined => {
                "a stream joined the capture and was never waited for by its first stream"
            }
            Rule::GraphAlive => {
                "given back while a graph needs it (NCCL would wait for ever, or use what is gone)"
            }
            Rule::RevokedComm => {
                "a launch on a communicator that was revoked (NCCL's kernel would hang, or use what is gone)"
            }
            Rule::SuspendedComm => {
                "a communicator used while it is suspended (NCCL's kernel would use memory that is not mapped)"
            }
        })
    }
}
