//! Arenas against a naive model: where every block goes, on two ranks whose base addresses and
//! orders of frees differ.

#![allow(missing_docs)]

use proptest::prelude::*;
use symm_core::{Config, Host, Position, SymmBuf, World, groups, host};

groups! { pub Tp = "tp"; }

const GRANULE: usize = 512;
const FIRST_SEGMENT: usize = 2 << 20;
const CAP: usize = 8 << 20;
const OPERATIONS: usize = 10_000;

/// One step of a program: allocate some sizes, then free some of what is alive.
#[derive(Clone, Debug)]
struct Step {
    /// Bytes of each allocation.
    sizes: Vec<usize>,
    /// Which of the live buffers to free, as fractions of their number.
    frees: Vec<f64>,
}

/// What a granule of a segment is to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Granule {
    Used,
    /// Free, part of a freed block of this many granules that starts here or before.
    Freed,
    Merged,
}

/// Every granule of every segment, looked at one by one.
#[derive(Default)]
struct Model {
    segments: Vec<Vec<Granule>>,
    /// Freed and not yet merged: (granules, segment, first granule).
    freed: Vec<(usize, usize, usize)>,
}

impl Model {
    fn allocate(&mut self, bytes: usize) -> Position {
        let need = bytes.max(1).div_ceil(GRANULE);
        let exact = (0..self.freed.len())
            .filter(|&i| self.freed[i].0 == need)
            .min_by_key(|&i| self.freed[i]);
        let (segment, first) = match exact {
            Some(i) => {
                let (_, segment, first) = self.freed.remove(i);
                (segment, first)
            }
            None => {
                for (granules, segment, first) in self.freed.drain(..) {
                    self.segments[segment][first..first + granules].fill(Granule::Merged);
                }
                self.best_fit(need).unwrap_or_else(|| {
                    self.grow(need);
                    self.best_fit(need).unwrap()
                })
            }
        };
        let range = &mut self.segments[segment][first..first + need];
        assert!(
            range.iter().all(|granule| *granule != Granule::Used),
            "the model hands out used memory"
        );
        range.fill(Granule::Used);
        Position {
            segment,
            offset: (first * GRANULE) as u64,
        }
    }

    fn best_fit(&self, need: usize) -> Option<(usize, usize)> {
        let runs = self
            .segments
            .iter()
            .enumerate()
            .flat_map(|(segment, granules)| {
                let mut start = 0;
                granules.chunk_by(|a, b| a == b).filter_map(move |run| {
                    let first = start;
                    start += run.len();
                    (run[0] == Granule::Merged).then_some((run.len(), segment, first))
                })
            });
        runs.filter(|(granules, ..)| *granules >= need)
            .min()
            .map(|(_, segment, first)| (segment, first))
    }

    fn grow(&mut self, need: usize) {
        let reserved: usize = self.segments.iter().map(|s| s.len() * GRANULE).sum();
        let bytes = match reserved {
            0 => FIRST_SEGMENT,
            _ => (16 * FIRST_SEGMENT).max(reserved / 2),
        };
        let bytes = bytes.min(CAP).max(need * GRANULE).next_multiple_of(2 << 20);
        self.segments.push(vec![Granule::Merged; bytes / GRANULE]);
    }

    fn free(&mut self, position: Position, bytes: usize) {
        let (granules, first) = (
            bytes.max(1).div_ceil(GRANULE),
            position.offset as usize / GRANULE,
        );
        self.segments[position.segment][first..first + granules].fill(Granule::Freed);
        self.freed.push((granules, position.segment, first));
    }
}

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => prop::sample::select(vec![512, 4096, 16_384, 65_536]),
        4 => 1usize..20_000,
        1 => 20_000usize..300_000,
        1 => prop::sample::select(vec![1 << 20, 3 << 20]),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (
        prop::collection::vec(sizes(), 1..12),
        prop::collection::vec(0.0..1.0f64, 0..14),
    );
    let step = step.prop_map(|(sizes, frees)| Step { sizes, frees });
    // Steps are repeated below until there are enough operations.
    prop::collection::vec(step, 40..120)
}

/// Runs the program on one rank and returns where each allocation went. `reversed` frees every
/// batch from its other end.
fn run(world: &World<Host>, steps: &[Step], reversed: bool) -> symm_core::Result<Vec<Position>> {
    let tp = world.split::<Tp>(0, 0)?;
    let scope = tp.scope()?;
    let (mut live, mut placed, mut operations): (Vec<Option<SymmBuf<u8, Tp, Host>>>, _, _) =
        (Vec::new(), Vec::new(), 0);
    for step in steps.iter().cycle() {
        for &bytes in &step.sizes {
            let buf = scope.empty::<u8>(bytes)?;
            placed.push(buf.position().unwrap());
            live.push(Some(buf));
        }
        let doomed = doomed(step, live.len());
        let freed: Vec<_> = doomed.iter().map(|&i| live[i].take()).collect();
        if reversed {
            freed.into_iter().rev().for_each(drop);
        } else {
            freed.into_iter().for_each(drop);
        }
        live.retain(Option::is_some);
        operations += step.sizes.len() + doomed.len();
        if operations >= OPERATIONS {
            break;
        }
    }
    drop(live);
    scope.close()?;
    Ok(placed)
}

/// The same program on the model.
fn expected(steps: &[Step]) -> Vec<Position> {
    let (mut model, mut live, mut placed, mut operations) =
        (Model::default(), Vec::new(), Vec::new(), 0);
    for step in steps.iter().cycle() {
        for &bytes in &step.sizes {
            let position = model.allocate(bytes);
            placed.push(position);
            live.push(Some((position, bytes)));
        }
        let doomed = doomed(step, live.len());
        for &i in &doomed {
            let (position, bytes) = live[i].take().unwrap();
            model.free(position, bytes);
        }
        live.retain(Option::is_some);
        operations += step.sizes.len() + doomed.len();
        if operations >= OPERATIONS {
            break;
        }
    }
    placed
}

/// Distinct indices of what to free. Keeps the number of live buffers bounded, so that programs
/// reach a steady state.
fn doomed(step: &Step, live: usize) -> Vec<usize> {
    let mut doomed: Vec<usize> = step
        .frees
        .iter()
        .map(|fraction| (fraction * live as f64) as usize)
        .collect();
    if live > 100 {
        doomed.extend((0..live).step_by(2));
    }
    let mut seen = vec![false; live];
    doomed.retain(|&i| i < live && !std::mem::replace(&mut seen[i], true));
    doomed
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn blocks_go_where_the_model_says_on_every_rank(steps in steps(), seed in any::<u64>()) {
        let config = Config::<Host>::default().first_segment(FIRST_SEGMENT as u64).segment_cap(CAP as u64).options(host::Options::default().seed(seed));
        let placed = config.run(2, |world| {
            // The simulated devices hand out other addresses on each rank and for each seed.
            run(&world, &steps, world.rank() == 1)
        }).unwrap();
        prop_assert_eq!(&placed[0], &placed[1]);
        prop_assert_eq!(&placed[0], &expected(&steps));
    }
}
