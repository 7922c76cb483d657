//! An arena of a graph pool: symmetric memory of one group (or of the groups that share an arena),
//! or the private memory that captures use outside scopes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};

use super::layout::{Layout, Life, Step, shortfall};
use super::need::{Expected, Log};
use super::order::Order;
use super::stats::GraphArenaStats;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::group::core::GroupCore;
use crate::group::world::Rank;
use crate::pool::arena::{ArenaId, Block};
use crate::pool::placement::Position;
use crate::pool::ranges::Ranges;
use crate::pool::segment::Segment;
use crate::pool::streams::{StreamSet, StreamTable};
use crate::pool::watch::{Chart, Charted};
use crate::site::Site;

/// A block of a graph pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GraphBlock {
    pub(crate) block: Block,
    /// Its number in the arena; never used twice.
    pub(crate) number: u64,
}

/// What an allocation may do when nothing is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Miss {
    Grow,
    Refuse,
}

/// Segments and blocks whose history is that of a pool's captures alone.
#[derive(Debug)]
pub(crate) struct GraphArena<B: Backend> {
    rank: Arc<Rank<B>>,
    order: Rc<Order<B>>,
    symmetric: bool,
    /// Groups that have windows on it.
    groups: RefCell<Vec<Weak<GroupCore<B>>>>,
    shelf: Arc<Shelf<B>>,
}

/// What lies where in it: for snapshots, which any thread may take.
#[derive(Debug)]
struct Shelf<B: Backend> {
    id: ArenaId,
    name: Box<str>,
    pool: u64,
    state: Mutex<State<B>>,
}

impl<B: Backend> Charted for Shelf<B> {
    fn chart(&self) -> Chart {
        let state = self.state.lock();
        let (free, written) = state.layout.chart();
        Chart {
            arena: self.id,
            name: self.name.to_string(),
            graph_pool: Some(self.pool),
            live: state.live,
            segments: state
                .segments
                .iter()
                .map(|segment| segment.extent())
                .collect(),
            free,
            taken: state.taken.values().copied().collect(),
            returning: Vec::new(),
            written,
        }
    }
}

#[derive(Debug)]
struct State<B: Backend> {
    segments: Vec<Arc<Segment<B>>>,
    layout: Layout,
    /// Blocks that are taken, by their number.
    taken: BTreeMap<u64, (Position, u64)>,
    next: u64,
    pass: Option<Pass<B>>,
    live: u64,
    peak: u64,
}

/// What a prime or a capture has done in the arena so far.
#[derive(Debug)]
struct Pass<B: Backend> {
    executes: bool,
    /// The number of its first block.
    first: u64,
    log: Log,
    written: Ranges,
    expected: Expected,
    /// Blocks that it freed, with the streams that used them.
    freed: Vec<(Position, u64, StreamSet)>,
    streams: StreamTable<B>,
}

impl<B: Backend> GraphArena<B> {
    /// An arena of the graph pool with this number.
    pub(crate) fn new(
        name: &str,
        pool: u64,
        rank: &Arc<Rank<B>>,
        order: &Rc<Order<B>>,
        symmetric: bool,
    ) -> Rc<Self> {
        let shelf = Arc::new(Shelf {
            id: ArenaId::next(),
            name: name.into(),
            pool,
            state: Mutex::new(State {
                segments: Vec::new(),
                layout: Layout::default(),
                taken: BTreeMap::new(),
                next: 0,
                pass: None,
                live: 0,
                peak: 0,
            }),
        });
        let weak = Arc::downgrade(&shelf);
        rank.pool.watch.add_shelf(weak);
        Rc::new(Self {
            rank: Arc::clone(rank),
            order: Rc::clone(order),
            symmetric,
            groups: RefCell::default(),
            shelf,
        })
    }

    pub(crate) fn id(&self) -> ArenaId {
        self.shelf.id
    }

    pub(crate) fn name(&self) -> &str {
        &self.shelf.name
    }

