//! Communicators and their windows, with NCCL's rules: windows are found by address alone, and
//! registered by all ranks in one order.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::device::Shared;
use super::fault::Outcome;
use super::members::Members;
use super::plan::Plan;
use super::step::Step;
use super::stream::HostStream;
use super::window::{Segment, Window};
use crate::backend::call::Call;
use crate::backend::driver::{Releases, Seat, Split};
use crate::error::{Error, Result, Rule};

/// What a channel of a communicator is for, beside those of calls.
const WINDOWS: u64 = 3;
const START: u64 = 4;
const SLEEP: u64 = 5;

/// `ncclInvalidArgument`.
const INVALID_ARGUMENT: i32 = 4;

/// A communicator.
#[derive(Debug)]
pub struct Comm(Arc<Core>);

/// What a communicator and its recorded collectives share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) members: Arc<Members>,
    pub(super) version: u32,
    /// Whether registering gives windows.
    windows: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    collectives: u64,
    /// Messages so far, by direction (whether this rank sends) and peer.
    messages: HashMap<(bool, usize), u64>,
    registrations: u64,
    /// Live windows by their first address.
    windows: BTreeMap<u64, Window>,
    /// Calls that graphs hold.
    in_graphs: Vec<Weak<Plan>>,
    asleep: bool,
    /// Suspensions and resumptions so far.
    sleeps: u64,
}

/// The first version of NCCL that suspends communicators.
const SUSPENDS: u32 = 22_907;

impl Comm {
    /// A communicator without a parent.
    pub(super) fn connect(device: &Shared, seat: &Seat, split: &Split) -> Result<Self> {
        let options = &device.options;
        let members = Members {
            id: split.id,
            name: name(split),
            rank: split.rank,
            world: Arc::clone(&split.members),
            rendezvous: Arc::clone(&seat.rendezvous),
            deadline: seat.deadline,
            patience: options.patience,
            epoch: seat.rendezvous.epoch(),
            releases: Releases::of(options.nccl_version),
            revoked: AtomicBool::new(false),
            clock: Arc::clone(&device.clock),
        };
        Self::start(members, None, options.nccl_version, options.windows, split)
    }

    /// A communicator of some ranks of this one.
    pub(super) fn split(&self, split: &Split) -> Result<Self> {
        self.0.check_usable("split")?;
        let parent = &self.0.members;
        if split
            .members
            .iter()
            .any(|member| !parent.world.contains(member))
        {
            let what = format!("ranks {:?} are not all in {}", split.members, parent.name);
            return Err(Error::Config { what: what.into() });
        }
        let members = Members {
            id: split.id,
            name: name(split),
            rank: split.rank,
            world: Arc::clone(&split.members),
            rendezvous: Arc::clone(&parent.rendezvous),
            revoked: AtomicBool::new(false),
            clock: Arc::clone(&parent.clock),
            ..**parent
        };
        Self::start(members, Some(parent), self.0.version, self.0.windows, split)
    }

    fn start(
        members: Members,
        parent: Option<&Members>,
        version: u32,
        windows: bool,
        split: &Split,
    ) -> Result<Self> {
        let me = members.rendezvous.rank();
        if members.world.get(members.rank) != Some(&me) {
            return Err(Error::Config {
                what: format!(
                    "rank {me} is not number {} of {}",
                    members.rank, members.name
                )
                .into(),
            });
        }
        let same = [
            u64::from(version),
            u64::from(windows),
            split.color as u64,
            members.world.len() as u64,
        ];
        members.agree(
            parent.unwrap_or(&members),
            members.topic(&[START], 0),
            &same,
            same.len(),
            "its start (NCCL's version, windows, color, ranks)",
        )?;
        Ok(Self(Arc::new(Core {
            members: Arc::new(members),
            version,
            windows,
            state: Mutex::default(),
        })))
    }

    pub(super) fn version(&self) -> u32 {
        self.0.version
    }

    pub(super) fn can_suspend(&self) -> Result<()> {
        match self.0.version >= SUSPENDS {
            true => Ok(()),
            false => Err(Error::Unsupported {
                what: "ncclCommSuspend",
                why: "NCCL has it from 2.29.7 on".into(),
            }),
        }
    }

    /// There is no memory to give back here: what is emulated is when NCCL may not be called.
    pub(super) fn suspend(&self) -> Result<u64> {
        self.can_suspend()?;
        self.0.check_usable("suspend")?;
        self.0.check_idle("suspended")?;
        self.sleep(true).map(|()| 0)
    }

    pub(super) fn resume(&self) -> Result<()> {
        if !self.0.state().asleep {
            let detail = "resumed, but not suspended".into();
            return Err(self.0.violation(Rule::SuspendedComm, detail));
        }
        self.sleep(false)
    }

