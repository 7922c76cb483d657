//! A group of collective calls on a stream: each rank posts what it contributes, and computes its
//! own result from what all posted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::header::{self, Header};
use super::members::Members;
use super::memory::Memory;
use super::reduce::reduce;
use super::window::InUse;
use crate::backend::call::Op;
use crate::error::{Error, Result};
use crate::rendezvous::{Topic, Values};

/// By so much longer than the world's deadline does a collective wait.
const BEHIND: Duration = Duration::from_secs(1);

/// One call of a group.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) header: Header,
    pub(super) topic: Topic,
    /// World ranks that meet for it: all of the communicator, or source and target.
    pub(super) members: Arc<[usize]>,
    /// Address and bytes of what is read, and of what is written.
    pub(super) send: (u64, u64),
    pub(super) recv: (u64, u64),
    /// The windows that its operands lie in, until it is done.
    pub(super) _windows: Vec<InUse>,
    pub(super) values: Option<Values>,
}

impl Part {
    /// A message to oneself has one meeting of one member: the send posts, the receive collects.
    fn is_to_self(&self) -> bool {
        self.members.len() == 1
    }

    fn posts(&self) -> bool {
        !(self.is_to_self() && matches!(self.header.op, Op::Recv { .. }))
    }

    fn collects(&self) -> bool {
        !(self.is_to_self() && matches!(self.header.op, Op::Send { .. }))
    }
}

/// What a kernel that was released leaves in its destination: anything.
pub(super) const GARBAGE: u8 = 0xCB;

/// Calls that progress together: all are posted before any is waited for.
#[derive(Debug)]
pub(super) struct Collective {
    comm: Arc<Members>,
    parts: Vec<Part>,
    begun: Instant,
    /// When it was seen first that a peer failed, or left.
    failed: Option<(Instant, Error)>,
    /// Not all that it contributes was posted.
    unposted: bool,
    /// It does not wait any more, because its communicator was revoked.
    released: bool,
}

impl Collective {
    pub(super) fn new(comm: &Arc<Members>, parts: Vec<Part>) -> Self {
        Self {
            comm: Arc::clone(comm),
            parts,
            begun: Instant::now(),
            failed: None,
            unposted: false,
            released: false,
        }
    }

