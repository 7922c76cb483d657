//! The start of a program: memory, registered in two groups, beside the raw calls for it.

use std::time::{Duration, Instant};

use serde_json::json;
use symm_core::{Backend, Group, SymmBuf, World, groups, symm};
use symm_tests::suite::{Failure, Outcome};

use super::Tp;
use super::options::Task;
use super::ours::Measured;
use super::output::{Output, slowest};
use super::table::median;

groups! {
    Left = "start.left";
    Right = "start.right";
    arena(Left, Right);
}

/// What the issue allows, beside the raw calls.
const GOAL: f64 = 1.2;

/// One way to come to memory with windows in two groups.
pub(super) trait Timed {
    /// Its steps.
    fn steps(&self) -> &'static [&'static str];

    /// Makes two groups that have registered nothing yet. They live until the end, so that no other
    /// run meets the end of them.
    fn prepare(&mut self) -> Outcome;

    /// Does it, and says what each step took.
    fn run(&mut self, bytes: usize) -> Outcome<Vec<Duration>>;

    /// Gives the memory back.
    fn undo(&mut self) -> Outcome;

    /// Gives the groups back, where they are not this crate's.
    fn end(self: Box<Self>) -> Outcome;
}

/// By this crate.
struct Ours<'w, B: Backend> {
    world: &'w World<B>,
    groups: Vec<(Group<Left, B>, Group<Right, B>)>,
    /// What brought the segment into the second group.
    used: Option<SymmBuf<u8, Right, B>>,
}

impl<B: Backend> Ours<'_, B> {
    fn latest(&self) -> Outcome<&(Group<Left, B>, Group<Right, B>)> {
        let latest = self.groups.last();
        latest.ok_or_else(|| Failure::new("a start before its groups were made"))
    }
}

impl<B: Backend> Timed for Ours<'_, B> {
    fn steps(&self) -> &'static [&'static str] {
        &["memory and window", "second window"]
    }

    fn prepare(&mut self) -> Outcome {
        let pair = (self.world.split(0, 0)?, self.world.split(0, 0)?);
        self.groups.push(pair);
        Ok(())
    }

    fn run(&mut self, bytes: usize) -> Outcome<Vec<Duration>> {
        let (left, right) = self.latest()?;
        let started = Instant::now();
        left.reserve(bytes as u64)?;
        let reserved = started.elapsed();
        let used = symm!(group = right, { right.empty(1)? })?;
        let registered = started.elapsed() - reserved;
        if (left.windows(), right.windows()) != (1, 1) {
            return Err(Failure::new("the memory has not one window in each group"));
        }
        self.used = Some(used);
        Ok(vec![reserved, registered])
    }

    fn undo(&mut self) -> Outcome {
        self.used = None;
        let freed = self.latest()?.0.trim()?;
        match freed {
            0 => Err(Failure::new("the memory did not come back")),
            _ => Ok(()),
        }
    }

    fn end(self: Box<Self>) -> Outcome {
        Ok(())
    }
}

/// Prints what the start costs, and the ratio.
pub(super) fn run<B: Measured>(world: &World<B>, task: &Task, output: &mut Output) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut ways: Vec<(&str, Box<dyn Timed + '_>)> = vec![(
        "ours",
        Box::new(Ours {
            world,
            groups: Vec::new(),
            used: None,
        }),
    )];
    ways.extend(B::raw_starts(world, &tp)?.map(|raw| ("raw", raw as Box<dyn Timed + '_>)));

    let mut random = fastrand::Rng::with_seed(task.to as u64);
    let mut order: Vec<usize> = (0..ways.len()).collect();
    let mut totals: Vec<Vec<f64>> = vec![Vec::new(); ways.len()];
    let mut steps: Vec<Vec<Vec<f64>>> = vec![Vec::new(); ways.len()];
    for _ in 0..task.repeats {
        random.shuffle(&mut order);
        for &way in &order {
            let timed = &mut ways[way].1;
            timed.prepare()?;
            slowest(&tp, world.pool(), &[0.0])?; // all ranks start together
            let mut took: Vec<f64> = timed.run(task.to)?.into_iter().map(millis).collect();
            took.push(took.iter().sum());
            timed.undo()?;
            let mut took = slowest(&tp, world.pool(), &took)?;
            totals[way].extend(took.pop());
            steps[way].push(took);
        }
    }

    output.say(format_args!(
        "\nmemory of {} MiB with windows in two groups, {}: ms, median of {}, slowest rank",
        task.to >> 20,
        task.place(),
        task.repeats
    ));
    let mut medians = Vec::new();
    for (way, (name, timed)) in ways.iter().enumerate() {
        let total = median(totals[way].iter().copied());
        let parts = timed.steps().iter().enumerate().map(|(at, step)| {
            let part = median(steps[way].iter().map(|took| took[at]));
            format!("{step} {part:.1}")
        });
        let parts: Vec<String> = parts.collect();
        let each: Vec<String> = totals[way]
            .iter()
            .map(|total| format!("{total:.1}"))
            .collect();
        output.say(format_args!(
            "{name:<6}{total:>9.1}  ({})  each: {}",
            parts.join(", "),
            each.join(" ")
        ));
        output.keep(
            json!({ "way": name, "bytes": task.to, "total_ms": totals[way], "median_ms": total }),
        )?;
        medians.push(total);
    }
    if let [ours, raw] = medians[..] {
        output.say(format_args!("ratio {:.3}, goal {GOAL}", ours / raw));
        output.keep(json!({ "bytes": task.to, "ratio": ours / raw, "goal": GOAL }))?;
    }
    ways.into_iter().try_for_each(|(_, timed)| timed.end())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
