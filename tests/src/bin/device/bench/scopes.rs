//! Time of opening and closing a scope, on the host: `tests/torch_scope.py` sets it beside torch's.

use std::time::Instant;

use serde_json::json;
use symm_core::{Backend, Group, World, symm};
use symm_tests::suite::Outcome;

use super::Tp;
use super::options::Task;
use super::output::{Output, slowest};
use super::table::median;

/// Every segment of the arena.
pub(super) const SEGMENT: u64 = 2 << 20;
/// What a scope allocates.
const BUFFER: usize = 64 << 10;
/// Segments with windows, when it is measured.
const SEGMENTS: [usize; 3] = [1, 25, 100];
/// Scopes between two looks at the clock.
const SCOPES: usize = 10_000;

/// Prints nanoseconds a scope, without and with one buffer.
pub(super) fn run<B: Backend>(world: &World<B>, task: &Task, output: &mut Output) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    output.say(format_args!(
        "\nns a scope, median of {}, slowest rank",
        task.repeats
    ));
    output.say(format_args!(
        "{:>10}{:>16}{:>28}",
        "segments", "open and close", "with a buffer of 64 KiB"
    ));
    let mut kept = Vec::new();
    for segments in SEGMENTS {
        // The last segment stays free for what the scopes allocate.
        let mut last = None;
        while world.pool().stats().segments < segments {
            let full = symm!(group = tp, { tp.empty::<u8>(SEGMENT as usize)? })?;
            kept.extend(last.replace(full));
        }
        drop(last);
        let bare = timed(task.repeats, || Ok(tp.scope()?.close()?))?;
        let with_buffer = timed(task.repeats, || one_buffer(&tp))?;
        let figures = slowest(&tp, world.pool(), &[bare, with_buffer])?;
        output.say(format_args!(
            "{segments:>10}{:>16.0}{:>28.0}",
            figures[0], figures[1]
        ));
        output.keep(json!({
            "segments": segments, "scope_ns": figures[0], "scope_with_buffer_ns": figures[1], "buffer": BUFFER,
        }))?;
    }
    Ok(())
}

/// As `y = torch.empty(..)` in a scope of a loop: freed when the next one is there, or here.
fn one_buffer<B: Backend>(tp: &Group<Tp, B>) -> Outcome {
    let scope = tp.scope()?;
    let buffer = scope.empty::<u8>(BUFFER)?;
    scope.close()?;
    drop(buffer);
    Ok(())
}

/// Nanoseconds of a call: the median of so many runs, behind one that does not count.
fn timed(repeats: usize, mut call: impl FnMut() -> Outcome) -> Outcome<f64> {
    let mut run = || -> Outcome<f64> {
        let started = Instant::now();
        (0..SCOPES).try_for_each(|_| call())?;
        Ok(started.elapsed().as_secs_f64() * 1e9 / SCOPES as f64)
    };
    run()?;
    let runs: Vec<f64> = (0..repeats).map(|_| run()).collect::<Outcome<_>>()?;
    Ok(median(runs.into_iter()))
}
