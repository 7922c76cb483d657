//! Streams that record their work instead of queueing it, as CUDA's do in a capture.

use std::collections::HashMap;
use std::sync::Arc;

use super::plan::Plan;
use super::queue::Mark;
use super::step::Step;
use crate::error::{Error, Result, Rule};

/// A time in a stream's work: all that was on it then.
#[derive(Clone, Copy, Debug)]
pub(super) enum Point {
    Queued(Mark),
    Recorded(Recorded),
}

/// All that a record held of one of its streams at one time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recorded {
    pub(super) stream: u64,
    record: u64,
    edge: Edge,
}

impl Point {
    pub(super) fn stream(&self) -> u64 {
        match self {
            Point::Queued(mark) => mark.stream,
            Point::Recorded(recorded) => recorded.stream,
        }
    }
}

/// The first `position` nodes of a lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edge {
    pub(super) lane: usize,
    pub(super) position: u64,
}

/// One entry of a lane.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) lane: usize,
    pub(super) action: Action,
}

#[derive(Debug)]
pub(super) enum Action {
    Step(Step),
    /// Done once another lane has got there.
    Wait(Edge),
}

impl Node {
    pub(super) fn step(&self) -> Option<&Step> {
        match &self.action {
            Action::Step(step) => Some(step),
            Action::Wait(_) => None,
        }
    }

    pub(super) fn collectives(&self) -> Option<&Arc<Plan>> {
        match &self.action {
            Action::Step(Step::Collectives(plan)) => Some(plan),
            Action::Step(Step::Run { .. }) | Action::Wait(_) => None,
        }
    }
}

/// What one stream began, and others joined.
#[derive(Debug)]
pub(super) struct Record {
    rank: usize,
    /// In the order of the calls, so that a node waits for earlier ones only.
    nodes: Vec<Node>,
    /// The stream that began it is the first.
    lanes: Vec<Lane>,
    /// The first call that it cannot hold.
    broken: Option<Error>,
}

#[derive(Debug)]
struct Lane {
    stream: u64,
    /// Its nodes so far.
    position: u64,
}

impl Record {
    fn new(rank: usize) -> Self {
        Self {
            rank,
            nodes: Vec::new(),
            lanes: Vec::new(),
            broken: None,
        }
    }

    /// An error once the record holds a call that it cannot hold.
    pub(super) fn check(&self) -> Result<()> {
        self.broken.clone().map_or(Ok(()), Err)
    }

    /// Adds a step; after `check`.
    pub(super) fn push(&mut self, lane: usize, step: Step) {
        self.add(lane, Action::Step(step));
    }

    fn add(&mut self, lane: usize, action: Action) {
        self.lanes[lane].position += 1;
        self.nodes.push(Node { lane, action });
    }

    fn join(&mut self, stream: u64) -> usize {
        self.lanes.push(Lane {
            stream,
            position: 0,
        });
        self.lanes.len() - 1
    }

    /// A call was made that the record cannot hold.
    fn breaks(&mut self, rule: Rule, detail: String) -> Error {
        let error = violation(self.rank, rule, detail);
        self.broken.get_or_insert_with(|| error.clone());
        error
    }

    /// The number of lanes, and the nodes, if nothing is missing from them.
    pub(super) fn finish(self) -> Result<(usize, Vec<Node>)> {
        self.check()?;
        match self.unjoined() {
            None => Ok((self.lanes.len(), self.nodes)),
            Some(lane) => {
                let detail = format!(
                    "stream #{} has work behind which stream #{} does not come",
                    lane.stream, self.lanes[0].stream
                );
                Err(violation(self.rank, Rule::CaptureUnjoined, detail))
            }
        }
    }

