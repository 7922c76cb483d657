//! Communicators and their windows.

use std::ffi::{c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::device::Device;
use super::memory::Segment;
use super::mode::Relaxed;
use super::nccl_sys::{
    Config, Nccl, REGISTERS_IN_CAPTURE, REVOKE_DEFAULT, RawComm, RawWindow, STAT_GPU_MEM_SUSPEND,
    SUCCESS, SUSPEND_MEM, UniqueId, WIN_COLL_SYMMETRIC, dotted,
};
use crate::backend::driver::{Releases, Seat, Split};
use crate::error::{Error, Result};
use crate::rendezvous::Topic;

/// Small collectives take symmetric LL kernels on any memory from this version on (`sym_kernels.cc`).
const SYMMETRIC_WITHOUT_WINDOWS: u32 = 22_902;

/// The channels on which unique ids are handed out, one for each communicator.
const UNIQUE_ID: u64 = u64::from_le_bytes(*b"uniqueid");

/// A communicator. One thread at a time calls NCCL with it: the crate sees to that. A revoke comes
/// beside such a call; since it borrows the communicator, it never meets one that is destroyed.
#[derive(Debug)]
pub struct Comm {
    raw: RawComm,
    rank: usize,
    size: usize,
    world_rank: usize,
    owned: bool,
    /// A window was registered in it, by us as far as we know.
    windowed: AtomicBool,
    /// Whether a revoke was begun. Locked while it is under way.
    revoked: Mutex<bool>,
    asleep: AtomicBool,
    nccl: &'static Nccl,
}

// SAFETY: NCCL's communicators are not bound to a thread, and the crate serialises the calls on
// one.
unsafe impl Send for Comm {}
// SAFETY: as above.
unsafe impl Sync for Comm {}

/// `ncclCommSuspend`, `ncclCommResume`, `ncclCommMemStats`.
type Suspends = (
    unsafe extern "C" fn(RawComm, c_int) -> c_int,
    unsafe extern "C" fn(RawComm) -> c_int,
    unsafe extern "C" fn(RawComm, c_int, *mut u64) -> c_int,
);

/// A registered segment.
#[derive(Clone, Debug)]
pub struct Window(NonNull<c_void>);

// SAFETY: a handle; what it stands for is used under the communicator's lock.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Comm {
    /// A communicator without a parent. Its unique id, made by the first member, travels over the
    /// rendezvous.
    pub(super) fn connect(device: &Device, seat: &Seat, split: &Split) -> Result<Self> {
        device.bind()?;
        let made = (split.rank == 0).then(|| unique_id(device)).transpose();
        // Posted in any case, or the peers would wait for what cannot come.
        let post = made.as_ref().map_or_else(
            |_| Vec::new(),
            |id| id.map_or_else(Vec::new, |id| id.0.to_vec()),
        );
        let topic = Topic {
            channel: Topic::channel(&[UNIQUE_ID, split.id]),
            step: 0,
        };
        let (members, what) = (&split.members, "NCCL's unique id");
        let posts = seat
            .rendezvous
            .exchange(topic, members, post, what, seat.deadline)?;
        made?;
        let id = posts
            .first()
            .and_then(|id| id.as_slice().try_into().ok())
            .map(UniqueId)
            .ok_or_else(|| Error::Rendezvous {
                rank: seat.rank,
                why: format!(
                    "rank {} could not make NCCL's unique id; its own error says why",
                    members.first().copied().unwrap_or_default()
                )
                .into(),
            })?;

        let (ranks, rank) = (members.len(), split.rank);
        Self::made(
            device,
            "ncclCommInitRankConfig",
            ranks,
            rank,
            |raw, config| {
                // SAFETY: both pointers are to live variables, and the device is current.
                unsafe {
                    (device.nccl.ncclCommInitRankConfig)(
                        raw,
                        ranks as c_int,
                        id,
                        rank as c_int,
                        config,
                    )
                }
            },
        )
    }

    pub(super) fn split(device: &Device, parent: &Self, split: &Split) -> Result<Self> {
        device.bind()?;
        Self::made(
            device,
            "ncclCommSplit",
            split.members.len(),
            split.rank,
            |raw, config| {
                // SAFETY: the parent is alive, both pointers are to live variables, and the device
                // is current.
                unsafe {
                    (device.nccl.ncclCommSplit)(
                        parent.raw,
                        split.color,
                        split.rank as c_int,
                        raw,
                        config,
                    )
                }
            },
        )
    }

    /// Runs `make` and checks that what came out is what all ranks meant.
    fn made(
        device: &Device,
        call: &'static str,
        size: usize,
        rank: usize,
        make: impl FnOnce(*mut RawComm, *mut Config) -> c_int,
    ) -> Result<Self> {
        let mut raw = ptr::null_mut();
        device.check(call, make(&mut raw, &mut Config::ours()))?;
        // SAFETY: just made, and ours.
        let comm = Self {
            owned: true,
            windowed: AtomicBool::new(false),
            ..unsafe { Self::adopt(device, raw) }?
        };
        if (comm.size, comm.rank) != (size, rank) {
            let what = format!(
                "{call} gave rank {} of {}, but rank {rank} of {size} was expected: the ranks named different members",
                comm.rank, comm.size
            );
            // SAFETY: ours, and never used. Its peers see an error, not a communicator that half of
            // them left.
            device.check("ncclCommAbort", unsafe { (device.nccl.ncclCommAbort)(raw) })?;
            return Err(Error::Config { what: what.into() });
        }
        Ok(comm)
    }

    /// A communicator that someone else made and destroys.
    ///
    /// # Safety
    /// `raw` is a blocking `ncclComm_t` of the NCCL that this process loaded, alive until the
    /// result is destroyed, and nobody else calls NCCL with it meanwhile.
    pub(crate) unsafe fn adopt(device: &Device, raw: *mut c_void) -> Result<Self> {
        device.bind()?;
        let nccl = device.nccl;
        let (mut size, mut rank, mut ordinal) = (0, 0, 0);
        // SAFETY: the caller vouches for the communicator; the pointers are to live variables.
        unsafe {
            device.check("ncclCommCount", (nccl.ncclCommCount)(raw, &mut size))?;
            device.check("ncclCommUserRank", (nccl.ncclCommUserRank)(raw, &mut rank))?;
            device.check(
                "ncclCommCuDevice",
                (nccl.ncclCommCuDevice)(raw, &mut ordinal),
            )?;
        }
        if ordinal as usize != device.context.ordinal() {
            let what = format!(
                "the communicator is on cuda:{ordinal}, this rank on cuda:{}",
                device.context.ordinal()
            );
            return Err(Error::Config { what: what.into() });
        }
        Ok(Self {
            raw,
            rank: rank as usize,
            size: size as usize,
            world_rank: device.rank,
            owned: false,
            windowed: AtomicBool::new(true),
            revoked: Mutex::new(false),
            asleep: AtomicBool::new(false),
            nccl,
        })
    }

    /// Whether its collectives may take symmetric kernels: without a window those came with 2.29.2.
    pub(super) fn may_take_symmetric_kernels(&self) -> bool {
        self.windowed.load(Ordering::Relaxed) || self.nccl.version >= SYMMETRIC_WITHOUT_WINDOWS
    }

    /// The `ncclComm_t`.
    pub(crate) fn as_raw(&self) -> *mut c_void {
        self.raw
    }

    /// This rank in it.
    pub(crate) fn rank(&self) -> usize {
        self.rank
    }

    /// Its ranks.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn version(&self) -> u32 {
        self.nccl.version
    }

    /// Ends every wait inside the communicator, of kernels and of calls on other threads. A second
    /// revoke waits for the first and does nothing, because NCCL refuses it.
    pub(super) fn revoke(&self, device: &Device) -> Result<()> {
        if !self.owned {
            return Err(Error::Unsupported {
                what: "revoking a communicator that somebody else made",
                why: "its owner may still use it: abort it there".into(),
            });
        }
        let revoke = self.nccl.ncclCommRevoke.ok_or_else(|| Error::Unsupported {
            what: "ncclCommRevoke",
            why: "it comes with NCCL 2.28.7; until then, what is stuck in NCCL stays so".into(),
        })?;
        let mut revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        // NCCL makes the device current itself where it needs it, so an error of an earlier call,
        // which is told here, must not keep the peers' kernels waiting.
        if *revoked || !device.bind_to_release().unwrap_or(true) {
            return Ok(());
        }
        *revoked = true;
        // SAFETY: ours, and alive: destroying it consumes it. NCCL allows this call beside others.
        device.check("ncclCommRevoke", unsafe {
            revoke(self.raw, REVOKE_DEFAULT)
        })
    }

    /// What a revoke can end.
    pub(super) fn releases(&self) -> Releases {
        match self.owned && self.nccl.ncclCommRevoke.is_some() {
            true => Releases::of(self.nccl.version),
            false => Releases::Nothing,
        }
    }

    /// Ends it without its peers. Somebody else's communicator is left to them.
    pub(super) fn abort(self, device: &Device) -> Result<()> {
        // As for a revoke: an earlier error must not keep it.
        if !self.owned || !device.bind_to_release().unwrap_or(true) {
            return Ok(());
        }
        // SAFETY: ours, and gone after this: `self` is consumed.
        let aborted = device.check("ncclCommAbort", unsafe {
            (device.nccl.ncclCommAbort)(self.raw)
        });
        match self.asleep.load(Ordering::Acquire) {
            // NCCL takes the windows away, and then fails to free what is not mapped (`commFree` in
            // init.cc): that is given back already.
            true => Ok(()),
            false => aborted,
        }
    }

    pub(super) fn can_suspend(&self) -> Result<()> {
        let (_, _, stats) = self.suspends()?;
        let mut bytes = 0;
        // SAFETY: the communicator is alive, the pointer is to a live variable.
        match unsafe { stats(self.raw, STAT_GPU_MEM_SUSPEND, &mut bytes) } {
            SUCCESS => Ok(()),
            code => Err(Error::Unsupported {
                what: "ncclCommSuspend",
                why: format!(
                    "NCCL does not keep track of its memory: {}; is NCCL_DISABLE_MEM_MANAGER set?",
                    self.nccl.explain(code)
                )
                .into(),
            }),
        }
    }

    fn suspends(&self) -> Result<Suspends> {
        let nccl = self.nccl;
        match (
            nccl.ncclCommSuspend,
            nccl.ncclCommResume,
            nccl.ncclCommMemStats,
        ) {
            (Some(suspend), Some(resume), Some(stats)) => Ok((suspend, resume, stats)),
            _ => Err(Error::Unsupported {
                what: "ncclCommSuspend",
                why: format!(
                    "it comes with NCCL 2.29.7; this is {}",
                    dotted(nccl.version)
                )
                .into(),
            }),
        }
    }

    /// Waits for the device and for all ranks, inside NCCL. What fails half way leaves a
    /// communicator that can only be aborted.
    pub(super) fn suspend(&self, device: &Device) -> Result<u64> {
        let (suspend, _, stats) = self.suspends()?;
        device.bind()?;
        let mut bytes = 0;
        // SAFETY: the communicator is alive, the pointer is to a live variable.
        device.check("ncclCommMemStats", unsafe {
            stats(self.raw, STAT_GPU_MEM_SUSPEND, &mut bytes)
        })?;
        self.asleep.store(true, Ordering::Release);
        // SAFETY: the communicator is alive, and the crate calls nothing else on it meanwhile.
        device.check("ncclCommSuspend", unsafe { suspend(self.raw, SUSPEND_MEM) })?;
        Ok(bytes)
    }

    /// As for `suspend`.
    pub(super) fn resume(&self, device: &Device) -> Result<()> {
        let (_, resume, _) = self.suspends()?;
        device.bind()?;
        // SAFETY: as for `suspend`.
        device.check("ncclCommResume", unsafe { resume(self.raw) })?;
        self.asleep.store(false, Ordering::Release);
        Ok(())
    }

    /// One that failed is aborted, because an orderly end would wait for peers that do not come.
    pub(super) fn destroy(self, device: &Device) -> Result<()> {
        if *self.revoked.lock().unwrap_or_else(PoisonError::into_inner) {
            return self.abort(device);
        }
        if !self.owned || !device.bind_to_release()? {
            return Ok(());
        }
        let mut failed = SUCCESS;
        // SAFETY: ours, and gone after this: `self` is consumed.
        unsafe {
            device.check(
                "ncclCommGetAsyncError",
                (device.nccl.ncclCommGetAsyncError)(self.raw, &mut failed),
            )?;
            if failed != SUCCESS {
                device.check("ncclCommAbort", (device.nccl.ncclCommAbort)(self.raw))?;
                return device.check("a collective (ncclCommGetAsyncError)", failed);
            }
            device.check("ncclCommDestroy", (device.nccl.ncclCommDestroy)(self.raw))
        }
    }

    /// NULL with success means that the communicator has no windows. Before 2.29.2 NCCL gives a
    /// handle in that case too, which proves nothing but can be deregistered; `symmetric_kernels`
    /// tells then.
    pub(super) fn register(&self, device: &Device, segment: &Segment) -> Result<Option<Window>> {
        device.bind()?;
        let _relaxed = (device.nccl.version < REGISTERS_IN_CAPTURE)
            .then(|| Relaxed::enter(device))
            .transpose()?;
        self.windowed.store(true, Ordering::Relaxed);
        let slot: *mut RawWindow = Box::into_raw(Box::new(ptr::null_mut()));
        let base = segment.base as *mut c_void;
        // SAFETY: communicator and segment are alive, the device is current, and the slot stays.
        let code = unsafe {
            (device.nccl.ncclCommWindowRegister)(
                self.raw,
                base,
                segment.bytes as usize,
                slot,
                WIN_COLL_SYMMETRIC,
            )
        };
        // On failure the slot is leaked: NCCL keeps its address in a queue that its next call works
        // off.
        device.check("ncclCommWindowRegister", code)?;
        // SAFETY: made above; a blocking call that succeeded is done with it.
        let window = unsafe { Box::from_raw(slot) };
        Ok(NonNull::new(*window).map(Window))
    }

    pub(super) fn deregister(&self, device: &Device, window: Window) -> Result<()> {
        if !device.bind_to_release()? {
            return Ok(());
        }
        let _relaxed = (device.nccl.version < REGISTERS_IN_CAPTURE)
            .then(|| Relaxed::enter(device))
            .transpose()?;
        // SAFETY: the window is this communicator's, and consumed.
        device.check("ncclCommWindowDeregister", unsafe {
            (device.nccl.ncclCommWindowDeregister)(self.raw, window.as_raw())
        })
    }

    /// `None` for a peer that loads and stores do not reach, and before 2.29.2.
    pub(super) fn peer_address(
        &self,
        window: &Window,
        offset: u64,
        peer: usize,
    ) -> Result<Option<u64>> {
        let Some(get) = self.nccl.ncclGetPeerDevicePointer else {
            return Ok(None);
        };
        let mut address = ptr::null_mut();
        // SAFETY: the window is alive; the pointer is to a live variable.
        let code = unsafe {
            get(
                window.as_raw(),
                offset as usize,
                peer as c_int,
                &mut address,
            )
        };
        match code {
            SUCCESS => Ok(NonNull::new(address).map(|address| address.as_ptr() as u64)),
            code => Err(Error::Backend {
                rank: self.world_rank,
                call: "ncclGetPeerDevicePointer",
                code,
                text: self.nccl.explain(code).into(),
            }),
        }
    }
}

fn unique_id(device: &Device) -> Result<UniqueId> {
    let mut id = UniqueId([0; 128]);
    // SAFETY: the pointer is to a live variable.
    device.check("ncclGetUniqueId", unsafe {
        (device.nccl.ncclGetUniqueId)(&mut id)
    })?;
    Ok(id)
}

impl Window {
    pub(super) fn as_raw(&self) -> *mut c_void {
        self.0.as_ptr()
    }
}