    fn sleep(&self, asleep: bool) -> Result<()> {
        let members = &self.0.members;
        let sleeps = next(&mut self.0.state().sleeps);
        let what = "falling asleep, or waking (1 or 0)";
        let topic = members.topic(&[SLEEP], sleeps);
        members.agree(members, topic, &[u64::from(asleep)], 1, what)?;
        self.0.state().asleep = asleep;
        Ok(())
    }

    pub(super) fn destroy(self) -> Result<()> {
        self.0.check_awake("destroyed")?;
        self.0.check_idle("destroyed")?;
        self.check_unrecorded("destroyed")?;
        match self.0.state().windows.len() {
            0 => Ok(()),
            windows => Err(self.0.violation(
                Rule::StaleWindow,
                format!("destroyed with {windows} windows"),
            )),
        }
    }

    /// Each recorded collective keeps the core.
    fn check_unrecorded(&self, call: &str) -> Result<()> {
        match Arc::strong_count(&self.0) - 1 {
            0 => Ok(()),
            recorded => {
                let detail = format!(
                    "{call} while captures and graphs hold {recorded} of its launches: drop them"
                );
                Err(self.0.violation(Rule::GraphAlive, detail))
            }
        }
    }

    pub(super) fn releases(&self) -> Releases {
        self.0.members.releases
    }

    /// Releases what waits in the communicator. The kernels that this lets go on are not done yet
    /// when it returns.
    pub(super) fn revoke(&self, device: &Shared) -> Result<()> {
        let members = &self.0.members;
        if members.releases == Releases::Nothing {
            return Err(Error::Unsupported {
                what: "ncclCommRevoke",
                why: "NCCL has it from 2.28.7 on".into(),
            });
        }
        if self.release(device) {
            return Err(Error::Backend {
                rank: members.rendezvous.rank(),
                call: "ncclCommRevoke",
                code: INVALID_ARGUMENT,
                text: format!("{} was revoked before", members.name).into(),
            });
        }
        Ok(())
    }

    /// Whether that had been done before.
    fn release(&self, device: &Shared) -> bool {
        let members = &self.0.members;
        let before = device.release(|| members.revoked.swap(true, Ordering::AcqRel));
        members.rendezvous.nudge();
        before
    }

