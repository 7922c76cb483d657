//! Injected faults: what goes wrong at which call of which rank.

use std::array;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::driver::Seat;
use crate::error::{Error, Result};
use crate::rendezvous::Rendezvous;

/// Something that goes wrong on one rank, once.
///
/// ```
/// use symm_core::host::{At, CallKind, Fault, What};
///
/// // The 40th call of rank 0 fails; the second registration of rank 1 hangs.
/// let faults = [Fault::new(0, At::Nth(40), What::Fail), Fault::new(1, At::Call(CallKind::Register, 2), What::Hang)];
/// assert_eq!(faults[1].at, At::Call(CallKind::Register, 2));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The rank of the world on which it happens.
    pub rank: usize,
    /// The call at which it happens.
    pub at: At,
    /// What happens.
    pub what: What,
}

impl Fault {
    /// `what` happens on `rank` at `at`.
    ///
    /// ```
    /// # use symm_core::{Config, Error, Host};
    /// # use symm_core::host::{At, CallKind, Fault, Options, What};
    /// const FULL: Fault = Fault::new(0, At::Call(CallKind::AllocPlain, 2), What::OutOfMemory);
    ///
    /// let config = Config::<Host>::default().options(Options::default().fault(FULL));
    /// config.run(1, |world| {
    ///     assert!(world.pool().zeros::<f32>(4).is_ok());
    ///     let second = world.pool().zeros::<f32>(4);
    ///     assert!(matches!(second, Err(Error::OutOfMemory { .. })));
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub const fn new(rank: usize, at: At, what: What) -> Self {
        Self { rank, at, what }
    }
}

/// A call of a rank; all counts are from 1.
///
/// ```
/// use symm_core::host::{At, CallKind};
/// assert_ne!(At::Nth(1), At::Call(CallKind::Open, 1)); // the same call, named in two ways
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum At {
    /// The n-th call of any kind.
    Nth(u64),
    /// The n-th call of a kind.
    Call(CallKind, u64),
}

/// What goes wrong.
///
/// ```
/// use std::time::Duration;
/// let slow = symm_core::host::What::Delay(Duration::from_millis(20));
/// assert!(format!("{slow:?}").contains("20ms"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// The call fails, as a broken driver would, and does nothing.
    Fail,
    /// The call does not come back before a peer fails or the world's deadline has passed; then it
    /// fails. Calls that clean up after a failure (`Revoke`, `Abort`, `Recover`) hang until the
    /// deadline.
    Hang,
    /// A registration succeeds without giving a window, on this rank alone. Other calls are left as
    /// they are.
    Null,
    /// The call takes this much longer.
    Delay(Duration),
    /// The call fails because the device has no memory.
    OutOfMemory,
    /// The rank's process is killed (SIGKILL). Only for ranks that are processes.
    Kill,
    /// The rank stops for this long, then makes the call. A rank that is a process stops as a whole
    /// (SIGSTOP), and for as long as its parent pleases: nothing but a SIGCONT from outside lets it
    /// go on. Of a rank that is a thread the thread alone stops.
    Stop(Duration),
}

