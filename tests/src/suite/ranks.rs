//! What ranks tell each other about themselves.

use symm_core::{Backend, Group, GroupTag, World, plain, plain_mut};

use super::{Failure, Outcome};

/// What every rank of the group says, by rank. Ordinary memory carries it, so the arena keeps its
/// history.
pub(super) fn told<G: GroupTag, B: Backend>(
    world: &World<B>,
    group: &Group<G, B>,
    words: &[u64],
) -> Outcome<Vec<Vec<u64>>> {
    let mine = world.pool().from_slice(words)?;
    let mut all = world.pool().empty::<u64>(words.len() * group.size())?;
    group.all_gather(plain(&mine), plain_mut(&mut all))?;
    Ok(all
        .to_vec()?
        .chunks(words.len())
        .map(<[u64]>::to_vec)
        .collect())
}

/// Fails, on all ranks, unless all of them say the same.
#[track_caller]
pub(super) fn alike<G: GroupTag, B: Backend>(
    world: &World<B>,
    group: &Group<G, B>,
    words: &[u64],
    what: &str,
) -> Outcome {
    let all = told(world, group, words)?;
    match all.iter().all(|words| *words == all[0]) {
        true => Ok(()),
        false => Err(Failure::new(format!("{what} differ by rank: {all:?}"))),
    }
}
