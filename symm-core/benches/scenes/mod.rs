//! What the benches of the hot path measure: each scene is one step of a program, repeated on rank 0
//! of a group, through the public API alone.
//!
//! A figure is the difference of two run lengths divided by the difference of their steps, so that
//! set-up and the measurement itself cancel. The other ranks are there, with their boards and
//! watchdogs, and come later: none of these steps waits for a peer, so what peers do meanwhile is no
//! part of the cost, and rank 0 is the first at every point, which is the longer way.
#![allow(dead_code, unreachable_pub)] // each bench uses its part

use std::hint::black_box;
use std::sync::Barrier;

use symm_core::host::Options;
use symm_core::{Config, Group, Host, ReduceOp, Result, SymmBuf, World, groups};

groups! { pub(crate) Tp = "tp"; }

/// One step of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A scope is opened and closed; nothing is new.
    Scope,
    /// The same with a buffer of a size that was freed before.
    Reuse,
    /// The same with a buffer of a size that nobody freed before.
    FirstSeen,
    /// The window of a buffer is asked for.
    Window,
    /// A collective.
    Collective,
}

/// A step and what is around it.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    pub step: Step,
    pub ranks: usize,
    /// Segments of the arena, each with room and a live block.
    pub segments: usize,
    /// Live blocks of 512 bytes beside those.
    pub live: usize,
    /// Whether ranks compare what they call.
    pub checks: bool,
}

impl Scene {
    pub const fn of(step: Step) -> Self {
        Self {
            step,
            ranks: 8,
            segments: 1,
            live: 10,
            checks: true,
        }
    }

    pub const fn ranks(self, ranks: usize) -> Self {
        Self { ranks, ..self }
    }

    pub const fn segments(self, segments: usize) -> Self {
        Self { segments, ..self }
    }

    pub const fn live(self, live: usize) -> Self {
        Self { live, ..self }
    }

    pub const fn unchecked(self) -> Self {
        Self {
            checks: false,
            ..self
        }
    }
}

/// Elements of the buffer that comes back.
const AGAIN: usize = 1024;
const SEGMENT: u64 = 2 << 20;

/// Runs the scene with so many steps on rank 0; `around` is given all of them as one call. At most
/// [`LAP`] steps of a collective: rank 0 is so far ahead of its peers.
pub fn run(
    scene: Scene,
    steps: usize,
    around: impl Fn(&mut dyn FnMut() -> Result<()>) -> Result<()> + Sync,
) -> Result<()> {
    let config = Config::<Host>::default()
        .first_segment(SEGMENT)
        .segment_cap(SEGMENT)
        .checks(scene.checks)
        .options(Options::default().memory(1 << 40));
    let turn = Barrier::new(scene.ranks);
    let rank = |world: World<Host>| {
        let tp = world.split::<Tp>(0, 0)?;
        let stage = set(&tp, scene);
        let first = world.rank() == 0;
        if !first {
            turn.wait();
        }
        // With an error of this rank its peers are not kept waiting.
        let played = stage.and_then(|mut stage| {
            let played = match first {
                true => around(&mut || play(&tp, &mut stage, scene.step, steps)),
                // What rank 0 stated, its peers state too, uncounted.
                false if scene.step == Step::Collective => (0..steps).try_for_each(|_| {
                    let x = &mut stage.x;
                    tp.all_reduce_in_place(x, ReduceOp::Sum).map(drop)
                }),
                false => Ok(()),
            };
            played.map(|()| stage)
        });
        if first {
            turn.wait();
        }
        played?.x.to_vec().map(drop)
    };
    config.run(scene.ranks, rank).map(drop)
}

/// A rank may be so many points ahead of another.
pub const LAP: usize = 200;

/// What is there before the first step.
struct Stage {
    x: SymmBuf<f32, Tp, Host>,
    granules: usize,
    _live: Vec<SymmBuf<f32, Tp, Host>>,
}

fn set(tp: &Group<Tp, Host>, scene: Scene) -> Result<Stage> {
    let scope = tp.scope()?;
    let mut live = Vec::new();
    for _ in 1..scene.segments {
        // Of more than half a segment, so that each has room for the step and for no second one.
        live.push(scope.empty(SEGMENT as usize / 8 + 1)?);
    }
    for _ in 0..scene.live {
        live.push(scope.empty(128)?);
    }
    let x = scope.zeros(64)?;
    drop(scope.empty::<f32>(AGAIN)?);
    scope.close()?;
    Ok(Stage {
        x,
        granules: AGAIN / 128,
        _live: live,
    })
}

fn play(tp: &Group<Tp, Host>, stage: &mut Stage, step: Step, steps: usize) -> Result<()> {
    let Stage { x, granules, .. } = stage;
    match step {
        Step::Scope => measured(steps, || tp.scope()?.close()),
        Step::Reuse => measured(steps, || scope_with(tp, AGAIN)),
        Step::FirstSeen => measured(steps, || {
            *granules += 1;
            scope_with(tp, *granules * 128)
        }),
        Step::Window => measured(steps, || {
            black_box(x.window()?);
            Ok(())
        }),
        Step::Collective => measured(steps, || {
            tp.all_reduce_in_place(&mut *x, ReduceOp::Sum).map(drop)
        }),
    }
}

#[inline(always)]
fn scope_with(tp: &Group<Tp, Host>, len: usize) -> Result<()> {
    let scope = tp.scope()?;
    let buf = scope.empty::<f32>(len)?;
    black_box(&buf);
    drop(buf);
    scope.close()
}

/// What is counted: callgrind collects inside of this function alone.
#[inline(never)]
fn measured(steps: usize, mut step: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in 0..steps {
        step()?;
    }
    Ok(())
}
