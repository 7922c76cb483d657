//! Whether a rank's world is alive, and what it failed of.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::gate::{Gate, Launching};
use super::group::Agreement;
use super::limits::Limits;
use super::release::Released;
use super::watchdog;
use super::world::WorldBoard;
use crate::backend::Backend;
use crate::backend::driver::Seat;
use crate::error::{Error, Result};
use crate::group::communicator::Communicator;
use crate::pool::reaper::Progress;
use crate::trace;

/// A watchdog that was not seen for so long does not run.
pub(super) const SILENT: Duration = Duration::from_secs(1);
/// How long the news of a peer's death takes, at most.
const HEARSAY: Duration = Duration::from_millis(500);

/// One rank's view of its world's health.
#[derive(Debug)]
pub(crate) struct Vitals<B: Backend> {
    pub(super) seat: Seat,
    pub(super) device: Arc<B::Device>,
    pub(crate) limits: Limits,
    pub(crate) gate: Gate,
    pub(super) board: Option<WorldBoard>,
    failed: AtomicBool,
    failure: Mutex<Option<Failure>>,
    /// Counts the times that the world was rebuilt.
    pub(super) epoch: AtomicU32,
    /// Attempts to rebuild it that all ranks gave up, since it failed.
    attempts: AtomicU64,
    pub(super) comms: Mutex<Vec<Weak<Communicator<B>>>>,
    pub(super) agreements: Mutex<Vec<Weak<Agreement>>>,
    pub(super) released: Released,
    /// What was inside the gate at the last looks, and since when.
    pub(super) inside: Mutex<Option<(u64, Instant)>>,
    /// Calls of NCCL that were given up.
    pub(super) stuck: Arc<AtomicUsize>,
    /// When the failure was first looked at.
    pub(super) failed_at: Mutex<Option<Instant>>,
    /// What is given back on threads of their own, so that the world's end waits for it.
    pub(super) progress: Arc<Progress>,
}

/// A world's first failure.
#[derive(Clone, Debug)]
struct Failure {
    rank: usize,
    cause: Box<str>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B: Backend> Vitals<B> {
    /// Of a rank whose world begins; the watchdog looks after it from here on.
    pub(crate) fn new(
        seat: &Seat,
        device: &Arc<B::Device>,
        limits: Limits,
        board: Option<WorldBoard>,
        progress: Arc<Progress>,
    ) -> Result<Arc<Self>> {
        let vitals = Arc::new(Self {
            seat: seat.clone(),
            device: Arc::clone(device),
            limits,
            gate: Gate::default(),
            board,
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
            epoch: AtomicU32::new(0),
            attempts: AtomicU64::new(0),
            comms: Mutex::default(),
            agreements: Mutex::default(),
            released: Released::default(),
            inside: Mutex::new(None),
            stuck: Arc::default(),
            failed_at: Mutex::new(None),
            progress,
        });
        if vitals.limits.checks && seat.ranks > 1 {
            let weak: Weak<Self> = Arc::downgrade(&vitals);
            watchdog::look_after(weak).map_err(|error| Error::Config {
                what: format!("the watchdog's thread could not be started: {error}").into(),
            })?;
        }
        Ok(vitals)
    }

    /// Has the watchdog look at how far the peers of a group have come.
    pub(crate) fn follow(&self, agreement: &Arc<Agreement>) {
        let mut agreements = lock(&self.agreements);
        agreements.retain(|known| known.strong_count() > 0);
        agreements.push(Arc::downgrade(agreement));
    }

    /// How many attempts to rebuild the world came to nothing since it failed; the same on all ranks.
    pub(crate) fn attempt(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }

    /// All ranks gave an attempt up, because they differ.
    pub(crate) fn try_again(&self) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
    }

