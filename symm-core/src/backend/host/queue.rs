//! The streams of a device: queues whose heads run in a seeded random order, held back by nothing
//! but the order that was asked for.

use std::collections::{HashMap, VecDeque};

use super::collective::Collective;
use super::memory::Memory;
use super::options::Rng;
use crate::error::Result;

/// What a stream does to memory.
pub(crate) type Work = Box<dyn FnOnce(&mut Memory) -> Result<()> + Send>;

/// One entry of a stream.
pub(super) enum Item {
    Run {
        label: &'static str,
        work: Work,
    },
    /// Gives memory back; done even if the device dies before.
    Free(u64),
    /// Done once another stream has reached the mark.
    Wait(Mark),
    Collective(Box<Collective>),
}

/// All that was on a stream at one time: its first `position` items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) stream: u64,
    pub(super) position: u64,
}

/// What is to be done next, for which stream.
pub(super) enum Next {
    Run(u64, Item),
    /// Finish the collective at the stream's head: all its values have arrived.
    Finish(u64),
}

/// The streams of one device.
pub(super) struct Queues {
    streams: HashMap<u64, Queue>,
    /// Streams whose head may be tried; the only thing that the order depends on, beside the seed.
    ready: Vec<u64>,
    rng: Rng,
    opened: u64,
    /// Items that are not done.
    backlog: usize,
    /// Items ever enqueued.
    total: u64,
    /// Collectives that were begun and are not finished.
    in_flight: usize,
    /// A thread waits for something that was done.
    reached: bool,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    enqueued: u64,
    done: u64,
    /// The head was taken and is not done.
    busy: bool,
    /// The head is a collective whose values have arrived.
    arrived: bool,
    /// Streams that wait for this one to reach a position.
    waiters: Vec<(u64, u64)>,
    /// The first position for which a thread waits.
    watched: Option<u64>,
    /// No handle is left.
    orphan: bool,
}

impl Queues {
    pub(super) fn new(rng: Rng) -> Self {
        let streams = HashMap::new();
        Self {
            streams,
            ready: Vec::new(),
            rng,
            opened: 0,
            backlog: 0,
            total: 0,
            in_flight: 0,
            reached: false,
        }
    }

    pub(super) fn open(&mut self) -> u64 {
        self.opened += 1;
        self.streams.insert(self.opened, Queue::default());
        self.opened
    }

    /// The stream's last handle is gone: it ends when its work is done.
    pub(super) fn abandon(&mut self, stream: u64) {
        if let Some(queue) = self.streams.get_mut(&stream) {
            queue.orphan = true;
            if queue.done == queue.enqueued {
                self.streams.remove(&stream);
            }
        }
    }

