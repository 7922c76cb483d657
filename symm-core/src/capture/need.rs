//! What a capture will need: learnt by a prime, or said.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::arena::GraphArena;
use super::layout::{Life, Step, block_bytes};
use crate::backend::Backend;
use crate::group::Group;
use crate::group::core::GroupCore;
use crate::group::tag::GroupTag;
use crate::pool::arena::ArenaId;
use crate::pool::placement::Position;

/// Allocations and frees of one pass in one arena.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Log(Vec<Event>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Took {
        number: u64,
        bytes: u64,
        position: Position,
    },
    Gave {
        number: u64,
    },
}

impl Log {
    pub(crate) fn took(&mut self, number: u64, bytes: u64, position: Position) {
        self.0.push(Event::Took {
            number,
            bytes,
            position,
        });
    }

    pub(crate) fn gave(&mut self, number: u64) {
        self.0.push(Event::Gave { number });
    }

    /// Sizes and places of all allocations, in order.
    pub(crate) fn places(&self) -> impl Iterator<Item = (u64, Position)> {
        self.0.iter().filter_map(|event| match event {
            Event::Took {
                bytes, position, ..
            } => Some((*bytes, *position)),
            Event::Gave { .. } => None,
        })
    }

    /// Whether the block was taken in this pass.
    pub(crate) fn has(&self, wanted: u64) -> bool {
        self.0
            .iter()
            .any(|event| matches!(event, Event::Took { number, .. } if *number == wanted))
    }

    /// The most bytes that were taken at a time.
    fn peak(&self) -> u64 {
        let (mut sizes, mut live, mut peak) = (BTreeMap::new(), 0, 0);
        for event in &self.0 {
            match event {
                Event::Took { number, bytes, .. } => {
                    sizes.insert(*number, *bytes);
                    live += bytes;
                    peak = peak.max(live);
                }
                Event::Gave { number } => live -= sizes.remove(number).unwrap_or(0),
            }
        }
        peak
    }

    /// What a capture of the same step is going to do. What was made in the prime and is `kept` by
    /// the program is not made again: a cache, a workspace.
    fn steps(&self, kept: impl Fn(u64) -> bool) -> Vec<Step> {
        let given: Vec<u64> = self
            .0
            .iter()
            .filter_map(|event| match event {
                Event::Gave { number } => Some(*number),
                Event::Took { .. } => None,
            })
            .collect();
        let mut places = BTreeMap::new();
        let mut steps = Vec::new();
        for event in &self.0 {
            match event {
                Event::Took { number, bytes, .. } if !kept(*number) => {
                    let life = match given.contains(number) {
                        true => Life::Temporary,
                        false => Life::Outlives,
                    };
                    places.insert(*number, places.len());
                    steps.push(Step::Take(*bytes, life));
                }
                Event::Took { .. } => {}
                Event::Gave { number } => {
                    steps.extend(places.get(number).map(|place| Step::Give(*place)));
                }
            }
        }
        steps
    }
}

/// The blocks that a capture is expected to allocate, in order.
#[derive(Debug, Default)]
pub(crate) struct Expected(VecDeque<(u64, Life)>);

impl Expected {
    pub(crate) fn of(steps: &[Step]) -> Self {
        let blocks = steps.iter().filter_map(|step| match step {
            Step::Take(bytes, life) => Some((*bytes, *life)),
            Step::Give(_) => None,
        });
        Self(blocks.collect())
    }

    /// What is known of the next block, which has so many bytes. Passes need not be equal: what the
    /// capture left out is skipped, and of what it added nothing is known.
    pub(crate) fn next(&mut self, bytes: u64) -> Life {
        match self.0.iter().position(|(expected, _)| *expected == bytes) {
            Some(at) => self
                .0
                .drain(..=at)
                .next_back()
                .map_or(Life::Unknown, |(_, life)| life),
            None => Life::Unknown,
        }
    }
}

/// What one arena has to have.
#[derive(Debug)]
pub(crate) struct Part<B: Backend> {
    pub(crate) place: Place<B>,
    /// One free block of so many bytes.
    pub(crate) bytes: u64,
    /// What a prime did, and in which arena.
    pub(crate) log: Option<(Log, Rc<GraphArena<B>>)>,
}

/// Which arena.
#[derive(Clone, Debug)]
pub(crate) enum Place<B: Backend> {
    /// Memory outside scopes.
    Private,
    /// That of the group, and of those that share it.
    Group(Arc<GroupCore<B>>),
}

impl<B: Backend> Place<B> {
    /// The eager arena that it stands for.
    pub(crate) fn arena(&self) -> Option<ArenaId> {
        match self {
            Place::Private => None,
            Place::Group(group) => Some(group.arena.id),
        }
    }
}

/// The memory that a capture will need, and the groups that it will use.
///
/// [`GraphPool::capture`](crate::GraphPool::capture) learns it by running the step once, which
/// [`Prime`](crate::Prime) does for code that cannot pass a closure; or it is said, in bytes:
///
/// ```
/// use symm_core::{GraphPool, Host, Need, Pass, ReduceOp, Result, World, groups, symm};
/// groups! { pub Tp = "tp"; }
///
/// World::<Host>::run(2, |world| {
///     let tp = world.split::<Tp>(0, 0)?;
///     let x = symm!(group = tp, { tp.from_slice(&[1.0f32; 256])? })?;
///     let graphs = GraphPool::new(world.pool());
///     let need = Need::new().group(&tp, 1 << 20);
///     let mut step = graphs.capture_reserved(&need, world.stream(), |pass| -> Result<_> {
///         assert_eq!(pass, Pass::Capture); // once: nothing has run
///         let mut sum = symm!(group = tp, { tp.empty::<f32>(256)? })?;
///         tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?;
///         Ok(sum)
///     })?;
///     step.launch()?;
///     assert_eq!(step.output().to_vec()?, [2.0; 256]);
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
pub struct Need<B: Backend> {
    pub(crate) parts: Vec<Part<B>>,
    /// Groups that take part, whether they need memory or not.
    pub(crate) groups: Vec<Arc<GroupCore<B>>>,
}