macro_rules! calls {
    ($($(#[doc = $doc:literal])+ $kind:ident = $name:literal,)+) => {
        /// The calls of a backend that can fail.
        ///
        /// ```
        /// use symm_core::host::CallKind;
        /// assert_eq!(CallKind::AllocSegment.name(), "alloc_segment");
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum CallKind { $($(#[doc = $doc])+ $kind,)+ }

        impl CallKind {
            pub(super) const ALL: [CallKind; [$(CallKind::$kind),+].len()] = [$(CallKind::$kind),+];

            /// The call's name in messages.
            ///
            /// ```
            /// # use symm_core::{Config, Error, Host};
            /// # use symm_core::host::{At, CallKind, Fault, Options, What};
            /// let fault = Fault::new(0, At::Call(CallKind::Upload, 1), What::Fail);
            /// let config = Config::<Host>::default().options(Options::default().fault(fault));
            /// let failed = config.run(1, |world| world.pool().from_slice(&[1.0f32]).map(drop));
            /// assert!(matches!(failed, Err(Error::Backend { call, .. }) if call == CallKind::Upload.name()));
            /// ```
            pub const fn name(self) -> &'static str {
                match self { $(CallKind::$kind => $name,)+ }
            }
        }
    };
}

calls! {
    /// Opening the rank's device.
    Open = "open",
    /// Making a stream.
    NewStream = "new_stream",
    /// Ordering one stream behind another.
    WaitStream = "wait_stream",
    /// Waiting for a stream.
    Synchronize = "synchronize",
    /// `ncclMemAlloc`.
    AllocSegment = "alloc_segment",
    /// `ncclMemFree`.
    FreeSegment = "free_segment",
    /// Allocating ordinary memory.
    AllocPlain = "alloc_plain",
    /// Copying to the device.
    Upload = "upload",
    /// Copying from the device.
    Download = "download",
    /// Copying on the device.
    Copy = "copy",
    /// Writing zeros, or another byte again and again.
    Zero = "zero",
    /// Making a fence, or ordering a stream by one.
    Fence = "fence",
    /// Making the communicator of all ranks.
    Connect = "connect",
    /// `ncclCommSplit`.
    Split = "split",
    /// `ncclCommDestroy`.
    Destroy = "destroy",
    /// `ncclCommWindowRegister`.
    Register = "register",
    /// `ncclCommWindowDeregister`.
    Deregister = "deregister",
    /// Finding out whether symmetric kernels are in use.
    SymmetricKernels = "symmetric_kernels",
    /// `ncclCommRevoke`.
    Revoke = "revoke",
    /// `ncclCommAbort`.
    Abort = "abort",
    /// `ncclCommSuspend`.
    Suspend = "suspend",
    /// `ncclCommResume`.
    Resume = "resume",
    /// Making the device usable again after a failure.
    Recover = "recover",
    /// Enqueuing collectives.
    Launch = "launch",
    /// `cuStreamBeginCapture`.
    BeginCapture = "begin_capture",
    /// `cuStreamEndCapture`, and making what it captured ready to be launched.
    EndCapture = "end_capture",
    /// `cuGraphLaunch`.
    LaunchGraph = "launch_graph",
    /// `cuGraphExecDestroy`.
    DestroyGraph = "destroy_graph",
}

/// How a call goes on after its faults were looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Real,
    Null,
}

/// One rank's calls: counted, and faulted.
#[derive(Debug)]
pub(super) struct Calls {
    rank: usize,
    deadline: Duration,
    rendezvous: Arc<Rendezvous>,
    processes: bool,
    faults: Box<[Fault]>,
    all: AtomicU64,
    kinds: [AtomicU64; CallKind::ALL.len()],
}

impl Calls {
    pub(super) fn new(seat: &Seat, faults: &[Fault]) -> Result<Self> {
        if !seat.processes && faults.iter().any(|fault| fault.what == What::Kill) {
            return Err(Error::Config {
                what: "What::Kill ends a process, and with it all ranks that are its threads: start one process a rank".into(),
            });
        }
        let mine = faults.iter().filter(|fault| fault.rank == seat.rank);
        Ok(Self {
            rank: seat.rank,
            deadline: seat.deadline,
            rendezvous: Arc::clone(&seat.rendezvous),
            processes: seat.processes,
            faults: mine.copied().collect(),
            all: AtomicU64::new(0),
            kinds: array::from_fn(|_| AtomicU64::new(0)),
        })
    }

    /// Calls so far.
    pub(super) fn count(&self) -> u64 {
        self.all.load(Ordering::Relaxed)
    }

    /// The first line of every call that can fail.
    pub(super) fn enter(&self, kind: CallKind) -> Result<Outcome> {
        let nth = self.all.fetch_add(1, Ordering::Relaxed) + 1;
        let of_kind = self.kinds[kind as usize].fetch_add(1, Ordering::Relaxed) + 1;
        let mut outcome = Outcome::Real;
        let here = |at: At| at == At::Nth(nth) || at == At::Call(kind, of_kind);
        for fault in self.faults.iter().filter(|fault| here(fault.at)) {
            match fault.what {
                What::Fail => {
                    let text = format!("injected fault, call {nth} of the rank").into();
                    return Err(Error::Backend {
                        rank: self.rank,
                        call: kind.name(),
                        code: 1,
                        text,
                    });
                }
                What::OutOfMemory => {
                    let what =
                        format!("{} (injected fault, call {nth} of the rank)", kind.name()).into();
                    return Err(Error::OutOfMemory {
                        rank: self.rank,
                        need: 0,
                        what,
                    });
                }
                What::Hang => return Err(self.hang(kind, nth)),
                What::Null => outcome = Outcome::Null,
                What::Delay(time) => thread::sleep(time),
                What::Kill => return Err(self.kill()),
                What::Stop(_) if self.processes => self.stop()?,
                What::Stop(time) => thread::sleep(time),
            }
        }
        Ok(outcome)
    }

    /// Does not come back.
    fn kill(&self) -> Error {
        match signal::kill() {
            Err(text) => self.unsignalled("kill", text),
            // The signal is on its way.
            Ok(()) => loop {
                thread::park();
            },
        }
    }

    fn stop(&self) -> Result<()> {
        signal::stop().map_err(|text| self.unsignalled("stop", text))
    }

    fn unsignalled(&self, call: &'static str, text: String) -> Error {
        Error::Backend {
            rank: self.rank,
            call,
            code: -1,
            text: text.into(),
        }
    }

    /// A call that hangs is released by the failure of a peer, or gives up. What comes after a
    /// failure is not released by it.
    fn hang(&self, kind: CallKind, nth: u64) -> Error {
        let start = Instant::now();
        let failure = match kind {
            CallKind::Revoke | CallKind::Abort | CallKind::Recover => {
                thread::sleep(self.deadline);
                None
            }
            _ => self.rendezvous.wait_failure(self.deadline),
        };
        failure.unwrap_or_else(|| Error::Timeout {
            rank: self.rank,
            missing: Box::default(),
            what: format!("{} (injected hang, call {nth} of the rank)", kind.name()).into(),
            after: start.elapsed(),
        })
    }
}

/// Signals that a process sends itself.
#[cfg(unix)]
mod signal {
    use rustix::process::{Signal, getpid, kill_process};

    fn send(signal: Signal) -> Result<(), String> {
        kill_process(getpid(), signal).map_err(|error| error.to_string())
    }

    pub(super) fn kill() -> Result<(), String> {
        send(Signal::KILL)
    }

    pub(super) fn stop() -> Result<(), String> {
        send(Signal::STOP)
    }
}

#[cfg(not(unix))]
mod signal {
    pub(super) fn kill() -> Result<(), String> {
        std::process::abort()
    }

    pub(super) fn stop() -> Result<(), String> {
        Err("this system has no SIGSTOP".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(faults: &[Fault]) -> (Calls, Vec<Rendezvous>) {
        let mut ends = Rendezvous::threads(2);
        let end = Arc::new(ends.remove(0));
        let seat = Seat {
            launcher: crate::Launcher::Threads,
            rank: 0,
            ranks: 2,
            local_rank: 0,
            local_ranks: 2,
            processes: false,
            rendezvous: end,
            deadline: Duration::from_millis(30),
        };
        (Calls::new(&seat, faults).unwrap(), ends)
    }

    #[test]
    fn faults_hit_the_named_call_of_the_named_rank() {
        let (calls, _peers) = calls(&[
            Fault::new(0, At::Nth(2), What::Fail),
            Fault::new(0, At::Call(CallKind::Copy, 2), What::OutOfMemory),
            Fault::new(1, At::Nth(1), What::Fail),
            Fault::new(0, At::Call(CallKind::Register, 1), What::Null),
        ]);
        assert_eq!(calls.enter(CallKind::Copy).unwrap(), Outcome::Real);
        assert!(matches!(
            calls.enter(CallKind::Zero),
            Err(Error::Backend {
                rank: 0,
                call: "zero",
                ..
            })
        ));
        assert!(matches!(
            calls.enter(CallKind::Copy),
            Err(Error::OutOfMemory { .. })
        ));
        assert_eq!(calls.enter(CallKind::Register).unwrap(), Outcome::Null);
        assert_eq!(calls.count(), 4);
    }

    #[test]
    fn a_stopped_thread_goes_on_and_a_hanging_revoke_outlasts_failures() {
        let short = Duration::from_millis(20);
        let (calls, peers) = calls(&[
            Fault::new(0, At::Call(CallKind::Copy, 1), What::Stop(short)),
            Fault::new(0, At::Call(CallKind::Revoke, 1), What::Hang),
        ]);
        peers[0].fail("gone");
        let start = Instant::now();
        assert_eq!(calls.enter(CallKind::Copy).unwrap(), Outcome::Real);
        assert!(start.elapsed() >= short);
        let hung = calls.enter(CallKind::Revoke);
        assert!(matches!(hung, Err(Error::Timeout { rank: 0, .. })));
    }

    #[test]
    fn a_hang_ends_at_the_deadline_or_with_the_failure_of_a_peer() {
        let hang = Fault::new(0, At::Nth(1), What::Hang);
        assert!(matches!(
            calls(&[hang]).0.enter(CallKind::Launch),
            Err(Error::Timeout { rank: 0, .. })
        ));
        let (calls, peers) = calls(&[hang]);
        peers[0].fail("gone");
        assert!(matches!(
            calls.enter(CallKind::Launch),
            Err(Error::PeerFailed { rank: 1, .. })
        ));
    }
}