    pub(super) fn label(&self) -> &'static str {
        match &self.parts[..] {
            [part] => part.header.op.name(),
            _ => "a group of collectives",
        }
    }

    /// Reads what this rank contributes and posts it.
    pub(super) fn begin(&mut self, memory: &mut Memory) -> Result<()> {
        self.begun = Instant::now();
        // All operands first: a rank that finds a bad one has posted nothing.
        for part in &self.parts {
            memory.bytes(part.send.0, part.send.1)?;
            memory.bytes(part.recv.0, part.recv.1)?;
        }
        self.unposted = self.is_released() || self.comm.is_stale();
        if self.unposted {
            return Ok(());
        }
        for part in self.parts.iter().filter(|part| part.posts()) {
            let mut value = part.header.encode();
            value.extend(memory.bytes(part.send.0, part.send.1)?);
            let posted = self.comm.rendezvous.post(part.topic, &part.members, value);
            // A kernel does not hear of a peer that is gone: it waits.
            if let Err(error) = posted {
                self.failed = Some(suffered(error)?);
                self.unposted = true;
                break;
            }
        }
        Ok(())
    }

    /// Whether its kernel, if it waits, goes on without its peers.
    fn is_released(&self) -> bool {
        // The calls of a group are one kernel.
        let symmetric = self.parts.iter().any(|part| part.header.symmetric);
        self.comm.is_released(symmetric)
    }

    /// Whether it waits no more: all values have arrived, or it was released.
    pub(super) fn poll(&mut self) -> Result<bool> {
        // Without a post, or in another epoch, nothing can arrive.
        let cut_off = self.unposted || self.comm.is_stale();
        let mut all = !cut_off;
        for part in self
            .parts
            .iter_mut()
            .filter(|part| !cut_off && part.collects() && part.values.is_none())
        {
            match self.comm.rendezvous.try_collect(part.topic) {
                Ok(values) => part.values = values,
                // Its world was rebuilt just now.
                Err(_) if self.comm.is_stale() => {}
                Err(error) => {
                    let failed = suffered(error)?;
                    self.failed.get_or_insert(failed);
                }
            }
            all &= part.values.is_some();
        }
        self.released = !all && self.is_released();
        Ok(all || self.released)
    }

    /// When waiting becomes an error.
    pub(super) fn alarm(&self) -> Instant {
        let deadline = self.begun + self.deadline();
        match &self.failed {
            // Revoked, and yet it waits: it cannot be released.
            Some((since, _)) if !self.comm.is_revoked() => {
                deadline.min(*since + self.comm.patience)
            }
            _ => deadline,
        }
    }

    /// A kernel has none. This one ends behind the world's own deadline, whose error says more.
    fn deadline(&self) -> Duration {
        self.comm.deadline + BEHIND
    }

    /// That error.
    pub(super) fn overdue(&self) -> Error {
        if let Some((_, error)) = &self.failed
            && self.begun.elapsed() < self.deadline()
        {
            return error.clone();
        }
        let late = self
            .parts
            .iter()
            .find(|part| part.collects() && part.values.is_none());
        let missing = late
            .map(|part| self.comm.rendezvous.missing(part.topic))
            .unwrap_or_default();
        let what = format!(
            "{} on {}",
            late.map_or("nothing", |part| part.header.op.name()),
            self.comm.name
        );
        Error::Timeout {
            rank: self.comm.rendezvous.rank(),
            missing,
            what: what.into(),
            after: self.begun.elapsed(),
        }
    }

    /// Compares what the ranks called, and writes this rank's results; or garbage, as NCCL's kernels
    /// do that were released.
    pub(super) fn finish(&mut self, memory: &mut Memory) -> Result<()> {
        if self.released {
            for part in &self.parts {
                memory.bytes_mut(part.recv.0, part.recv.1)?.fill(GARBAGE);
            }
            return Ok(());
        }
        for part in self.parts.iter().filter(|part| part.values.is_some()) {
            self.compare(part)?;
        }
        for part in &mut self.parts {
            let (me, ranks) = (self.comm.rank, self.comm.world.len());
            self.comm.clock.ran(&part.header, me, ranks);
            if let Some(values) = part.values.take() {
                let out = memory.bytes_mut(part.recv.0, part.recv.1)?;
                let results = compute(&part.header, self.comm.rank, &values, out);
                results.ok_or_else(|| {
                    self.comm
                        .differ(part.header.op.name(), "a contribution is too short".into())
                })?;
            }
        }
        Ok(())
    }

    fn compare(&self, part: &Part) -> Result<()> {
        let headers = part
            .values
            .iter()
            .flat_map(|values| values.iter())
            .map(|value| Header::decode(value));
        let what = match part.header.op {
            Op::Send { .. } | Op::Recv { .. } => format!(
                "message {} between ranks {:?}",
                part.topic.step, part.members
            ),
            _ => format!("collective {}", part.topic.step),
        };
        let headers: Option<Vec<Header>> = headers.collect();
        let mut headers = headers.ok_or_else(|| {
            self.comm
                .differ(&what, "a contribution is not one of this version".into())
        })?;
        let mut members = part.members.to_vec();
        if part.is_to_self() {
            headers.push(part.header);
            members.push(members[0]);
        }
        header::compare(
            &headers,
            &members,
            self.comm.rendezvous.rank(),
            &self.comm.name,
            &what,
        )
    }
}

/// A peer's failure, now; any other error is the collective's own.
fn suffered(error: Error) -> Result<(Instant, Error)> {
    match error {
        Error::PeerFailed { .. } => Ok((Instant::now(), error)),
        other => Err(other),
    }
}

/// One rank's result. `None` if a contribution is shorter than its header says.
fn compute(header: &Header, rank: usize, values: &[Vec<u8>], out: &mut [u8]) -> Option<()> {
    let data = |from: usize| values.get(from)?.get(Header::BYTES..);
    let size = usize::try_from(header.count)
        .ok()?
        .checked_mul(header.dtype.bytes())?;
    let block = |from: usize, index: usize| data(from)?.get(index * size..)?.get(..size);
    let all = |index: usize| {
        (0..values.len())
            .map(|from| block(from, index))
            .collect::<Option<Vec<&[u8]>>>()
    };
    if out.is_empty() {
        return Some(());
    }
    match header.op {
        Op::AllReduce(op) | Op::Reduce { op, .. } => reduce(op, header.dtype, &all(0)?, out),
        Op::ReduceScatter(op) => reduce(op, header.dtype, &all(rank)?, out),
        Op::AllGather | Op::Gather { .. } => place(&all(0)?, out),
        Op::AllToAll => place(&all(rank)?, out),
        Op::Broadcast { root } => place(&[block(root, 0)?], out),
        Op::Scatter { root } => place(&[block(root, rank)?], out),
        Op::Recv { .. } => place(&[block(0, 0)?], out),
        Op::Send { .. } => {}
    }
    Some(())
}

/// Writes the parts one behind the other.
fn place(parts: &[&[u8]], out: &mut [u8]) {
    let size = parts.first().map_or(1, |part| part.len().max(1));
    for (part, out) in parts.iter().zip(out.chunks_exact_mut(size)) {
        out.copy_from_slice(part);
    }
}
