//! The twin: a second communicator of a group's ranks, on which no window is ever registered, so that
//! NCCL takes its ordinary kernels for the same memory.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::communicator::Communicator;
use super::connect::connect;
use super::core::GroupCore;
use super::link::Link;
use crate::backend::Backend;
use crate::backend::defects;
use crate::backend::driver::Split;
use crate::capture::active;
use crate::error::{Error, Result};
use crate::pool::PoolCore;
use crate::trace;

/// Which of a link's communicators some work uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// The one with the windows.
    Main,
    Twin,
    /// A graph, which may use both.
    Both,
}

impl Lane {
    #[inline]
    pub(crate) fn of(on_twin: bool) -> Self {
        match on_twin {
            true => Lane::Twin,
            false => Lane::Main,
        }
    }

    /// Whether work on one has to follow work on the other, if their streams differ: what runs on
    /// one communicator, NCCL orders itself.
    fn follows(self, earlier: Self) -> bool {
        self != earlier || self == Lane::Both
    }
}

/// A twin communicator, from the round in which it was made to the end of its link.
#[derive(Debug)]
pub(crate) struct Twin<B: Backend> {
    comm: Arc<Communicator<B>>,
    /// What used either communicator last, and on which stream; `None` before the twin's first use.
    last: Mutex<Option<(Lane, B::Stream)>>,
    counted: Counted<B>,
}

/// A twin, as the memory report has it.
#[derive(Debug)]
pub(crate) struct Counted<B: Backend>(Arc<PoolCore<B>>);

impl<B: Backend> Counted<B> {
    fn new(pool: &Arc<PoolCore<B>>) -> Self {
        pool.twins.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(pool))
    }
}

impl<B: Backend> Drop for Counted<B> {
    fn drop(&mut self) {
        self.0.twins.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<B: Backend> Twin<B> {
    /// What has to end, and what to drop once it has.
    pub(super) fn into_parts(self) -> (Arc<Communicator<B>>, Counted<B>) {
        (self.comm, self.counted)
    }
}

impl<B: Backend> Link<B> {
    #[inline]
    pub(crate) fn has_twin(&self) -> bool {
        self.twin.get().is_some()
    }

    /// Whether sends and receives have to run on the twin
    /// ([`EXCHANGE_FIRST`](defects::EXCHANGE_FIRST)), and can.
    #[inline]
    pub(crate) fn exchanges_apart(&self) -> bool {
        defects::EXCHANGE_FIRST.affects(self.version) && self.has_twin()
    }

    /// The twin communicator.
    pub(crate) fn twin_comm(&self) -> Result<&B::Comm> {
        let twin = self.twin.get().ok_or_else(|| Error::Config {
            what: "a path on a twin that the group has not: please report this".into(),
        })?;
        Ok(&twin.comm.comm)
    }

    /// The twin, to be suspended with its group.
    pub(super) fn twin_communicator(&self) -> Option<Arc<Communicator<B>>> {
        self.twin.get().map(|twin| Arc::clone(&twin.comm))
    }

    /// Before work on `stream`: puts it behind what the other communicator does on another stream.
    /// NCCL does not order two communicators, and kernels of both that wait for peers may keep each
    /// other from the device, in another order on each rank.
    #[inline]
    pub(crate) fn order_lanes(&self, lane: Lane, stream: &B::Stream) -> Result<()> {
        match self.twin.get() {
            None => Ok(()),
            Some(twin) => self.order_twin(twin, lane, stream),
        }
    }

    fn order_twin(&self, twin: &Twin<B>, lane: Lane, stream: &B::Stream) -> Result<()> {
        let mut last = twin.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *last {
            Some((earlier, on)) if B::same_stream(on, stream) => *earlier = lane,
            Some((earlier, on)) => {
                if lane.follows(*earlier) {
                    B::wait_stream(stream, on)?;
                }
                *last = Some((lane, stream.clone()));
            }
            // Of what came before there was a twin, all streams are known.
            None => {
                for other in self.arena().streams() {
                    if !B::same_stream(&other, stream) {
                        B::wait_stream(stream, &other)?;
                    }
                }
                *last = Some((lane, stream.clone()));
            }
        }
        Ok(())
    }

    /// Enters a twin that all ranks have just made. The first stays.
    pub(super) fn enter_twin(&self, comm: Arc<Communicator<B>>, pool: &Arc<PoolCore<B>>) {
        self.twin.get_or_init(|| Twin {
            comm,
            last: Mutex::default(),
            counted: Counted::new(pool),
        });
    }
}

/// Makes a twin of the group's communicator. All ranks are at this point; not in a capture.
pub(super) fn make<B: Backend>(
    group: &GroupCore<B>,
    link: &Link<B>,
) -> Result<Arc<Communicator<B>>> {
    let parent = link.split.ok_or_else(|| Error::Unsupported {
        what: "a twin of a communicator of another maker",
        why: "nobody knows which ranks of the world it joins: split the group from the world"
            .into(),
    })?;
    // Splits are numbered from 2^20 on, and far below 2^48. Not twice the same: ranks may be at
    // different places of giving the earlier one back.
    let number = 1 + link.twins_made.fetch_add(1, Ordering::Relaxed);
    // Not split from the group's communicator, which would have to be idle for it.
    let split = Split {
        id: parent ^ number << 48,
        color: 0,
        members: Arc::clone(&group.members),
        rank: group.rank,
    };
    connect(&group.world, split)
}

/// Where all ranks meet: makes the twin that the group's table or NCCL's version asks for, before
/// anything can be launched on it. Table, kernels and version are the same on all ranks, so all of
/// them come to it or none.
pub(crate) fn make_if_wanted<B: Backend>(group: &GroupCore<B>, link: &Link<B>) -> Result<()> {
    let kernels = link.kernels().or(group.world.kernels.get().copied());
    let faster = || kernels == Some(true) && group.table.load().want_twin();
    let wanted = link.split.is_some()
        && !link.has_twin()
        && (defects::EXCHANGE_FIRST.affects(link.version) && group.size() > 1 || faster())
        // Rounds in captures are rare, and alike on all ranks: the next one makes it.
        && active::capture_on_this_thread(&group.world).is_none();
    if wanted {
        let start = Instant::now();
        let comm = make(group, link)?;
        link.enter_twin(comm, &group.world.pool);
        trace::twin(group, start.elapsed());
    }
    Ok(())
}