    /// Ends the communicator whatever is under way in it, with its windows. Graphs must be gone:
    /// after a revoke NCCL does not wait for them any more.
    pub(super) fn abort(self, device: &Shared) -> Result<()> {
        self.release(device);
        self.check_unrecorded("aborted")?;
        let windows = std::mem::take(&mut self.0.state().windows);
        for window in windows.values() {
            window.on_segment.fetch_sub(1, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Registers the segment on all ranks; `None` where there are no windows, or a fault takes it
    /// away.
    pub(super) fn register(&self, segment: &Segment, outcome: Outcome) -> Result<Option<Window>> {
        self.0.check_usable("register")?;
        let (ordinal, double) = {
            let mut state = self.0.state();
            (
                next(&mut state.registrations),
                state.windows.contains_key(&segment.base),
            )
        };
        // A rank that may not register says so, or its peers would wait for it.
        let words = [segment.bytes, ordinal, u64::from(double), segment.base];
        let topic = self.0.members.topic(&[WINDOWS], ordinal);
        let all = self.0.members.agree(
            &self.0.members,
            topic,
            &words,
            2,
            "registering (bytes, how manieth window)",
        )?;
        if double {
            return Err(self.0.violation(
                Rule::DoubleRegistration,
                format!("the segment at {:#x} has a window", segment.base),
            ));
        }
        if let Some(other) = all.iter().position(|words| words[2] != 0) {
            let cause =
                format!("it registered a segment twice with {}", self.0.members.name).into();
            return Err(Error::PeerFailed {
                rank: self.0.members.world[other],
                cause,
            });
        }
        if !self.0.windows || outcome == Outcome::Null {
            return Ok(None);
        }
        let window = Window {
            comm: self.0.members.id,
            ordinal,
            base: segment.base,
            bytes: segment.bytes,
            bases: all.iter().map(|words| words[3]).collect(),
            on_segment: Arc::clone(&segment.windows),
            in_use: Arc::default(),
        };
        segment.windows.fetch_add(1, Ordering::AcqRel);
        self.0.state().windows.insert(segment.base, window.clone());
        Ok(Some(window))
    }

    pub(super) fn deregister(&self, window: &Window) -> Result<()> {
        self.0.check_awake("deregister")?;
        let mut state = self.0.state();
        self.0.check_window(&state, window)?;
        let busy = window.in_use.load(Ordering::Acquire);
        if busy > 0 {
            let detail = format!(
                "window {} was deregistered while {busy} operands of collectives under way lie in it",
                window.ordinal
            );
            return Err(self.0.violation(Rule::StaleWindow, detail));
        }
        let mut in_graphs = state.in_graphs.iter().filter_map(Weak::upgrade);
        if in_graphs.any(|plan| plan.is_in(window.ordinal)) {
            let detail = format!(
                "window {} was deregistered while a graph uses it: drop the graph first",
                window.ordinal
            );
            return Err(self.0.violation(Rule::GraphAlive, detail));
        }
        state.windows.remove(&window.base);
        window.on_segment.fetch_sub(1, Ordering::AcqRel);
        Ok(())
    }

    /// Whether the segment has a window, which collectives then use.
    pub(super) fn has_window(&self, segment: &Segment) -> bool {
        self.0.state().windows.contains_key(&segment.base)
    }

    /// Where `peer` has an offset of the window; NCCL says so from 2.29.2 on.
    pub(super) fn peer_address(
        &self,
        window: &Window,
        offset: u64,
        peer: usize,
    ) -> Result<Option<u64>> {
        self.0.check_window(&self.0.state(), window)?;
        let Some(base) = window.bases.get(peer) else {
            let (group, size) = (self.0.members.name.clone(), window.bases.len());
            return Err(Error::NoSuchRank {
                operation: "peer_address",
                group,
                rank: peer,
                size,
            });
        };
        if offset >= window.bytes {
            return Err(self.0.violation(
                Rule::Overrun,
                format!("offset {offset} of a window of {} bytes", window.bytes),
            ));
        }
        Ok((self.0.version >= 22902).then_some(base + offset))
    }

    /// Enqueues the calls as one group, or records them.
    pub(super) fn launch(&self, stream: &HostStream, calls: &[Call]) -> Result<()> {
        if calls.is_empty() {
            return Ok(());
        }
        let plan = Plan::new(&self.0, calls)?;
        stream.push(Step::Collectives(Arc::new(plan)))
    }
}

impl Core {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn violation(&self, rule: Rule, detail: String) -> Error {
        Error::Violation {
            rank: self.members.rendezvous.rank(),
            rule,
            detail: format!("{}: {detail}", self.members.name).into(),
        }
    }

    /// An error while the communicator sleeps.
    fn check_awake(&self, call: &str) -> Result<()> {
        match self.state().asleep {
            false => Ok(()),
            true => {
                Err(self.violation(Rule::SuspendedComm, format!("{call} on what is suspended")))
            }
        }
    }

    /// An error once the communicator was revoked, or its world rebuilt, and while it sleeps.
    pub(super) fn check_usable(&self, call: &str) -> Result<()> {
        let why = if self.members.is_revoked() {
            "was revoked"
        } else if self.members.is_stale() {
            "is of the world before it was rebuilt"
        } else {
            return self.check_awake(call);
        };
        Err(self.violation(Rule::RevokedComm, format!("{call} on what {why}")))
    }

    /// An error while collectives of the communicator are queued or under way: NCCL would take
    /// windows and buffers from under them.
    fn check_idle(&self, call: &str) -> Result<()> {
        // Each collective keeps the members until it is done.
        match Arc::strong_count(&self.members) - 1 {
            0 => Ok(()),
            busy => Err(self.violation(
                Rule::StaleWindow,
                format!("{call} while {busy} collectives are under way"),
            )),
        }
    }

    /// An error if the window is not one of the live ones.
    fn check_window(&self, state: &State, window: &Window) -> Result<()> {
        let live = state.windows.get(&window.base);
        if window.comm == self.members.id && live.is_some_and(|live| live.ordinal == window.ordinal)
        {
            return Ok(());
        }
        let detail = format!(
            "window {} is not registered any more, or not here",
            window.ordinal
        );
        Err(self.violation(Rule::StaleWindow, detail))
    }
}

fn name(split: &Split) -> Box<str> {
    format!("communicator {} of ranks {:?}", split.id, split.members).into()
}

/// The count before this one.
fn next(count: &mut u64) -> u64 {
    *count += 1;
    *count - 1
}

impl State {
    pub(super) fn next_collective(&mut self) -> u64 {
        next(&mut self.collectives)
    }

    /// The place among the messages to, or from, a peer.
    pub(super) fn next_message(&mut self, sends: bool, peer: usize) -> u64 {
        next(self.messages.entry((sends, peer)).or_default())
    }

    /// The window that the address lies in.
    pub(super) fn window_at(&self, address: u64) -> Option<&Window> {
        let (_, window) = self.windows.range(..=address).next_back()?;
        (address - window.base < window.bytes).then_some(window)
    }

    /// Remembers calls that a graph holds, as long as it does.
    pub(super) fn bind(&mut self, plan: &Arc<Plan>) {
        self.in_graphs.retain(|plan| plan.strong_count() > 0);
        self.in_graphs.push(Arc::downgrade(plan));
    }
}
