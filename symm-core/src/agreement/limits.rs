//! How long ranks wait, and what happens where nothing helps.

use std::time::Duration;

/// What a process does when its device cannot be released: a kernel waits for a peer that will not
/// come, and its NCCL cannot end it (before 2.29.7, kernels on windows).
///
/// ```
/// use symm_core::{Config, Host, OnUnrecoverable};
/// // A server that is restarted by its supervisor.
/// let config = Config::<Host>::default().on_unrecoverable(OnUnrecoverable::Exit(75));
/// assert_eq!(config.run(1, |world| Ok(world.rank()))?, [0]);
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnUnrecoverable {
    /// Calls return [`Error::Unrecoverable`](crate::Error::Unrecoverable); the process goes on
    /// without the device.
    #[default]
    Error,
    /// The process ends with this status, after a line on standard error.
    Exit(i32),
}

/// The limits of a world.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// For a live peer at an agreed point.
    pub(crate) deadline: Duration,
    /// Once all ranks are inside a call of NCCL.
    pub(crate) inside: Duration,
    /// Whether ranks compare what they call.
    pub(crate) checks: bool,
    /// Whether every collective waits for all ranks before it is launched.
    pub(crate) agree_first: bool,
    pub(crate) on_unrecoverable: OnUnrecoverable,
}

impl Limits {
    /// For all ranks once they are inside a call of NCCL: never longer than for a rank that does not
    /// come.
    pub(crate) fn inside(&self) -> Duration {
        self.inside.min(self.deadline)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(600),
            inside: Duration::from_secs(30),
            checks: true,
            agree_first: false,
            on_unrecoverable: OnUnrecoverable::Error,
        }
    }
}
