//! Recorded work that is launched again and again.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::device::Shared;
use super::queue::{Item, Mark};
use super::record::{Action, Node};
use super::step::Step;
use super::stream::HostStream;
use crate::error::{Error, Result, Rule};

/// A stream that records its work. Dropping it ends that and throws the record away.
#[derive(Debug)]
pub struct Recording {
    device: Arc<Shared>,
    record: u64,
}

impl Recording {
    pub(super) fn begin(stream: &HostStream) -> Result<Self> {
        let device = stream.device();
        let record = device.alive()?.records.begin(stream.id())?;
        Ok(Self {
            device: Arc::clone(device),
            record,
        })
    }

    /// Ends the record, and makes a graph of it if nothing is wrong with it.
    pub(super) fn end(self) -> Result<Graph> {
        let record = self.device.lock().records.end(self.record);
        // A record ends nowhere but here and where it is dropped.
        let record = record.ok_or_else(|| Error::Config {
            what: "this capture has ended already".into(),
        })?;
        let (lanes, nodes) = record.finish()?;
        drop(self.device.alive()?);
        for plan in nodes.iter().filter_map(Node::collectives) {
            plan.bind();
        }
        Ok(Graph {
            device: Arc::clone(&self.device),
            nodes,
            lanes,
            launches: Mutex::default(),
        })
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // In two steps: the record is dropped when the lock is not held any more.
        let record = self.device.lock().records.end(self.record);
        drop(record);
    }
}

/// What was recorded. Dropping it frees what it holds; launches that are under way go on.
pub struct Graph {
    device: Arc<Shared>,
    nodes: Vec<Node>,
    lanes: usize,
    /// Ends of the launches that may not be done.
    launches: Mutex<Vec<Mark>>,
}

/// Where the nodes of one lane go in one launch: to the end of a queue that held `base` items.
struct Track {
    queue: u64,
    base: u64,
}

impl Graph {
    pub(super) fn device(&self) -> &Arc<Shared> {
        &self.device
    }

    /// What the steps do, in the order in which they were recorded.
    pub(super) fn labels(&self) -> Vec<String> {
        let steps = self.nodes.iter().filter_map(Node::step);
        steps.flat_map(Step::labels).collect()
    }

    /// Enqueues the nodes: those of the first lane on the stream, those of each other lane on a
    /// queue of its own, ordered with the rest by what was recorded alone.
    pub(super) fn launch(&self, stream: &HostStream) -> Result<()> {
        let mut state = stream.unrecorded("launch_graph")?;
        for plan in self.nodes.iter().filter_map(Node::collectives) {
            plan.check_usable()?;
            plan.check_windows()?;
        }
        let mut tracks = vec![Track {
            queue: stream.id(),
            base: state.queues.mark(stream.id()).position,
        }];
        tracks.extend((1..self.lanes).map(|_| Track {
            queue: state.queues.open(),
            base: 0,
        }));
        for node in &self.nodes {
            let item = match &node.action {
                Action::Step(step) => step.item(),
                Action::Wait(edge) => Item::Wait(Mark {
                    stream: tracks[edge.lane].queue,
                    position: tracks[edge.lane].base + edge.position,
                }),
            };
            self.device
                .enqueue(&mut state, tracks[node.lane].queue, item);
        }
        for track in &tracks[1..] {
            state.queues.abandon(track.queue);
        }
        // All lanes end in the first.
        let mut launches = self.launches.lock().unwrap_or_else(PoisonError::into_inner);
        launches.retain(|&launch| !state.queues.is_done(launch));
        if !self.nodes.is_empty() {
            launches.push(state.queues.mark(stream.id()));
        }
        Ok(())
    }

    /// An error if a launch is not done.
    pub(super) fn destroy(self) -> Result<()> {
        let state = self.device.lock();
        let launches = self.launches.lock().unwrap_or_else(PoisonError::into_inner);
        let running = launches
            .iter()
            .filter(|&&launch| !state.queues.is_done(launch))
            .count();
        match running {
            0 => Ok(()),
            running => {
                let detail = format!(
                    "a graph was destroyed while {running} of its launches were under way: wait \
                     for their stream"
                );
                Err(Error::Violation {
                    rank: self.device.rank(),
                    rule: Rule::GraphAlive,
                    detail: detail.into(),
                })
            }
        }
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graph")
            .field("device", &self.device)
            .field("nodes", &self.nodes)
            .finish_non_exhaustive()
    }
}