    /// Fails once the world has failed. What every call asks first.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        let told = || self.board.as_ref().is_some_and(|board| board.is_poisoned());
        match self.failed.load(Ordering::Acquire) || told() {
            false => Ok(()),
            true => Err(self.poisoned()),
        }
    }

    /// Why nothing is launched any more.
    #[cold]
    fn poisoned(&self) -> Error {
        self.adopt();
        if let Some(what) = lock(&self.released.stuck).clone() {
            let rank = self.seat.rank;
            return Error::Unrecoverable { rank, what };
        }
        match lock(&self.failure).clone() {
            Some(Failure { rank, cause }) => Error::Poisoned { rank, cause },
            None => Error::Poisoned {
                rank: self.seat.rank,
                cause: "the world is being rebuilt".into(),
            },
        }
    }

    /// Lets a launch through while the world is whole.
    #[inline]
    pub(crate) fn launching(&self) -> Result<Launching<'_>> {
        self.gate.enter().ok_or_else(|| self.poisoned())
    }

    /// Ends the world for all ranks; the first cause stays. Poison is stored before anything is
    /// released: what a released kernel computes is garbage, and reported as success.
    pub(crate) fn poison(&self, cause: &Error) {
        self.poison_in(self.epoch.load(Ordering::Acquire), cause);
    }

    /// The same for what was found in this epoch, if it is not over.
    pub(crate) fn poison_in(&self, epoch: u32, cause: &Error) {
        let own = self.seat.rank;
        let (rank, cause) = match cause {
            Error::Poisoned { rank, cause } | Error::PeerFailed { rank, cause } => {
                (*rank, cause.clone())
            }
            other => (own, other.to_string().into()),
        };
        // What the rendezvous knows of was first.
        self.adopt();
        if let Some(board) = &self.board {
            board.poison(epoch, rank, &cause);
        }
        self.adopt();
        self.fail(epoch, Failure { rank, cause });
    }

    /// What a call that failed failed of: NCCL's own errors say little where a peer died, or where the
    /// call was released because the world had failed.
    pub(crate) fn explained(&self, error: Error) -> Error {
        const REMOTE_ERROR: i32 = 6;
        let remote = matches!(&error, Error::Backend { code, .. } if *code == REMOTE_ERROR);
        let end = Instant::now() + HEARSAY;
        loop {
            match self.check() {
                Err(known) => return known,
                Ok(()) if !remote || Instant::now() > end => return error,
                Ok(()) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Ranks of this host whose watchdogs do not run: stopped, or starved.
    pub(crate) fn silent(&self) -> Box<[usize]> {
        let Some(board) = &self.board else {
            return Box::default();
        };
        let silent = |rank: &usize| board.silence(*rank).is_some_and(|silence| silence > SILENT);
        (0..self.seat.ranks).filter(silent).collect()
    }

    /// Ends the world for all ranks with this error, and returns it; or what ended it before, so that
    /// all ranks return the same cause when several find a difference at once.
    pub(crate) fn first(&self, error: Error) -> Error {
        self.poison(&error);
        // A registration has a cause of its own, and says where this rank's scope is.
        if matches!(
            error,
            Error::Poisoned { .. } | Error::PeerFailed { .. } | Error::Registration { .. }
        ) {
            return error;
        }
        match lock(&self.failure).clone() {
            Some(Failure { rank, cause })
                if rank != self.seat.rank || !error.to_string().starts_with(&*cause) =>
            {
                Error::Poisoned { rank, cause }
            }
            _ => error,
        }
    }

    /// Takes over the failure that the board or the rendezvous knows of.
    pub(super) fn adopt(&self) {
        // Before anything else is read: a thread may sleep here until the world is another.
        let epoch = self.epoch.load(Ordering::Acquire);
        if self.failed.load(Ordering::Acquire) {
            return;
        }
        let told = self.board.as_ref().and_then(|board| board.cause(epoch));
        if let Some((rank, cause)) = told {
            let cause = cause.into();
            self.fail(epoch, Failure { rank, cause });
        } else if let Some(Error::PeerFailed { rank, cause }) = self.seat.rendezvous.failure() {
            if let Some(board) = &self.board {
                board.poison(epoch, rank, &cause);
            }
            self.fail(epoch, Failure { rank, cause });
        }
    }

    /// The world failed in this epoch; what failed before the world was rebuilt says nothing of it.
    fn fail(&self, epoch: u32, failure: Failure) {
        let (first, cause) = (failure.rank, failure.cause.clone());
        {
            let mut known = lock(&self.failure);
            if known.is_some() || self.epoch.load(Ordering::Relaxed) != epoch {
                return;
            }
            self.seat.rendezvous.fail(&failure.cause);
            *known = Some(failure);
            self.failed.store(true, Ordering::Release);
        }
        watchdog::call();
        trace::poisoned(self.seat.rank, first, &cause);
    }

    /// Whether the world failed in this epoch.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Begins the next epoch: nothing has failed, launches are let through. All ranks of the world
    /// agreed on it.
    pub(crate) fn renew(&self) {
        let mut failure = lock(&self.failure);
        let epoch = self.epoch.load(Ordering::Relaxed) + 1;
        self.seat.rendezvous.renew();
        if let Some(board) = &self.board {
            board.renew(epoch);
        }
        *failure = None;
        *lock(&self.failed_at) = None;
        // Of communicators that are gone for good.
        lock(&self.agreements).clear();
        self.attempts.store(0, Ordering::Relaxed);
        self.released.begun.store(false, Ordering::Release);
        // Behind the rendezvous: what that knows from here on is of this epoch.
        self.epoch.store(epoch, Ordering::Release);
        self.failed.store(false, Ordering::Release);
        self.gate.open();
    }
}
