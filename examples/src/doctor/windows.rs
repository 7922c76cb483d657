//! Registers a window in every pair of ranks, then in all, and runs a sum on it.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use symm_core::{Backend, Config, Group, GroupTag, Path, ReduceOp, Result, groups};

use super::step::Emit;

groups! {
    /// Two ranks.
    pub(super) Pair = "pair";
    /// All of them.
    pub(super) All = "all";
}

/// Elements that are summed.
const LEN: usize = 1 << 16;

/// What was registered.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Windows {
    /// Pairs first, then all ranks.
    pub groups: Vec<Tried>,
}

/// One group of ranks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tried {
    /// Its ranks: rank `r` is on device `r`, unless ranks share one.
    pub ranks: Vec<usize>,
    /// The communicator gave a window.
    pub window: bool,
    /// What the first registration took, agreeing with the other ranks included.
    pub milliseconds: f64,
    /// How a sum of 256 KiB ran.
    pub path: String,
    /// On the window, by a symmetric kernel.
    pub symmetric: bool,
    /// The sum was right.
    pub exact: bool,
}

/// Tries all groups. What is found is told at once, so that a failure keeps what came before it.
pub(super) fn run<B: Backend>(
    config: &Config<B>,
    ranks: usize,
    emit: &dyn Emit<Windows>,
) -> Result<()> {
    let found = Mutex::new(Windows::default());
    let tell = |tried| {
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        found.groups.push(tried);
        found
            .groups
            .sort_by_key(|tried| (tried.ranks.len(), tried.ranks.clone()));
        emit.found(&found);
    };
    // Worlds of their own: one that failed cannot be used again.
    let pairs = match ranks {
        3.. => config.run(ranks, |world| {
            for round in rounds(ranks) {
                let me = round.iter().position(|pair| pair.contains(&world.rank()));
                // Who has a bye is alone.
                let pair = world.split::<Pair>(me.unwrap_or(round.len()), 0)?;
                let tried = (pair.size() == 2).then(|| window(&pair)).transpose()?;
                tried
                    .filter(|_| pair.rank() == 0)
                    .into_iter()
                    .for_each(tell);
            }
            Ok(())
        }),
        _ => Ok(Vec::new()),
    };
    let all = config.run(ranks, |world| {
        let all = world.split::<All>(0, 0)?;
        let tried = window(&all)?;
        if all.rank() == 0 {
            tell(tried);
        }
        Ok(())
    });
    pairs.and(all).map(drop)
}

/// Registers a window in the group, and sums on it.
fn window<G: GroupTag, B: Backend>(group: &Group<G, B>) -> Result<Tried> {
    let scope = group.scope()?;
    let mut x = scope.from_slice(&[group.rank() as f32 + 1.0; LEN])?;
    let began = Instant::now();
    scope.close()?; // registers
    let milliseconds = began.elapsed().as_secs_f64() * 1e3;
    let path = group.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    let sum = (group.size() * (group.size() + 1) / 2) as f32;
    Ok(Tried {
        ranks: group.members().to_vec(),
        window: group.windows() > 0,
        milliseconds,
        path: path.to_string(),
        symmetric: path == Path::Symmetric,
        exact: x.to_vec()?.iter().all(|x| *x == sum),
    })
}

/// All pairs, in rounds in which nobody is in two: a tournament.
fn rounds(ranks: usize) -> Vec<Vec<[usize; 2]>> {
    let even = ranks.next_multiple_of(2);
    let ring = even - 1;
    let round = |number: usize| {
        let pairs = (0..even / 2).map(move |at| match at {
            0 => [number, ring],
            _ => [(number + at) % ring, (number + ring - at) % ring],
        });
        let real = pairs.filter(|pair| pair.iter().all(|rank| *rank < ranks));
        real.map(|[a, b]| [a.min(b), a.max(b)]).collect()
    };
    (0..ring).map(round).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_meets_everyone_once_and_never_two_at_once() {
        for ranks in 3..10 {
            let mut met = Vec::new();
            for round in rounds(ranks) {
                let mut busy: Vec<usize> = round.iter().flatten().copied().collect();
                met.extend(round);
                let count = busy.len();
                busy.sort_unstable();
                busy.dedup();
                assert_eq!(busy.len(), count);
            }
            met.sort_unstable();
            let all = (0..ranks).flat_map(|a| (a + 1..ranks).map(move |b| [a, b]));
            assert_eq!(met, all.collect::<Vec<_>>());
        }
    }
}
