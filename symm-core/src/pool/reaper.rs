//! The thread of a rank that gives things back: it may wait for the device, which `Drop` on a
//! user's thread may not.
//!
//! Order is enforced by ownership, not by the queue: a window holds its segment, a group holds its
//! communicator, its windows and its arena, a buffer holds its group. The reaper waits for the
//! streams that used a thing before it lets go of it.

use std::cell::RefCell;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::segment::Segment;
use crate::backend::Backend;
use crate::error::{Error, Result};

type Job = Box<dyn FnOnce() -> Result<()> + Send>;

/// A handle to the rank's reaper. The thread ends when the handle is dropped and the queue is
/// empty.
#[derive(Debug)]
pub(crate) struct Reaper {
    /// Behind a lock, because jobs come from any thread.
    jobs: Mutex<Sender<Job>>,
    progress: Arc<Progress>,
}

/// How far a reaper has come. Outlives it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pending: usize,
    /// Captures that are under way: no job starts meanwhile.
    held: usize,
    errors: Vec<Error>,
}

impl Reaper {
    pub(crate) fn start(rank: usize) -> Result<Self> {
        let (jobs, queue) = channel::<Job>();
        let progress = Arc::new(Progress::default());
        let seen = Arc::clone(&progress);
        thread::Builder::new()
            .name(format!("symm-reaper-{rank}"))
            .spawn(move || work(&queue, &seen))
            .map_err(|error| Error::Config {
                what: format!("rank {rank}: no thread could be started: {error}").into(),
            })?;
        Ok(Self {
            jobs: Mutex::new(jobs),
            progress,
        })
    }

    /// Runs the job on the reaper's thread, behind all earlier ones.
    pub(crate) fn later(&self, job: impl FnOnce() -> Result<()> + Send + 'static) {
        self.progress.state().pending += 1;
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(unsent) = jobs.send(Box::new(job)) {
            // The thread is gone only if a job panicked: give back here rather than never.
            self.progress.finish((unsent.0)());
        }
    }

    /// Runs the job on a thread of its own. For what waits for peers, as destroying a communicator
    /// does between processes: they may come to their jobs in another order.
    pub(crate) fn aside(&self, job: impl FnOnce() -> Result<()> + Send + 'static) {
        self.progress.aside("symm-destroy", job);
    }

    /// Lets all jobs so far end and keeps later ones waiting while the guard lives: a job may wait for
    /// a stream, which would break a capture of it.
    pub(crate) fn hold(&self, deadline: Duration) -> Result<Held> {
        self.flush(deadline)?;
        self.progress.state().held += 1;
        Ok(Held(Arc::clone(&self.progress)))
    }

    /// Whether jobs are kept waiting.
    pub(crate) fn is_held(&self) -> bool {
        self.progress.state().held > 0
    }

    /// Waits until all jobs so far are done, those on threads of their own excepted.
    pub(crate) fn flush(&self, deadline: Duration) -> Result<()> {
        let (done, reached) = channel();
        self.later(move || {
            // The one who waits may have given up.
            let _ = done.send(());
            Ok(())
        });
        reached
            .recv_timeout(deadline)
            .map_err(|_| still_pending(deadline, self.progress.state().pending))
    }

    /// Lets go of segments once the streams have done their work.
    pub(crate) fn segments<B: Backend>(
        &self,
        segments: Vec<Arc<Segment<B>>>,
        streams: Vec<B::Stream>,
    ) {
        if segments.is_empty() {
            return;
        }
        self.later(move || {
            let waited = drain::<B>(&streams);
            drop(segments);
            waited
        });
    }

    /// Keeps an error of teardown for whoever asks; nobody waits for the result of a drop.
    pub(crate) fn report(&self, outcome: Result<()>) {
        self.progress.report(outcome);
    }

    pub(crate) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }
}

/// Keeps a reaper's jobs waiting.
#[derive(Debug)]
pub(crate) struct Held(Arc<Progress>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.state().held -= 1;
        self.0.changed.notify_all();
    }
}

impl Progress {
    /// Runs the job on a thread of its own, and counts it.
    pub(crate) fn aside(
        self: &Arc<Self>,
        name: &str,
        job: impl FnOnce() -> Result<()> + Send + 'static,
    ) {
        self.state().pending += 1;
        let progress = Arc::clone(self);
        let run = move || progress.finish(job());
        if let Err(error) = thread::Builder::new().name(name.into()).spawn(run) {
            let what = format!("{name}: no thread could be started: {error}");
            self.finish(Err(Error::Config { what: what.into() }));
        }
    }

    /// Waits while the reaper is held.
    fn wait_for_captures(&self) {
        let mut state = self.state();
        while state.held > 0 {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until everything that was dropped so far has been given back, and returns the first
    /// error of it.
    pub(crate) fn wait(&self, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        let mut state = self.state();
        while state.pending > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(still_pending(deadline, state.pending));
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        match state.errors.is_empty() {
            true => Ok(()),
            false => Err(state.errors.remove(0)),
        }
    }

    fn report(&self, outcome: Result<()>) {
        if let Err(error) = outcome {
            self.state().errors.push(error);
        }
    }

    fn finish(&self, outcome: Result<()>) {
        self.report(outcome);
        self.state().pending -= 1;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives the reaper of a process's world time to finish when this thread ends, which for the main
/// thread is just before the process's own teardown: a communicator that is being destroyed while
/// the CUDA libraries are unloaded can crash the exit.
pub(crate) fn wait_at_thread_end(progress: Arc<Progress>) {
    /// Bounded: a process that exits must never hang for a device that is stuck.
    const PATIENCE: Duration = Duration::from_secs(5);

    struct Farewell(Arc<Progress>);

    impl Drop for Farewell {
        fn drop(&mut self) {
            if let Err(error) = self.0.wait(PATIENCE) {
                eprintln!("symm: at exit: {error}");
            }
        }
    }

    thread_local!(static FAREWELLS: RefCell<Vec<Farewell>> = const { RefCell::new(Vec::new()) });
    // A thread that is ending already has nobody left to wait for.
    let _ = FAREWELLS.try_with(|farewells| farewells.borrow_mut().push(Farewell(progress)));
}

fn still_pending(deadline: Duration, steps: usize) -> Error {
    let what = format!(
        "teardown did not end within {deadline:?}: {steps} steps are left, the device may be stuck"
    );
    Error::Config { what: what.into() }
}

fn work(queue: &Receiver<Job>, progress: &Progress) {
    for job in queue {
        progress.wait_for_captures();
        progress.finish(job());
    }
}

/// Waits for all streams, and returns the first error after having waited for the rest.
pub(crate) fn drain<B: Backend>(streams: &[B::Stream]) -> Result<()> {
    streams
        .iter()
        .map(|stream| B::synchronize(stream))
        .fold(Ok(()), Result::and)
}
