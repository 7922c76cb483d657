//! Measuring windows against the twin, in a round of all ranks.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::calibration::{Calibration, CalibrationPoint};
use super::communicator::Communicator;
use super::core::GroupCore;
use super::link::Link;
use super::path::{Path, Reason};
use super::progress::Progress;
use super::shipped::is_faster;
use super::table::{Choices, Row};
use super::{agree, cache, start, twin};
use crate::agreement::record::{ArenaMark, What};
use crate::backend::Backend;
use crate::backend::driver::Sweep;
use crate::buffer::meter::Meter;
use crate::capture::active;
use crate::error::{Error, Result};
use crate::pool::SEGMENT_GRANULE;
use crate::pool::segment::Segment;
use crate::pool::usage::Claim;
use crate::registration::round::{self, Due};
use crate::scope::routing::{self, Inside};
use crate::site::Site;
use crate::trace;

/// The smallest buffer that is measured; what is smaller goes as it does.
const SMALLEST: u64 = 1 << 10;
/// Repeats that spread further than this part of their median, in thousandths, are noisy.
const SPREAD: u64 = 100;
/// So many points, as a part of all, may be noisy before the sweep is.
const NOISY_PART: usize = 10;

/// What was measured at one point, in nanoseconds of a graph; `spread` in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Times {
    windowed: u64,
    twin: u64,
    spread: u64,
}

/// One point of the sweep.
#[derive(Clone, Copy, Debug)]
struct At {
    row: Row,
    whole: u64,
}

/// What a calibration took, to be given back whatever happens.
struct Taken<B: Backend> {
    segment: Arc<Segment<B>>,
    window: Option<B::Window>,
    meter: Option<Meter<B>>,
    /// The one with the window, and its twin. Not the group's own: once something was captured on a
    /// communicator, NCCL takes longer for each launch on it.
    comms: Vec<Arc<Communicator<B>>>,
}

/// All ranks of the group call it at the same point.
pub(super) fn calibrate<B: Backend>(group: &Arc<GroupCore<B>>, site: Site) -> Result<Calibration> {
    let start = Instant::now();
    let world = &group.world;
    world.check()?;
    let _inside = Inside::new(group, Claim::Scope, site)?;
    active::refuse(
        world,
        "calibrating a group",
        "it runs collectives and waits for peers: calibrate before the capture",
    )?;
    let nothing = Calibration {
        points: Vec::new(),
        noisy: false,
        cached: false,
    };
    if group.size() == 1 {
        return Ok(nothing);
    }
    let link = group.link();
    link.check()?;
    if link.split.is_none() {
        return Err(Error::Unsupported {
            what: "calibrating a group of another maker's communicator",
            why: "nobody knows which ranks of the world it joins: split the group from the world"
                .into(),
        });
    }
    round::settle(group, site, Due::Call)?;
    let mark = ArenaMark::default(); // whatever ranks allocated before
    agree::step(group, &link, What::Calibration, mark, site)?;
    // From here on peers wait for this rank.
    let first = |error| world.vitals.first(error);
    let (segment, largest) = room(group, &link).map_err(first)??;
    let mut taken = Taken {
        segment,
        window: None,
        meter: None,
        comms: Vec::new(),
    };
    let measured = measure(group, &link, &mut taken, largest);
    let found = measured.and_then(|found| decide(group, &link, found));
    match found {
        Ok((choices, found)) => {
            end(group, &link, taken).map_err(first)?;
            let found = report(group, choices, &found);
            trace::calibrated(group, &found, start.elapsed(), site);
            Ok(found)
        }
        Err(error) => {
            // Before anything waits for what peers may never end.
            let error = first(error);
            abandon(group, taken);
            Err(error)
        }
    }
}

/// The points for buffers up to the largest.
fn points(largest: u64) -> impl Iterator<Item = At> {
    let sizes = move || {
        let sizes = (SMALLEST.ilog2()..u64::BITS).map(|octave| 1 << octave);
        sizes.take_while(move |size| *size <= largest)
    };
    let rows = Row::ALL.into_iter();
    rows.flat_map(move |row| sizes().map(move |whole| At { row, whole }))
}

/// A segment of all ranks for two buffers of the largest size, or where one of them has no room, of an
/// eighth. It is none of the group's arena, whose history a calibration leaves as it was. The inner
/// error is the same refusal on all ranks, which nobody waits behind.
fn room<B: Backend>(
    group: &Arc<GroupCore<B>>,
    link: &Link<B>,
) -> Result<Result<(Arc<Segment<B>>, u64)>> {
    let Sweep { largest, .. } = B::SWEEP;
    let mut refused = None;
    for largest in [largest, largest / 8] {
        let bytes = (2 * largest).next_multiple_of(SEGMENT_GRANULE);
        let mine = Segment::new(&group.world.pool, "calibration", bytes, bytes);
        let tells = mine.as_ref().err().map(ToString::to_string);
        let tells = tells.unwrap_or_default().into_bytes();
        let told = agree::meet(group, link, "the memory of a calibration", tells, None)?;
        let without = told.iter().position(|told| !told.is_empty());
        match (mine, without) {
            (Ok(segment), None) => return Ok(Ok((Arc::new(segment), largest))),
            (Err(error), _) => refused = Some(error),
            (Ok(_), Some(at)) => {
                let cause = String::from_utf8_lossy(&told[at]).into();
                refused = Some(Error::PeerFailed {
                    rank: group.members[at],
                    cause,
                });
            }
        }
    }
    Ok(Err(refused.unwrap_or_else(|| Error::Config {
        what: "this backend measures nothing".into(),
    })))
}