impl<B: Backend> Need<B> {
    /// Nothing.
    ///
    /// ```
    /// # use symm_core::{Buf, GraphPool, Host, Need, World};
    /// # World::<Host>::run(1, |world| {
    /// # let graphs = GraphPool::new(world.pool());
    /// let mut x: Buf<f32, Host> = Buf::from_slice(&[1.0, 2.0])?;
    /// let need = Need::new(); // a step that allocates nothing, in no group
    /// graphs.capture_reserved(&need, world.stream(), |_pass| x.fill_zero())?.launch()?;
    /// assert_eq!((need.bytes(), x.to_vec()?), (0, vec![0.0, 0.0]));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    #[allow(clippy::new_without_default)] // the backend would have to be named as often
    pub fn new() -> Self {
        Self {
            parts: Vec::new(),
            groups: Vec::new(),
        }
    }

    /// Adds `bytes` in one piece, rounded up to a multiple of 512, for memory outside scopes.
    ///
    /// ```
    /// # use symm_core::{Buf, Error, GraphPool, Host, Need, World};
    /// # World::<Host>::run(1, |world| {
    /// # let graphs = GraphPool::new(world.pool());
    /// let need = Need::new().plain(1000);
    /// assert_eq!(need.bytes(), 1024); // in blocks of 512
    /// let step = |_pass| Buf::<u8, Host>::zeros(1000);
    /// assert!(graphs.capture_reserved(&need, world.stream(), step).is_ok());
    /// let without = GraphPool::new(world.pool()).capture_reserved(&Need::new(), world.stream(), step);
    /// assert!(matches!(without, Err(Error::CaptureMiss { need: 1024, have: 0, .. })));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    #[must_use]
    pub fn plain(mut self, bytes: u64) -> Self {
        self.add(Place::Private, bytes);
        self
    }

    /// Adds `bytes` in one piece, rounded up to a multiple of 512, for the group's scopes. Ranks of the
    /// group say the same.
    ///
    /// ```
    /// # use symm_core::{GraphPool, Host, Need, Result, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// # let graphs = GraphPool::new(world.pool());
    /// let need = Need::new().group(&tp, 1 << 20);
    /// let graph = graphs.capture_reserved(&need, world.stream(), |_pass| -> Result<_> {
    ///     symm!(group = tp, { tp.zeros::<u8>(1 << 20)? })
    /// })?;
    /// assert_eq!((graph.output().len(), tp.windows()), (1 << 20, 1)); // registered before the capture
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    #[must_use]
    pub fn group<G: GroupTag>(mut self, group: &Group<G, B>, bytes: u64) -> Self {
        self.uses(group.core());
        self.add(Place::Group(Arc::clone(group.core())), bytes);
        self
    }

    /// Bytes in all: the most that the prime had at a time, or what was said.
    ///
    /// ```
    /// # use symm_core::{Buf, GraphPool, Host, Need, Prime, World};
    /// # World::<Host>::run(1, |world| {
    /// # let graphs = GraphPool::new(world.pool());
    /// let said = Need::<Host>::new().plain(512).plain(2048);
    /// assert_eq!(said.bytes(), 2560);
    ///
    /// let prime = Prime::begin(&graphs, world.stream())?;
    /// drop(Buf::<u8, Host>::empty(512)?);
    /// drop(Buf::<u8, Host>::empty(2048)?);
    /// assert_eq!(prime.end()?.bytes(), 2048); // never both at a time
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn bytes(&self) -> u64 {
        let parts = self.parts.iter();
        parts
            .map(|part| match &part.log {
                Some((log, _)) => log.peak().max(part.bytes),
                None => part.bytes,
            })
            .sum()
    }

    pub(crate) fn uses(&mut self, group: &Arc<GroupCore<B>>) {
        if !self.groups.iter().any(|known| Arc::ptr_eq(known, group)) {
            self.groups.push(Arc::clone(group));
        }
    }

    fn add(&mut self, place: Place<B>, bytes: u64) {
        let bytes = block_bytes(bytes).unwrap_or(bytes);
        let known = self
            .parts
            .iter_mut()
            .find(|part| part.place.arena() == place.arena());
        match known {
            Some(part) => part.bytes += bytes,
            None => self.parts.push(Part {
                place,
                bytes,
                log: None,
            }),
        }
    }
}

impl<B: Backend> Part<B> {
    /// What the capture is expected to do.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let steps = self.log.as_ref().map(|(log, arena)| {
            // Asked now: what the prime returned is gone, what it made to stay is there.
            log.steps(|number| arena.is_taken(number))
        });
        steps.unwrap_or_default()
    }
}

impl<B: Backend> fmt::Debug for Need<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups: Vec<String> = self.groups.iter().map(|group| group.label()).collect();
        f.debug_struct("Need")
            .field("bytes", &self.bytes())
            .field("groups", &groups)
            .finish()
    }
}
