//! Which table a group starts with: rank 0 knows, and tells the others.

use std::path::PathBuf;
use std::sync::Arc;

use super::core::GroupCore;
use super::link::Link;
use super::table::Choices;
use super::{agree, cache, shipped, twin};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::trace;

/// Where tables come from.
#[derive(Clone, Debug)]
pub(crate) struct Tuning {
    /// Whether groups start with what is known.
    pub(crate) known: bool,
    /// The folder of the cache; `None` where there is none.
    pub(crate) cache: Option<PathBuf>,
}

/// Gives a new group its table. All ranks of the group are here.
pub(super) fn begin<B: Backend>(group: &Arc<GroupCore<B>>) -> Result<()> {
    let world = &group.world;
    let model = B::model(&world.device).filter(|_| world.tuning.known && group.size() > 1);
    let link = group.link();
    let shared = match model {
        None => Ok(()),
        Some(model) => {
            let mine = match group.rank {
                0 => known(group, &model),
                _ => Choices::default(),
            };
            share(group, &link, mine).map(drop)
        }
    };
    let begun = shared.and_then(|()| twin::make_if_wanted(group, &link));
    begun.map_err(|error| world.vitals.first(error))
}

/// Gives a group whose world was rebuilt the table that its rank 0 has: ranks that failed in a
/// calibration may have come differently far.
pub(super) fn again<B: Backend>(group: &Arc<GroupCore<B>>) -> Result<()> {
    let link = group.link();
    if group.size() > 1 && B::model(&group.world.device).is_some() {
        share(group, &link, group.table.load())?;
    }
    twin::make_if_wanted(group, &link)
}

/// What was measured before on such machines, or shipped for them.
fn known<B: Backend>(group: &GroupCore<B>, model: &str) -> Choices {
    let multicast = || {
        let facts = B::facts(&group.world.device);
        let off = |(name, value): &(String, String)| name == "NCCL_NVLS_ENABLE" && value == "0";
        !facts.iter().any(off)
    };
    cache::load(group)
        .or_else(|| shipped::choices(model, group.size(), multicast()))
        .unwrap_or_default()
}

/// Rank 0's table becomes that of all ranks, which are here.
pub(super) fn share<B: Backend>(
    group: &Arc<GroupCore<B>>,
    link: &Link<B>,
    mine: Choices,
) -> Result<Choices> {
    let value = match group.rank {
        0 => mine.encode(),
        _ => Vec::new(),
    };
    let told = agree::meet(group, link, "the table of paths", value, None)?;
    let choices = told.first().and_then(|told| Choices::decode(told));
    let choices =
        choices.ok_or_else(|| other_version(group.members.first().copied().unwrap_or_default()))?;
    if group.table.load() != choices {
        group.table.store(choices);
        trace::table(group, choices.want_twin());
    }
    Ok(choices)
}

pub(super) fn other_version(rank: usize) -> Error {
    Error::Rendezvous {
        rank,
        why: "it runs another version of symm-core: its table of paths cannot be read".into(),
    }
}