/// This rank's times at all points; none where NCCL takes no symmetric kernels.
fn measure<B: Backend>(
    group: &Arc<GroupCore<B>>,
    link: &Arc<Link<B>>,
    taken: &mut Taken<B>,
    largest: u64,
) -> Result<Vec<(At, Times)>> {
    if !has_kernels(group, link, taken)? {
        return Ok(Vec::new());
    }
    taken.comms.push(twin::make(group, link)?);
    let [main, twin] = &taken.comms[..] else {
        return Ok(Vec::new());
    };
    let comms = [&main.comm, &twin.comm];
    let world = &group.world;
    // The thread's stream too, whose work may not have been noted.
    let mut behind = group.arena.streams();
    behind.push(routing::stream(world));
    let meter = Meter::new(group, &taken.segment)?;
    let meter = taken.meter.insert(meter);
    meter.start(&behind)?;
    // Its jobs wait for streams, which no capture allows.
    let _held = world.pool.reaper.hold(world.seat.deadline)?;
    let total = points(largest).count();
    let progress = Progress::of(group);
    let mut found = Vec::with_capacity(total);
    for (done, at) in points(largest).enumerate() {
        progress.show(done, total, at.row.call().0.name());
        let (op, dtype) = at.row.call();
        let calls = (B::SWEEP.calls)(at.whole);
        meter.record(group, link, comms, (op, dtype, at.whole), calls)?;
        let mut times = [const { Vec::new() }; 2];
        for repeat in 0..=B::SWEEP.repeats {
            for turn in 0..2 {
                // Each comes first as often; the first replays are slower than all others.
                let lane = (repeat + turn) % 2;
                let took = meter.time(group, lane)?.as_nanos() as u64;
                if repeat > 0 {
                    times[lane].push(took);
                }
            }
        }
        let [windowed, twin] = times.map(median);
        let times = Times {
            windowed: windowed.0,
            twin: twin.0,
            spread: windowed.1.max(twin.1),
        };
        found.push((at, times));
    }
    Ok(found)
}

/// Registers the segment and says whether collectives on it take symmetric kernels, on all ranks.
fn has_kernels<B: Backend>(
    group: &Arc<GroupCore<B>>,
    link: &Arc<Link<B>>,
    taken: &mut Taken<B>,
) -> Result<bool> {
    let main = twin::make(group, link)?;
    taken.comms.push(Arc::clone(&main));
    taken.window = round::register(group, link, &main, &taken.segment)?;
    let mine = [taken.window.is_some()].into_iter();
    let windows = round::agreed(group, link, mine, "the window of a calibration")?;
    if windows != [true] {
        return Ok(false);
    }
    if link.kernels().is_none() {
        link.found_kernels(round::kernels(group, link, &main, &taken.segment)?);
    }
    Ok(link.kernels() == Some(true))
}

/// Median and spread of some times.
fn median(mut times: Vec<u64>) -> (u64, u64) {
    times.sort_unstable();
    let (last, quarter) = (times.len().saturating_sub(1), times.len() / 4);
    let at = |index: usize| times.get(index).copied().unwrap_or_default();
    let (median, low, high) = (at(last / 2), at(quarter), at(last - quarter.min(last)));
    (median, 1000 * (high - low.min(high)) / median.max(1))
}

/// What all ranks found together: the slowest rank's times, and rank 0's table of them.
fn decide<B: Backend>(
    group: &Arc<GroupCore<B>>,
    link: &Link<B>,
    mut found: Vec<(At, Times)>,
) -> Result<(Choices, Vec<(At, Times)>)> {
    let words = |times: &Times| [times.windowed, times.twin, times.spread];
    let mine = found.iter().flat_map(|(_, times)| words(times));
    let mine = mine.flat_map(u64::to_le_bytes).collect();
    let told = agree::meet(group, link, "the times of a calibration", mine, None)?;
    for (&rank, told) in group.members.iter().zip(told.iter()) {
        let (theirs, rest) = told.as_chunks::<24>();
        if theirs.len() != found.len() || !rest.is_empty() {
            return Err(start::other_version(rank));
        }
        for ((_, times), theirs) in found.iter_mut().zip(theirs) {
            let (words, _) = theirs.as_chunks::<8>();
            let word = |at: usize| words.get(at).map_or(0, |word| u64::from_le_bytes(*word));
            times.windowed = times.windowed.max(word(0));
            times.twin = times.twin.max(word(1));
            times.spread = times.spread.max(word(2));
        }
    }
    let mut choices = Choices::default();
    for row in Row::ALL {
        let of_row = found.iter().filter(|(at, _)| at.row == row);
        let faster = of_row.map(|(at, times)| (at.whole, is_faster(times.twin, times.windowed)));
        choices.enter(row, faster);
    }
    Ok((start::share(group, link, choices)?, found))
}

