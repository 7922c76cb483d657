//! Time of collectives by every way, taken in turns.

use symm_core::{Group, World};
use symm_tests::suite::Outcome;

use super::Tp;
use super::options::{Operation, Task};
use super::ours::{Measured, Sample, Ways};
use super::output::{Output, slowest};
use super::table::{Row, Summary, Table, median};

/// Bytes of an element: `bf16`.
const ELEMENT: usize = 2;

/// Prints one table for each operation, and the geometric means last.
pub(super) fn run<B: Measured>(world: &World<B>, task: &Task, output: &mut Output) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    if task.calibrate {
        tp.calibrate()?;
    }
    let mut ways = B::ways(world, &tp, task.to + ELEMENT * task.ranks)?;
    let mut summary = Summary::default();
    for &operation in &task.operations {
        let table = Table::new(operation.name(), ways.names(), &task.place());
        output.say(format_args!("\n{}", table.head()));
        for (at, bytes) in task.sizes().enumerate() {
            let seed = (operation as u64) << 32 | at as u64;
            let row = row(
                world,
                &tp,
                ways.as_mut(),
                (operation, bytes),
                task.repeats,
                seed,
            )?;
            output.say(table.line(&row));
            output.keep(row.json(operation.name(), ways.names()))?;
            summary.add(operation.name(), row);
        }
    }
    output.say(format_args!("\n{summary}"));
    output.keep(summary.json())?;
    ways.end()
}

/// Calls in a batch: enough that their events' own time does not count, few enough that they fit
/// into the stream's queue, behind a gate. By the size alone, since all ranks need the same.
fn calls(bytes: usize) -> usize {
    match bytes >> 20 {
        0 => 50,
        1..16 => 20,
        _ => 8,
    }
}

/// Measures each way, and each raw one again as if it were another, in an order that changes with
/// each repeat and is the same on all ranks. Of each rank's medians the slowest counts.
fn row<B: Measured>(
    world: &World<B>,
    tp: &Group<Tp, B>,
    ways: &mut (dyn Ways + '_),
    (operation, bytes): (Operation, usize),
    repeats: usize,
    seed: u64,
) -> Outcome<Row> {
    let path = ways.prepare(operation, bytes / ELEMENT)?;
    let number = ways.names().len();
    // The slot of a figure, and the way it is of.
    let mut turns: Vec<(usize, usize)> = (0..number).chain(1..number).enumerate().collect();
    let mut samples: Vec<Vec<Sample>> = vec![Vec::with_capacity(repeats); turns.len()];
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..repeats {
        random.shuffle(&mut turns);
        for &(slot, way) in &turns {
            samples[slot].push(ways.batch(way, calls(bytes))?);
        }
    }
    let of = |figure: fn(&Sample) -> f64| {
        let figures = samples
            .iter()
            .map(move |samples| samples.iter().map(figure));
        figures.map(median)
    };
    let mine: Vec<f64> = of(|sample| sample.device)
        .chain(of(|sample| sample.host))
        .collect();
    let all = slowest(tp, world.pool(), &mine)?;
    let (device, host) = all.split_at(samples.len());
    let figures = device.iter().zip(host);
    let figures: Vec<Sample> = figures
        .map(|(&device, &host)| Sample { device, host })
        .collect();
    let (once, again) = figures.split_at(number);
    Ok(Row {
        bytes,
        path,
        like: ways.like(path),
        ways: once.to_vec(),
        again: again.to_vec(),
    })
}
