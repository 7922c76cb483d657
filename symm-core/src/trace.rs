//! What the crate tells a subscriber of the crate `tracing`: rare things alone. A scope, an allocation
//! or a collective that has nothing new to do never comes here.
//!
//! All spans and events are in this file, so that their targets and fields are one list; the crate's
//! documentation has it for users. Nothing is told under the lock of an arena: a subscriber may ask
//! for statistics.

use std::time::Duration;

use tracing::span::EnteredSpan;
use tracing::{debug, debug_span, error, info, info_span, warn};

use crate::backend::Backend;
use crate::backend::call::Op;
use crate::capture::Pass;
use crate::error::Error;
use crate::group::calibration::Calibration;
use crate::group::core::GroupCore;
use crate::group::path::Path;
use crate::pool::GraphName;
use crate::pool::segment::Segment;
use crate::range;
use crate::site::Site;

const SCOPE: &str = "symm_core::scope";
const REGISTRATION: &str = "symm_core::registration";
const POOL: &str = "symm_core::pool";
const CAPTURE: &str = "symm_core::capture";
const PATH: &str = "symm_core::path";
const WORLD: &str = "symm_core::world";

/// A span with its range for NVTX.
type Ranged = (EnteredSpan, range::Local);

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn rank<B: Backend>(group: &GroupCore<B>) -> usize {
    group.world.seat.rank
}

/// The end of a scope that has something to register.
pub(crate) fn scope<B: Backend>(group: &GroupCore<B>, site: Site) -> EnteredSpan {
    let rank = rank(group);
    debug_span!(target: SCOPE, "scope", group = %group.short_label(), rank, %site).entered()
}

/// A round that registers.
pub(crate) fn round<B: Backend>(
    group: &GroupCore<B>,
    segments: usize,
    bytes: u64,
    site: Site,
) -> Ranged {
    let range = range::local!(bytes, "registration in {}", group.name());
    let rank = rank(group);
    let group = group.short_label();
    let span = debug_span!(target: REGISTRATION, "round", %group, rank, segments, bytes, %site);
    (span.entered(), range)
}

/// A segment has its window, or NCCL gave none.
pub(crate) fn registered<B: Backend>(
    group: &GroupCore<B>,
    (segment, index): (&Segment<B>, usize),
    window: bool,
    took: Duration,
    site: Site,
) {
    let (rank, bytes, ms) = (rank(group), segment.bytes(), ms(took));
    match window {
        true => info!(
            target: REGISTRATION,
            group = %group.short_label(), rank, segment = index, bytes, ms, %site,
            "segment registered"
        ),
        false => warn!(
            target: REGISTRATION,
            group = %group.short_label(), rank, segment = index, bytes, ms, %site,
            "no window for the segment: collectives on it are plain"
        ),
    }
}

/// The device gave an arena a segment.
pub(crate) fn grew(rank: usize, arena: &str, bytes: u64, reserved: u64) {
    info!(target: POOL, rank, arena, bytes, reserved, "arena grew by a segment");
}

/// A trim gave segments back.
pub(crate) fn trimmed<B: Backend>(group: &GroupCore<B>, bytes: u64, site: Site) {
    let rank = rank(group);
    info!(target: POOL, group = %group.short_label(), rank, bytes, %site, "arena trimmed");
}

/// A pass of a step that is to be a graph.
pub(crate) fn pass(pass: Pass, rank: usize, site: Site) -> Ranged {
    match pass {
        Pass::Prime => {
            let range = range::local!(0, "prime at {site}");
            let span = info_span!(target: CAPTURE, "prime", rank, %site);
            (span.entered(), range)
        }
        Pass::Capture => {
            let range = range::local!(0, "capture at {site}");
            let span = info_span!(target: CAPTURE, "capture", rank, %site);
            (span.entered(), range)
        }
    }
}

/// A graph was made.
pub(crate) fn captured(
    rank: usize,
    graph: GraphName,
    (collectives, leases): (usize, usize),
    bytes: u64,
    took: Duration,
    site: Site,
) {
    let ms = ms(took);
    info!(
        target: CAPTURE,
        rank, %graph, collectives, leases, bytes, ms, %site, "graph captured"
    );
}

/// A capture came to nothing.
pub(crate) fn discarded(rank: usize, cause: &dyn std::fmt::Display, site: Site) {
    warn!(target: CAPTURE, rank, cause = %cause, %site, "capture discarded");
}

/// An operation of a group takes a path for the first time.
#[cold]
#[inline(never)]
pub(crate) fn path<B: Backend>(group: &GroupCore<B>, op: Op, path: Path, bytes: u64, site: Site) {
    debug!(
        target: PATH,
        group = %group.short_label(), rank = rank(group), operation = op.name(), path = %path,
        bytes, %site, "first collective on this path"
    );
}

/// The group's table of what is faster without a window is another one.
pub(crate) fn table<B: Backend>(group: &GroupCore<B>, twin: bool) {
    let rank = rank(group);
    info!(target: PATH, group = %group.short_label(), rank, twin, "table of paths changed");
}

/// A twin communicator was made.
pub(crate) fn twin<B: Backend>(group: &GroupCore<B>, took: Duration) {
    let (rank, ms) = (rank(group), ms(took));
    info!(target: PATH, group = %group.short_label(), rank, ms, "twin communicator made");
}

/// A group was calibrated.
pub(crate) fn calibrated<B: Backend>(
    group: &GroupCore<B>,
    found: &Calibration,
    took: Duration,
    site: Site,
) {
    info!(
        target: PATH,
        group = %group.short_label(), rank = rank(group), points = found.points.len(),
        noisy = found.noisy, cached = found.cached, ms = ms(took), %site, "group calibrated"
    );
}

/// The world failed: this rank has learnt of it.
pub(crate) fn poisoned(rank: usize, first: usize, cause: &str) {
    error!(target: WORLD, rank, failed = first, cause, "world poisoned");
}

/// The world was rebuilt.
pub(crate) fn rebuilt(rank: usize, took: Duration, outcome: &Result<(), Error>) {
    let ms = ms(took);
    match outcome {
        Ok(()) => info!(target: WORLD, rank, ms, "world rebuilt"),
        Err(cause) => error!(target: WORLD, rank, ms, %cause, "world not rebuilt"),
    }
}