/// Gives back what was taken, and makes the group's twin if it needs one from here on. All ranks have
/// measured, so no kernel reaches for this rank's segment.
fn end<B: Backend>(group: &Arc<GroupCore<B>>, link: &Arc<Link<B>>, taken: Taken<B>) -> Result<()> {
    let device = Arc::clone(&group.world.device);
    let mut outcome = Ok(());
    if let Some(meter) = taken.meter {
        outcome = meter.end(group);
    }
    if let (Some(window), [main, ..]) = (taken.window, &taken.comms[..]) {
        outcome = outcome.and(B::deregister(&device, &main.comm, window));
    }
    drop(taken.segment);
    let comms = taken.comms;
    let world = &group.world;
    let (done, ended) = channel::<()>();
    world.pool.reaper.aside(move || {
        let released = release(comms, &device);
        drop(done);
        released
    });
    // NCCL stops the devices to give memory back, in one process all of them: nobody may launch what
    // waits for a peer that cannot. A peer that died is waited for no longer than this, and the
    // watchdog tells of it.
    let _ = ended.recv_timeout(world.vitals.limits.inside());
    outcome?;
    agree::meet(group, link, "the end of a calibration", Vec::new(), None)?;
    twin::make_if_wanted(group, link)
}

/// The same after the world has failed, on the reaper: behind the release of what is stuck.
fn abandon<B: Backend>(group: &GroupCore<B>, taken: Taken<B>) {
    let world = Arc::clone(&group.world);
    group.world.pool.reaper.later(move || {
        let device = &world.device;
        let mut outcome = Ok(());
        if let Some(meter) = taken.meter {
            outcome = meter.abandoned(device);
        }
        if let (Some(window), [main, ..]) = (taken.window, &taken.comms[..]) {
            // A revoked communicator takes its windows along when it is aborted.
            match main.is_revoked() {
                true => main.keep(vec![taken.segment]),
                false => outcome = outcome.and(B::deregister(device, &main.comm, window)),
            }
        }
        outcome.and(release(taken.comms, device))
    });
}

fn release<B: Backend>(comms: Vec<Arc<Communicator<B>>>, device: &B::Device) -> Result<()> {
    let mut outcome = Ok(());
    for comm in comms {
        outcome = outcome.and(comm.release(device));
    }
    outcome
}

/// Keeps what was found, if it is worth it, and says it.
fn report<B: Backend>(
    group: &GroupCore<B>,
    choices: Choices,
    found: &[(At, Times)],
) -> Calibration {
    let noisy = found.iter().filter(|(_, times)| times.spread > SPREAD);
    let noisy = !found.is_empty() && noisy.count() * NOISY_PART >= found.len();
    let points = found.iter().map(|(At { row, whole }, times)| {
        let each = |nanoseconds: u64| {
            let calls = (B::SWEEP.calls)(*whole).max(1) as f64;
            Duration::from_secs_f64(nanoseconds as f64 / calls / 1e9)
        };
        let path = match choices.has_twin(*row, *whole) {
            true => Path::Plain(Reason::Faster),
            false => Path::Symmetric,
        };
        CalibrationPoint {
            operation: row.call().0.name(),
            types: row.types(),
            bytes: *whole,
            windowed: each(times.windowed),
            twin: each(times.twin),
            spread: times.spread as f64 / 1e3,
            path,
        }
    });
    Calibration {
        points: points.collect(),
        noisy,
        cached: group.rank == 0 && !noisy && !found.is_empty() && cache::store(group, choices),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_powers_of_two_of_all_rows() {
        let all: Vec<_> = points(4096).map(|at| (at.row, at.whole)).collect();
        assert_eq!(all.len(), 3 * Row::ALL.len());
        assert_eq!(all[0], (Row::ReduceHalf, 1024));
        assert_eq!(all[14], (Row::ScatterFloat, 4096));
        assert_eq!(points(0).count(), 0);
        assert_eq!(points(u64::MAX).count(), 54 * Row::ALL.len());
    }

    #[test]
    fn one_outlier_on_each_side_is_no_spread() {
        assert_eq!(median(vec![100, 101, 102, 103, 104, 1, 900]), (102, 39));
        assert_eq!(median(vec![100, 150, 100]), (100, 500));
        assert_eq!(median(vec![7]), (7, 0));
        assert_eq!(median(Vec::new()), (0, 0));
    }
}
