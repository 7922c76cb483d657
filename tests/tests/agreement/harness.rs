//! A rank of a test's world, and what holds after every difference: all ranks are told the same
//! cause, and after a rebuild the same code is exact and memory is as it was.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use symm_core::{Buf, Config, Error, Group, Host, Result, World, groups};

groups! {
    pub(crate) Tp = "tp";
    pub(crate) Cp = "cp";
    pub(crate) Meeting = "meeting";
}

/// Long enough for a loaded machine: nothing in a test with it waits for it.
pub(crate) fn config() -> Config<Host> {
    Config::default().deadline(Duration::from_secs(30))
}

/// One rank, with a group of all ranks.
pub(crate) struct Rank {
    pub(crate) world: World<Host>,
    pub(crate) tp: Group<Tp, Host>,
}

/// Bytes of segments, of buffers in them, and of ordinary memory.
pub(crate) type Held = (u64, u64, u64);

impl Rank {
    pub(crate) fn new(world: World<Host>) -> Result<Self> {
        let tp = world.split(0, 0)?;
        Ok(Self { world, tp })
    }

    /// This rank's number.
    pub(crate) fn me(&self) -> usize {
        self.world.rank()
    }

    /// Waits until all ranks are here: what fails then, fails none of them before. Keep the group.
    pub(crate) fn meets(&self) -> Result<Group<Meeting, Host>> {
        self.world.split(0, 0)
    }

    pub(crate) fn held(&self) -> Held {
        let stats = self.world.pool().stats();
        (
            stats.reserved_bytes,
            stats.live_bytes(),
            stats.plain_live_bytes,
        )
    }

    /// What the rank holds once the reaper has come to rest: what is dropped goes back on another
    /// thread.
    pub(crate) fn holds(&self) -> Held {
        let (mut last, mut looks) = (self.held(), 0);
        while looks < 10 {
            thread::sleep(Duration::from_millis(1));
            let now = self.held();
            looks = if now == last { looks + 1 } else { 0 };
            last = now;
        }
        last
    }

    /// Waits until the rank holds no more than that.
    pub(crate) fn comes_to_hold(&self, expected: Held) {
        let end = Instant::now() + Duration::from_secs(10);
        let more = |now: Held| now.0 > expected.0 || now.1 > expected.1 || now.2 > expected.2;
        while more(self.held()) {
            assert!(
                Instant::now() < end,
                "rank {} holds {:?}, not {expected:?} as before",
                self.me(),
                self.held()
            );
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// What this rank is told of a step that some rank took another way: its own error, or that of
    /// the world soon after.
    pub(crate) fn told(&self, outcome: Result<impl Sized>) -> Error {
        let end = Instant::now() + Duration::from_secs(20);
        match outcome {
            // Not of the world: nothing is launched, and all go on.
            Err(error) if !matches!(error, Error::NotSymmetric { .. }) => error,
            _ => loop {
                if let Err(error) = self.world.check() {
                    return error;
                }
                assert!(
                    Instant::now() < end,
                    "rank {} was not told of the difference",
                    self.me()
                );
                thread::sleep(Duration::from_millis(1));
            },
        }
    }

    /// An allocation outside of any scope is ordinary: routing is as it was.
    pub(crate) fn routes_as_before(&self) -> Result<()> {
        let buf: Buf<u8, Host> = Buf::empty(1)?;
        assert!(!buf.is_symmetric(), "a scope is still open");
        Ok(())
    }
}

/// What an error gives as the cause, whether this rank found it or was told.
pub(crate) fn cause(error: &Error) -> String {
    match error {
        Error::Poisoned { cause, .. } | Error::PeerFailed { cause, .. } => cause.to_string(),
        Error::Registration { cause: inner, .. } => match &**inner {
            Error::Poisoned { cause, .. } | Error::PeerFailed { cause, .. } => cause.to_string(),
            _ => error.to_string(),
        },
        _ => error.to_string(),
    }
}

/// The one cause that all ranks were told.
pub(crate) fn same_cause(causes: &[String]) -> Result<&str, Failed> {
    let different: BTreeSet<&String> = causes.iter().collect();
    match different.len() {
        1 => Ok(&causes[0]),
        _ => Err(format!("the ranks were told different causes: {causes:#?}").into()),
    }
}

/// The lines of `file` that a message names.
pub(crate) fn lines_of(file: &str, message: &str) -> BTreeSet<u32> {
    let start = format!("{file}:");
    let parts = message.split(&start).skip(1);
    parts
        .filter_map(|rest| {
            let digits = rest.find(|c: char| !c.is_ascii_digit());
            rest[..digits.unwrap_or(rest.len())].parse().ok()
        })
        .collect()
}

/// One step, which the rank takes another way if it is the odd one.
pub(crate) type Step = fn(&Rank, bool) -> Result<Vec<f32>>;

/// Runs the step with each of two odd ranks, which come first or last: all ranks are told one cause
/// that has the words; a rebuilt world computes what it did before, and holds as much. Returns the
/// causes.
pub(crate) fn differs(ranks: usize, step: Step, says: &[&str]) -> Result<Vec<String>, Failed> {
    let mut all = Vec::new();
    for odd in [0, ranks - 1] {
        for late in [false, true] {
            let causes = config().run(ranks, |world| one_difference(world, step, odd, late))?;
            let cause = same_cause(&causes)?;
            for word in says {
                if !cause.contains(word) {
                    return Err(format!("{word:?} is not in {cause:?}").into());
                }
            }
            all.push(cause.to_owned());
        }
    }
    Ok(all)
}

fn one_difference(world: World<Host>, step: Step, odd: usize, late: bool) -> Result<String> {
    let rank = Rank::new(world)?;
    let is_odd = rank.me() == odd;
    let expected = step(&rank, false)?;
    let _met = rank.meets()?;
    let before = rank.holds();
    if is_odd == late {
        thread::sleep(Duration::from_millis(5));
    }
    let told = rank.told(step(&rank, is_odd));
    assert!(
        matches!(rank.world.check(), Err(Error::Poisoned { .. })),
        "the world goes on: {told}"
    );
    assert!(rank.tp.scope().is_err(), "the group goes on: {told}");
    rank.routes_as_before_or_refused();
    rank.world.rebuild()?;
    for _ in 0..2 {
        assert_eq!(step(&rank, false)?, expected, "after the rebuild");
    }
    rank.routes_as_before()?;
    rank.comes_to_hold(before);
    Ok(cause(&told))
}

impl Rank {
    /// In a world that failed, memory may be refused, but is never another scope's.
    pub(crate) fn routes_as_before_or_refused(&self) {
        if let Ok(buf) = Buf::<u8, Host>::empty(1) {
            assert!(!buf.is_symmetric(), "a scope is still open");
        }
    }
}