    /// Bytes that buffers and graphs own for themselves.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.state().live
    }

    fn state(&self) -> MutexGuard<'_, State<B>> {
        self.shelf.state.lock()
    }

    pub(crate) fn rank(&self) -> &Arc<Rank<B>> {
        &self.rank
    }

    /// Whether groups register it.
    pub(crate) fn is_symmetric(&self) -> bool {
        self.symmetric
    }

    /// A pass begins: `executes` is true of a prime. Marks of earlier streams do not come into it.
    pub(crate) fn begin(&self, executes: bool, expected: Expected) {
        let mut state = self.state();
        state.pass = Some(Pass {
            executes,
            first: state.next,
            log: Log::default(),
            written: Ranges::default(),
            expected,
            freed: Vec::new(),
            streams: StreamTable::new(),
        });
    }

    /// The pass ends; the streams that it used come before the pool's next work.
    pub(crate) fn end(&self) -> Option<Log> {
        let pass = self.state().pass.take()?;
        if pass.executes {
            for stream in pass.streams.all() {
                self.order.add(&stream);
            }
        }
        Some(pass.log)
    }

    /// Fails where something that outlives the capture that is under way lies on what a live graph
    /// writes; `site` is where it was begun.
    pub(crate) fn check_overlap(&self, site: Site) -> Result<()> {
        let first = match &self.state().pass {
            Some(pass) => pass.first,
            None => return Ok(()),
        };
        self.check_apart(site, |number| number >= first)
    }

    /// The same for what a prime made and the program keeps.
    pub(crate) fn check_kept(&self, log: &Log, site: Site) -> Result<()> {
        self.check_apart(site, |number| log.has(number))
    }

    fn check_apart(&self, site: Site, concerns: impl Fn(u64) -> bool) -> Result<()> {
        let state = self.state();
        let mut blocks = state.taken.iter().filter(|(number, _)| concerns(**number));
        let overlap = blocks.find_map(|(_, (position, bytes))| {
            let there = state.layout.written_by(*position, *bytes)?;
            Some((*bytes, there))
        });
        match overlap {
            None => Ok(()),
            Some((bytes, there)) => Err(Error::GraphOverlap {
                arena: self.shelf.name.clone(),
                bytes,
                here: site,
                there,
            }),
        }
    }

    /// Notes that a graph writes what this pass allocated, as long as it lives.
    pub(crate) fn add_graph(&self, graph: u64, site: Site) {
        let mut state = self.state();
        if let Some(pass) = &mut state.pass {
            let written = std::mem::take(&mut pass.written);
            state.layout.add_graph(graph, site, written);
        }
    }

    /// The graph is gone.
    pub(crate) fn remove_graph(&self, graph: u64) {
        self.state().layout.remove_graph(graph);
    }

    /// A block of at least `bytes` for use on `stream`, in the pass that is under way.
    pub(crate) fn allocate(
        &self,
        bytes: u64,
        stream: &B::Stream,
        miss: Miss,
        site: Site,
    ) -> Result<GraphBlock> {
        let bytes = self.rank.pool.config.block_bytes(bytes)?;
        let (block, grew) = self.place(bytes, stream, miss, site)?;
        if grew {
            self.tell_growth();
        }
        Ok(block)
    }

    /// The same, and whether the arena grew for it.
    fn place(
        &self,
        bytes: u64,
        stream: &B::Stream,
        miss: Miss,
        site: Site,
    ) -> Result<(GraphBlock, bool)> {
        let mut grew = false;
        let mut state = self.state();
        let expected = state.pass.as_mut().map(|pass| pass.expected.next(bytes));
        let life = expected.unwrap_or(Life::Unknown);
        let position = match (state.layout.take(bytes, life), miss) {
            (Some(position), _) => position,
            (None, Miss::Refuse) => {
                return Err(Error::CaptureMiss {
                    arena: self.shelf.name.clone(),
                    need: bytes,
                    have: state.layout.largest_free(),
                    site,
                });
            }
            (None, Miss::Grow) => {
                self.grow(&mut state, bytes)?;
                grew = true;
                state
                    .layout
                    .take(bytes, life)
                    .ok_or_else(|| Error::Config {
                        what: format!(
                            "{}: a new segment did not fit: please report this",
                            self.name()
                        )
                        .into(),
                    })?
            }
        };
        if let Err(error) = state.order_behind_frees(position, bytes, stream) {
            state.layout.give(position, bytes);
            return Err(error);
        }
        let number = state.next;
        state.next += 1;
        state.taken.insert(number, (position, bytes));
        if let Some(pass) = &mut state.pass {
            pass.log.took(number, bytes, position);
            pass.written.insert(position, bytes);
        }
        state.live += bytes;
        state.peak = state.peak.max(state.live);
        let addr = state.segments[position.segment].base() + position.offset;
        let block = Block {
            position,
            bytes,
            addr,
        };
        Ok((GraphBlock { block, number }, grew))
    }

    /// Takes a block back whose last use is on `stream`.
    pub(crate) fn release(&self, block: &GraphBlock, stream: &B::Stream) {
        let GraphBlock {
            block: Block {
                position, bytes, ..
            },
            number,
        } = *block;
        let mut state = self.state();
        state.taken.remove(&number);
        state.layout.give(position, bytes);
        state.live -= bytes;
        match &mut state.pass {
            // Reused in this pass, behind the stream.
            Some(pass) if pass.executes || number >= pass.first => {
                let streams = pass.streams.note(stream);
                pass.log.gave(number);
                pass.freed.push((position, bytes, streams));
            }
            // A capture may not wait for work outside it: its launches come behind that.
            _ => self.order.add(stream),
        }
    }

    /// Whether the block is of the pass that is under way.
    pub(crate) fn is_of_pass(&self, block: &GraphBlock) -> bool {
        let state = self.state();
        state
            .pass
            .as_ref()
            .is_some_and(|pass| block.number >= pass.first)
    }

    /// Whether the block with this number is taken.
    pub(crate) fn is_taken(&self, number: u64) -> bool {
        self.state().taken.contains_key(&number)
    }

    /// Grows until the steps fit and a block of `bytes` is free; says how many segments were added.
    pub(crate) fn make_room(&self, bytes: u64, steps: &[Step]) -> Result<usize> {
        let mut state = self.state();
        let before = state.segments.len();
        let grown = (|| {
            let lacks = shortfall(&state.layout, steps);
            if lacks > 0 {
                self.grow(&mut state, lacks)?;
            }
            match bytes > state.layout.largest_free() {
                true => self.grow(&mut state, bytes),
                false => Ok(()),
            }
        })();
        let added = state.segments.len() - before;
        drop(state);
        self.tell_growth();
        grown.map(|()| added).inspect_err(|_| self.shrink(added))
    }

    /// Tells subscribers of the segments that are new.
    fn tell_growth(&self) {
        let segments = self.state().segments.clone();
        segments
            .iter()
            .for_each(|segment| segment.tell(self.name()));
    }

    /// Takes back the last `segments` segments, of which nothing was used or registered.
    pub(crate) fn shrink(&self, segments: usize) {
        let mut state = self.state();
        for _ in 0..segments {
            state.layout.remove_segment();
            let segment = state.segments.pop();
            // On the reaper, where all segments are freed.
            self.rank
                .pool
                .reaper
                .segments(segment.into_iter().collect(), Vec::new());
        }
    }

    /// Notes in the group's ledger that it works on the segment.
    pub(crate) fn touch(&self, group: &Arc<GroupCore<B>>, segment: usize) {
        let mut groups = self.groups.borrow_mut();
        if !groups
            .iter()
            .any(|known| known.as_ptr() == Arc::as_ptr(group))
        {
            groups.push(Arc::downgrade(group));
        }
        group.link().ledger().touch(self.id(), segment, || {
            self.state().segments.get(segment).cloned()
        });
    }

    /// The same for all segments.
    pub(crate) fn touch_all(&self, group: &Arc<GroupCore<B>>) {
        let segments = self.state().segments.len();
        for segment in 0..segments {
            self.touch(group, segment);
        }
    }

    /// Bytes of the segments, by index: what ranks compare.
    pub(crate) fn segment_bytes(&self) -> Vec<u64> {
        let state = self.state();
        state
            .segments
            .iter()
            .map(|segment| segment.bytes())
            .collect()
    }

    pub(crate) fn stats(&self) -> GraphArenaStats {
        let state = self.state();
        GraphArenaStats {
            name: self.shelf.name.to_string(),
            segments: state.segments.len(),
            reserved_bytes: state.segments.iter().map(|segment| segment.bytes()).sum(),
            live_bytes: state.live,
            peak_live_bytes: state.peak,
            shared_bytes: state.layout.shared_bytes(),
        }
    }

    fn grow(&self, state: &mut State<B>, bytes: u64) -> Result<()> {
        let pool = &self.rank.pool;
        let index = state.segments.len();
        let size = pool.config.graph_segment_bytes(index, bytes)?;
        let segment = Segment::new(pool, self.name(), size, bytes)?;
        state.segments.push(Arc::new(segment));
        state.layout.add_segment(size);
        Ok(())
    }
}

impl<B: Backend> State<B> {
    /// Puts `stream` behind those that used these bytes before in this pass.
    fn order_behind_frees(
        &mut self,
        position: Position,
        bytes: u64,
        stream: &B::Stream,
    ) -> Result<()> {
        let Some(pass) = &mut self.pass else {
            return Ok(());
        };
        let end = position.offset + bytes;
        let used = pass.freed.iter().filter(|(other, size, _)| {
            other.segment == position.segment
                && other.offset < end
                && position.offset < other.offset + size
        });
        let streams = used.fold(StreamSet::EMPTY, |all, (.., streams)| all | *streams);
        pass.streams.note(stream);
        pass.streams.wait(stream, streams)
    }
}

impl<B: Backend> Drop for GraphArena<B> {
    /// Hands the windows and then the segments to the reaper, behind the pool's last work.
    fn drop(&mut self) {
        let streams = self.order.streams();
        for group in self.groups.take() {
            if let Some(group) = group.upgrade() {
                group.link().close_book(self.id(), streams.clone());
            }
        }
        let segments = std::mem::take(&mut self.state().segments);
        self.rank.pool.reaper.segments(segments, streams);
    }
}
