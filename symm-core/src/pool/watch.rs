//! What a pool knows of itself beyond its accounts: the recorder while it records, the arenas of
//! graph pools and the graphs, for snapshots.

use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::arena::ArenaId;
use super::history::{CHANGES, Recorder, Taken};
use super::placement::Position;
use super::snapshot::GraphName;
use crate::site::Site;

/// An arena at one moment, of a group or of a graph pool.
#[derive(Debug)]
pub(crate) struct Chart {
    pub(crate) arena: ArenaId,
    pub(crate) name: String,
    /// The number of the graph pool that it is of.
    pub(crate) graph_pool: Option<u64>,
    pub(crate) live: u64,
    /// Base and bytes of each. Not the segments themselves: those are let go on the reaper.
    pub(crate) segments: Vec<(u64, u64)>,
    /// Free ranges, by segment, ascending.
    pub(crate) free: Vec<Vec<(u64, u64)>>,
    /// Blocks whose bounds are known without a recording.
    pub(crate) taken: Vec<(Position, u64)>,
    /// Blocks of shared buffers that this rank has dropped.
    pub(crate) returning: Vec<(Position, u64)>,
    /// What each live graph allocated in its capture, by the graph's number.
    pub(crate) written: Vec<(u64, Vec<(Position, u64)>)>,
}

/// An arena of a graph pool, which may be of another thread.
pub(crate) trait Charted: std::fmt::Debug + Send + Sync {
    fn chart(&self) -> Chart;
}

/// A live graph.
#[derive(Clone, Debug)]
pub(crate) struct GraphNote {
    pub(crate) name: GraphName,
    pub(crate) site: Site,
    pub(crate) collectives: usize,
    pub(crate) owned_bytes: u64,
    /// Blocks from outside the capture that it keeps.
    pub(crate) leased: Vec<Spot>,
}

/// A block, by its place.
pub(crate) type Spot = (ArenaId, Position, u64);

/// See the module.
#[derive(Debug)]
pub(crate) struct Watch {
    /// Whether an allocation or a free has more to do than to place a block: redzones, or a recorder.
    /// The one thing that they look at.
    attentive: AtomicBool,
    redzones: bool,
    /// Changes that a recorder keeps.
    changes: usize,
    recorder: Mutex<Option<Arc<Recorder>>>,
    sequence: AtomicU64,
    shelves: Mutex<Vec<Weak<dyn Charted>>>,
    graph_pools: AtomicU64,
    graphs: Mutex<Vec<GraphNote>>,
}

impl Watch {
    /// Records from the start if `changes` says how many to keep.
    pub(crate) fn new(redzones: bool, changes: Option<usize>) -> Self {
        let recorder = changes.map(|changes| Arc::new(Recorder::new(changes)));
        Self {
            attentive: AtomicBool::new(redzones || recorder.is_some()),
            redzones,
            changes: changes.unwrap_or(CHANGES),
            recorder: Mutex::new(recorder),
            sequence: AtomicU64::new(0),
            shelves: Mutex::default(),
            graph_pools: AtomicU64::new(0),
            graphs: Mutex::default(),
        }
    }

    /// Whether allocations and frees have more to do. All that they cost for it.
    #[inline]
    pub(crate) fn is_attentive(&self) -> bool {
        self.attentive.load(Ordering::Relaxed)
    }

    /// Begins a recording, or ends it and forgets it; the one that began, if it was not there.
    pub(crate) fn record(&self, on: bool) -> Option<Arc<Recorder>> {
        let mut recorder = self.recorder.lock();
        let begins = on && recorder.is_none();
        match on {
            true if begins => *recorder = Some(Arc::new(Recorder::new(self.changes))),
            true => {}
            false => *recorder = None,
        }
        self.attentive.store(on || self.redzones, Ordering::Relaxed);
        recorder.clone().filter(|_| begins)
    }

    /// The recorder, without a lock where there is none.
    #[inline]
    pub(crate) fn recorder_if_any(&self) -> Option<Arc<Recorder>> {
        match self.is_attentive() {
            true => self.recorder(),
            false => None,
        }
    }

    pub(crate) fn recorder(&self) -> Option<Arc<Recorder>> {
        self.recorder.lock().clone()
    }

    /// The number of the allocation that was recorded last, in any recording.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Relaxed)
    }

    pub(crate) fn taken(
        &self,
        bytes: u64,
        group: Option<String>,
        site: &'static Location<'static>,
    ) -> Taken {
        Taken {
            bytes,
            group,
            site,
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed) + 1,
        }
    }

    pub(crate) fn next_graph_pool(&self) -> u64 {
        self.graph_pools.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn add_shelf(&self, shelf: Weak<dyn Charted>) {
        let mut shelves = self.shelves.lock();
        shelves.retain(|known| known.strong_count() > 0);
        shelves.push(shelf);
    }

    pub(crate) fn shelves(&self) -> Vec<Arc<dyn Charted>> {
        self.shelves
            .lock()
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }

    pub(crate) fn add_graph(&self, graph: GraphNote) {
        self.graphs.lock().push(graph);
    }

    pub(crate) fn remove_graph(&self, name: GraphName) {
        self.graphs.lock().retain(|known| known.name != name);
    }

    pub(crate) fn graphs(&self) -> Vec<GraphNote> {
        self.graphs.lock().clone()
    }
}
