//! Whether a rank's world is alive: its failure, what is revoked then, and what the watchdog looks
//! at.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::gate::{Gate, Launching};
use super::group::{Agreement, Behind};
use super::limits::{Limits, OnUnrecoverable};
use super::watchdog::{self, Watch};
use super::world::WorldBoard;
use crate::backend::Backend;
use crate::backend::driver::{Releases, Seat};
use crate::error::{Error, Result};
use crate::group::communicator::Communicator;
use crate::pool::reaper::Progress;
use crate::trace;

/// How long the launches that were let through may take to end before communicators are revoked all
/// the same: one of them may be stuck in a first collective.
const LAUNCHES: Duration = Duration::from_millis(200);
/// A watchdog that was not seen for so long does not run.
const SILENT: Duration = Duration::from_secs(1);
/// How long the news of a peer's death takes, at most.
const HEARSAY: Duration = Duration::from_millis(500);
/// How long a call that was released may take to come back, for its caller: the rest of it is waited
/// for when the world is rebuilt.
pub(crate) const RETURN: Duration = Duration::from_millis(900);
/// How long a revoke may take (`../shared/reference/review.md`, section 0: 0.5 to 1.0 s each).
pub(crate) const REVOKE: Duration = Duration::from_secs(5);

const INSIDE_NCCL: &str =
    "a call does not come back from NCCL, although its communicator was revoked";

/// A call of NCCL that waits for peers, while it is inside.
#[derive(Debug)]
pub(crate) struct Calling(Arc<AtomicUsize>);

impl Drop for Calling {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One rank's view of its world's health.
#[derive(Debug)]
pub(crate) struct Vitals<B: Backend> {
    seat: Seat,
    device: Arc<B::Device>,
    pub(crate) limits: Limits,
    pub(crate) gate: Gate,
    board: Option<WorldBoard>,
    failed: AtomicBool,
    failure: Mutex<Option<Failure>>,
    /// Counts the times that the world was rebuilt.
    epoch: AtomicU32,
    /// Attempts to rebuild it that all ranks gave up, since it failed.
    attempts: AtomicU64,
    comms: Mutex<Vec<Weak<Communicator<B>>>>,
    agreements: Mutex<Vec<Weak<Agreement>>>,
    released: Released,
    /// What was inside the gate at the last looks, and since when.
    inside: Mutex<Option<(u64, Instant)>>,
    /// Calls of NCCL that were given up.
    stuck: Arc<AtomicUsize>,
    /// When the failure was first looked at.
    failed_at: Mutex<Option<Instant>>,
    /// What is given back on threads of their own, so that the world's end waits for it.
    progress: Arc<Progress>,
}

/// A world's first failure.
#[derive(Clone, Debug)]
struct Failure {
    rank: usize,
    cause: Box<str>,
}

/// How far the release of what waits has come since the failure.
#[derive(Debug, Default)]
struct Released {
    begun: AtomicBool,
    /// Communicators that are being revoked, and the closing of the gate.
    under_way: AtomicUsize,
    /// What cannot be released.
    stuck: Mutex<Option<Box<str>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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

