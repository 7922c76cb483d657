//! Calls that may never come back run on a thread of their own, and the caller waits with a
//! deadline.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::error::{Error, Result};

/// How a watched call ended.
#[derive(Debug)]
pub(crate) enum Ended<T> {
    /// It came back.
    Back(T),
    /// It is still inside when both deadlines have passed. Its thread, and what it owns, are left to
    /// it.
    Stuck,
}

/// Runs `call`; if it is not back in time, `release` is called, which should make it come back, and
/// it has `grace` more.
pub(crate) fn watched<T: Send + 'static>(
    name: &'static str,
    deadline: Duration,
    grace: Duration,
    call: impl FnOnce() -> Result<T> + Send + 'static,
    release: impl FnOnce(),
) -> Result<Ended<T>> {
    let (done, outcome) = channel();
    thread::Builder::new()
        .name(format!("symm-{name}"))
        .spawn(move || {
            // The one who waits may have given up.
            let _ = done.send(call());
        })
        .map_err(|error| Error::Config {
            what: format!("{name}: no thread could be started: {error}").into(),
        })?;
    let waited = match outcome.recv_timeout(deadline) {
        Err(RecvTimeoutError::Timeout) => {
            release();
            outcome.recv_timeout(grace)
        }
        waited => waited,
    };
    match waited {
        Ok(result) => result.map(Ended::Back),
        Err(RecvTimeoutError::Timeout) => Ok(Ended::Stuck),
        Err(RecvTimeoutError::Disconnected) => Err(Error::Config {
            what: format!("{name} panicked: please report this").into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const SOON: Duration = Duration::from_millis(10);
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_comes_back_is_handed_on() {
        let back = watched("test", LONG, LONG, || Ok(7), || panic!("in time"));
        assert!(matches!(back, Ok(Ended::Back(7))), "{back:?}");
        let failed: Result<Ended<()>> = watched(
            "test",
            LONG,
            LONG,
            || Err(Error::Config { what: "no".into() }),
            || panic!("in time"),
        );
        assert!(failed.is_err_and(|error| error.to_string() == "no"));
    }

    #[test]
    fn what_is_late_is_released_or_left() {
        let (release, wait) = channel::<()>();
        let late = watched(
            "test",
            SOON,
            LONG,
            move || Ok(wait.recv().is_ok()),
            || release.send(()).unwrap(),
        );
        assert!(matches!(late, Ok(Ended::Back(true))), "{late:?}");
        let (_never, wait) = channel::<()>();
        let stuck = watched("test", SOON, SOON, move || Ok(wait.recv().is_ok()), || {});
        assert!(matches!(stuck, Ok(Ended::Stuck)), "{stuck:?}");
    }
}