    /// A lane that the first one has not waited for, to its end, itself or through others.
    fn unjoined(&self) -> Option<&Lane> {
        let mut at: Vec<u64> = self.lanes.iter().map(|lane| lane.position).collect();
        let mut joined = vec![0; at.len()];
        joined[0] = at[0];
        // Backwards, because a node waits for earlier ones only: all that may come behind one has
        // been seen.
        for node in self.nodes.iter().rev() {
            if let Action::Wait(edge) = &node.action
                && at[node.lane] <= joined[node.lane]
            {
                joined[edge.lane] = joined[edge.lane].max(edge.position);
            }
            at[node.lane] -= 1;
        }
        let mut lanes = self.lanes.iter().zip(joined);
        lanes.find_map(|(lane, joined)| (joined < lane.position).then_some(lane))
    }
}

/// The records of one device.
#[derive(Debug)]
pub(super) struct Records {
    rank: usize,
    begun: u64,
    records: HashMap<u64, Record>,
    /// The record that a stream is in, and its lane there.
    streams: HashMap<u64, (u64, usize)>,
}

impl Records {
    pub(super) fn new(rank: usize) -> Self {
        Self {
            rank,
            begun: 0,
            records: HashMap::new(),
            streams: HashMap::new(),
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.streams.is_empty()
    }

    /// From now on the stream records. Returns the record's number.
    pub(super) fn begin(&mut self, stream: u64) -> Result<u64> {
        if self.streams.contains_key(&stream) {
            let detail = format!("begin_capture: stream #{stream} is being captured already");
            return Err(violation(self.rank, Rule::CaptureUnsupported, detail));
        }
        self.begun += 1;
        let mut record = Record::new(self.rank);
        let lane = record.join(stream);
        self.streams.insert(stream, (self.begun, lane));
        self.records.insert(self.begun, record);
        Ok(self.begun)
    }

    /// Takes the record out; its streams do not record any more. The caller drops it when it holds
    /// no lock: it may hold handles of streams.
    pub(super) fn end(&mut self, record: u64) -> Option<Record> {
        self.streams.retain(|_, (of, _)| *of != record);
        self.records.remove(&record)
    }

    /// The record that the stream is in, and its lane there.
    pub(super) fn of(&mut self, stream: u64) -> Option<(&mut Record, usize)> {
        let &(record, lane) = self.streams.get(&stream)?;
        Some((self.records.get_mut(&record)?, lane))
    }

    /// All that was recorded of the stream until now, if it records.
    pub(super) fn point(&self, stream: u64) -> Option<Recorded> {
        let &(record, lane) = self.streams.get(&stream)?;
        let position = self.records.get(&record)?.lanes[lane].position;
        Some(Recorded {
            stream,
            record,
            edge: Edge { lane, position },
        })
    }

    /// Makes the stream wait where that is a matter of records: because it is in one, or because
    /// the work is, so that the stream joins. `false`: it is not.
    pub(super) fn wait(&mut self, stream: u64, on: Point) -> Result<bool> {
        let of = self.streams.get(&stream).map(|&(record, _)| record);
        let recorded = match on {
            Point::Recorded(recorded) => Some(recorded),
            Point::Queued(_) => None,
        };
        let Some(record) = of.or(recorded.map(|recorded| recorded.record)) else {
            return Ok(false);
        };
        let Some(held) = self.records.get_mut(&record) else {
            return Ok(false); // it has ended
        };
        held.check()?;
        let Some(recorded) = recorded.filter(|recorded| recorded.record == record) else {
            let detail = format!(
                "stream #{stream} would wait for work of stream #{} that was enqueued outside",
                on.stream()
            );
            return Err(held.breaks(Rule::CaptureIsolation, detail));
        };
        let (_, lane) = *self
            .streams
            .entry(stream)
            .or_insert_with(|| (record, held.join(stream)));
        held.add(lane, Action::Wait(recorded.edge));
        Ok(true)
    }

    /// An error if the stream records, which also breaks the record: it cannot hold the call.
    pub(super) fn refuse(&mut self, stream: u64, call: &str) -> Result<()> {
        match self.of(stream) {
            None => Ok(()),
            Some((record, _)) => Err(record.breaks(
                Rule::CaptureUnsupported,
                format!("{call} on stream #{stream}, which is being captured"),
            )),
        }
    }
}

fn violation(rank: usize, rule: Rule, detail: String) -> Error {
    Error::Violation {
        rank,
        rule,
        detail: detail.into(),
    }
}