    pub(super) fn backlog(&self) -> usize {
        self.backlog
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether something that a thread waits for was done since the last call.
    pub(super) fn take_reached(&mut self) -> bool {
        std::mem::take(&mut self.reached)
    }

    pub(super) fn push(&mut self, stream: u64, item: Item) {
        let queue = self.streams.entry(stream).or_default();
        queue.items.push_back(item);
        queue.enqueued += 1;
        if queue.items.len() == 1 && !queue.busy {
            self.ready.push(stream);
        }
        self.backlog += 1;
        self.total += 1;
    }

    /// All that is on the stream now.
    pub(super) fn mark(&self, stream: u64) -> Mark {
        Mark {
            stream,
            position: self.streams.get(&stream).map_or(0, |queue| queue.enqueued),
        }
    }

    /// All that is on any stream now.
    pub(super) fn marks(&self) -> Vec<Mark> {
        self.streams
            .keys()
            .map(|&stream| self.mark(stream))
            .collect()
    }

    /// A stream that is not known any more had done everything.
    pub(super) fn is_done(&self, mark: Mark) -> bool {
        self.streams
            .get(&mark.stream)
            .is_none_or(|queue| queue.done >= mark.position)
    }

    /// Has `take_reached` tell when the mark is reached.
    pub(super) fn watch(&mut self, mark: Mark) {
        if let Some(queue) = self.streams.get_mut(&mark.stream) {
            queue.watched = Some(
                queue
                    .watched
                    .map_or(mark.position, |watched| watched.min(mark.position)),
            );
        }
    }

    /// Takes the head of a random stream that can go on.
    pub(super) fn pick(&mut self) -> Option<Next> {
        while !self.ready.is_empty() {
            let at = self.rng.below(self.ready.len() as u64) as usize;
            let stream = self.ready.swap_remove(at);
            let Some(queue) = self.streams.get_mut(&stream) else {
                continue;
            };
            if std::mem::take(&mut queue.arrived) {
                return Some(Next::Finish(stream));
            }
            let Some(item) = queue.items.pop_front() else {
                continue;
            };
            queue.busy = true;
            match item {
                Item::Wait(mark) => match self
                    .streams
                    .get_mut(&mark.stream)
                    .filter(|on| on.done < mark.position)
                {
                    Some(on) => on.waiters.push((mark.position, stream)),
                    None => self.complete(stream),
                },
                item => {
                    self.in_flight += usize::from(matches!(item, Item::Collective(_)));
                    return Some(Next::Run(stream, item));
                }
            }
        }
        None
    }

    /// The collective at the stream's head can be finished.
    pub(super) fn arrived(&mut self, stream: u64) {
        if let Some(queue) = self.streams.get_mut(&stream) {
            queue.arrived = true;
            self.ready.push(stream);
        }
    }

    /// The collective at the stream's head is done.
    pub(super) fn complete_collective(&mut self, stream: u64) {
        self.in_flight -= 1;
        self.complete(stream);
    }

    /// The stream's head is done, and with it the waits for it that were heads of other streams.
    pub(super) fn complete(&mut self, stream: u64) {
        let mut released = self.advance(stream);
        while let Some(stream) = released.pop() {
            released.extend(self.advance(stream));
        }
    }

    /// One step on; returns the streams that waited for just that.
    fn advance(&mut self, stream: u64) -> Vec<u64> {
        let Some(queue) = self.streams.get_mut(&stream) else {
            return Vec::new();
        };
        queue.done += 1;
        queue.busy = false;
        self.backlog -= 1;
        let done = queue.done;
        if queue.watched.is_some_and(|watched| watched <= done) {
            queue.watched = None;
            self.reached = true;
        }
        let released = queue
            .waiters
            .extract_if(.., |(position, _)| *position <= done)
            .map(|(_, waiter)| waiter)
            .collect();
        if !queue.items.is_empty() {
            self.ready.push(stream);
        } else if queue.orphan {
            self.streams.remove(&stream);
        }
        released
    }

    /// Drops all work as if it were done. The caller drops the items when it holds no lock: they
    /// may hold handles of streams.
    pub(super) fn clear(&mut self) -> Vec<Item> {
        let mut items = Vec::with_capacity(self.backlog);
        for queue in self.streams.values_mut() {
            items.extend(queue.items.drain(..));
            queue.waiters.clear();
            (queue.done, queue.busy, queue.arrived, queue.watched) =
                (queue.enqueued, false, false, None);
        }
        self.streams.retain(|_, queue| !queue.orphan);
        self.ready.clear();
        (self.backlog, self.in_flight, self.reached) = (0, 0, true);
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::host::Options;

    fn queues(seed: u64) -> Queues {
        Queues::new(Options::default().seed(seed).rng(0).unwrap())
    }

    fn item() -> Item {
        Item::Run {
            label: "test",
            work: Box::new(|_| Ok(())),
        }
    }

    /// The order of streams in which all items run.
    fn run(queues: &mut Queues) -> Vec<u64> {
        let mut order = Vec::new();
        while let Some(Next::Run(stream, _)) = queues.pick() {
            order.push(stream);
            queues.complete(stream);
        }
        assert_eq!(queues.backlog(), 0);
        order
    }

    #[test]
    fn streams_are_ordered_by_waits_alone() {
        let mut orders = [false; 2];
        for seed in 0..50 {
            let mut queues = queues(seed);
            let (a, b) = (queues.open(), queues.open());
            queues.push(a, item());
            queues.push(b, item());
            orders[usize::from(run(&mut queues) == [a, b])] = true;

            queues.push(a, item());
            queues.push(a, item());
            let mark = queues.mark(a);
            queues.push(b, Item::Wait(mark));
            queues.push(b, item());
            assert_eq!(run(&mut queues), [a, a, b], "seed {seed}");
        }
        assert_eq!(orders, [true; 2], "both orders occur without a wait");
    }

    #[test]
    fn an_abandoned_stream_ends_with_its_work() {
        let mut queues = queues(0);
        let (a, b) = (queues.open(), queues.open());
        queues.push(a, item());
        let mark = queues.mark(a);
        queues.push(b, Item::Wait(mark));
        queues.abandon(a);
        assert!(!queues.is_done(mark));
        assert_eq!(run(&mut queues), [a]);
        assert!(queues.is_done(mark) && queues.streams.len() == 1);
    }
}