    /// A communicator of this rank, to be revoked with the others.
    pub(crate) fn own(self: &Arc<Self>, comm: B::Comm) -> Arc<Communicator<B>> {
        let comm = Communicator::new(comm);
        {
            let mut comms = lock(&self.comms);
            comms.retain(|known| known.strong_count() > 0);
            comms.push(Arc::downgrade(&comm));
        }
        // It may have been made while the world failed.
        if self.released.begun.load(Ordering::Acquire) {
            self.revoke(Arc::clone(&comm));
        }
        comm
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
    fn adopt(&self) {
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

    /// Closes the gate and revokes every communicator, once, on threads of their own.
    fn release(self: &Arc<Self>) {
        if self.released.begun.swap(true, Ordering::AcqRel) {
            return;
        }
        self.aside(|vitals| {
            vitals.gate.close(LAUNCHES);
            let comms: Vec<_> = lock(&vitals.comms)
                .iter()
                .filter_map(Weak::upgrade)
                .collect();
            comms.into_iter().for_each(|comm| vitals.revoke(comm));
            Ok(())
        });
    }

    /// Revokes a communicator: it takes half a second where something waits.
    fn revoke(self: &Arc<Self>, comm: Arc<Communicator<B>>) {
        if !comm.mark_revoked() {
            return;
        }
        self.aside(|vitals| {
            let revoked = B::revoke(&vitals.device, &comm.comm);
            let released = B::releases(&comm.comm);
            // The last handle may be this one.
            let ended = comm.release(&vitals.device);
            match revoked {
                Err(error) if released != Releases::Nothing => Err(error),
                _ => ended,
            }
        });
    }

    /// Runs a part of the release on a thread of its own.
    fn aside(self: &Arc<Self>, job: impl FnOnce(&Arc<Self>) -> Result<()> + Send + 'static) {
        self.released.under_way.fetch_add(1, Ordering::AcqRel);
        let vitals = Arc::clone(self);
        self.progress.aside("symm-release", move || {
            let outcome = job(&vitals);
            vitals.released.under_way.fetch_sub(1, Ordering::AcqRel);
            outcome
        });
    }

    /// Waits until everything that can be released is, after a failure.
    pub(crate) fn wait_for_release(self: &Arc<Self>) -> Result<()> {
        self.release();
        let end = Instant::now() + REVOKE + LAUNCHES;
        loop {
            let under_way = self.released.under_way.load(Ordering::Acquire);
            if under_way == 0 && self.stuck.load(Ordering::Acquire) == 0 {
                break;
            }
            if Instant::now() > end {
                return Err(self.unrecoverable(INSIDE_NCCL));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Notes what cannot be released, and ends the process if that was asked for.
    pub(crate) fn unrecoverable(&self, what: &str) -> Error {
        let rank = self.seat.rank;
        let what: Box<str> = what.into();
        let error = Error::Unrecoverable {
            rank,
            what: what.clone(),
        };
        if let OnUnrecoverable::Exit(code) = self.limits.on_unrecoverable {
            eprintln!("symm: {error}");
            std::process::exit(code);
        }
        lock(&self.released.stuck).get_or_insert(what);
        error
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

    /// Counts a call of NCCL that waits for peers, until it comes back.
    pub(crate) fn calling(&self) -> Calling {
        self.stuck.fetch_add(1, Ordering::AcqRel);
        Calling(Arc::clone(&self.stuck))
    }

    /// A launch of this rank that does not come back from NCCL: a first collective connects its
    /// ranks, and waits on the host for those that do not.
    fn stuck_launch(&self) -> Option<Error> {
        let mut known = lock(&self.inside);
        let inside = self.gate.inside();
        let now = Instant::now();
        *known = match (inside, *known) {
            (Some(inside), Some((before, since))) if inside == before => Some((before, since)),
            (inside, _) => inside.map(|inside| (inside, now)),
        };
        let after = now - known.as_ref()?.1;
        (after > self.limits.inside()).then(|| Error::Timeout {
            rank: self.seat.rank,
            missing: self.silent(),
            what: "the launch of a collective, inside NCCL".into(),
            after,
        })
    }

    /// A rank of this host whose process does not run any more, although it lives.
    fn stopped(&self) -> Option<Error> {
        let board = self.board.as_ref()?;
        (0..self.seat.ranks).find_map(|rank| {
            let after = board.silence(rank)?;
            let gone = self.seat.rendezvous.has_left(rank);
            (after > self.limits.deadline.max(SILENT) && !gone).then(|| Error::Timeout {
                rank: self.seat.rank,
                missing: [rank].into(),
                what: "a sign of life: the process is stopped, or starved".into(),
                after,
            })
        })
    }

    /// A peer that stays behind where this rank has gone on, and will not come or is late.
    fn laggard(&self) -> Option<Error> {
        let agreements: Vec<_> = lock(&self.agreements)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let left = |rank| self.seat.rendezvous.has_left(rank);
        agreements.iter().find_map(|agreement| {
            let behind = agreement.laggard(self.limits.deadline, left)?;
            Some(self.explain(agreement, &behind))
        })
    }

    fn explain(&self, agreement: &Agreement, behind: &Behind) -> Error {
        let Behind {
            rank, seq, mine, ..
        } = *behind;
        let name = &agreement.name;
        let waiting = agreement.last_of(self.seat.rank, mine);
        let waiting = waiting.map_or_else(String::new, |record| {
            format!(", where rank {} has {record}", self.seat.rank)
        });
        let Some(after) = behind.waited else {
            let cause = format!("it left after step {seq} of {name}{waiting}, which waits for it");
            return Error::PeerFailed {
                rank,
                cause: cause.into(),
            };
        };
        let silence = self.board.as_ref().and_then(|board| board.silence(rank));
        let silence = silence.filter(|silence| *silence > SILENT);
        let silence = silence.map_or_else(String::new, |silence| {
            format!("; its watchdog has not been seen for {silence:?}, so its process is stopped or starved")
        });
        let last = agreement.last_of(rank, seq);
        let last = last.map_or_else(|| "nothing".into(), |record| record.to_string());
        Error::Timeout {
            rank: self.seat.rank,
            missing: [rank].into(),
            what: format!(
                "step {mine} of {name}{waiting}; rank {rank} is at step {seq} with {last}{silence}"
            )
            .into(),
            after,
        }
    }
}

impl<B: Backend> Watch for Vitals<B> {
    fn look(self: Arc<Self>) {
        let epoch = self.epoch.load(Ordering::Acquire);
        if let Some(board) = &self.board {
            board.beat();
        }
        self.adopt();
        if !self.has_failed() {
            let found = self.laggard().or_else(|| self.stuck_launch());
            if let Some(error) = found.or_else(|| self.stopped()) {
                self.poison_in(epoch, &error);
            }
        }
        if self.has_failed() {
            self.release();
            let since = *lock(&self.failed_at).get_or_insert_with(Instant::now);
            if since.elapsed() > REVOKE && self.stuck.load(Ordering::Acquire) > 0 {
                self.unrecoverable(INSIDE_NCCL);
            }
        }
    }
}
