//! Groups over NCCL communicators that somebody else made, and the way back.

use std::ffi::c_void;

use super::Cuda;
use super::comm::Comm;
use crate::error::Result;
use crate::group::tag::GroupTag;
use crate::{Group, World};

impl<G: GroupTag> Group<G, Cuda> {
    /// A group over an existing communicator, for programs that have their own. The communicator
    /// stays theirs: dropping the group deregisters its windows and no more.
    /// [`members`](Group::members) numbers the ranks of the communicator, since it knows no world
    /// ranks. In messages the rank's first such group is `tp#raw1`: make them in one order on all
    /// ranks, and each has one name.
    ///
    /// ```no_run
    /// # use symm_core::{Cuda, Group, ReduceOp, Result, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// use std::ffi::c_void;
    ///
    /// /// Sums over the ranks of a communicator that the program made by itself.
    /// fn summed(world: &World<Cuda>, comm: *mut c_void) -> Result<Vec<f32>> {
    ///     // SAFETY: `comm` outlives the group, and nobody else uses it meanwhile.
    ///     let tp = unsafe { Group::<Tp, Cuda>::from_raw(world, comm) }?;
    ///     let mut x = symm!(group = tp, { tp.from_slice(&[1.0f32])? })?;
    ///     tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    ///     x.to_vec()
    /// }
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Safety
    /// `comm` is a blocking `ncclComm_t` of the NCCL that this process loaded ([`Cuda::probe`]
    /// names the file), on this rank's device. It outlives the group and every buffer of it, and
    /// nobody else calls NCCL with it at the same time, nor registers memory of this crate with it.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for a communicator on another device;
    /// [`Error::Backend`](crate::Error::Backend).
    pub unsafe fn from_raw(world: &World<Cuda>, comm: *mut c_void) -> Result<Self> {
        // SAFETY: the caller vouches for the communicator.
        let comm = unsafe { Comm::adopt(world.raw_device(), comm) }?;
        let (rank, size) = (comm.rank(), comm.size());
        world.adopt(comm, rank, size)
    }

    /// The group's `ncclComm_t`, for calls that this crate does not have. Valid while the group
    /// lives.
    ///
    /// Calls with it are the caller's to order with this crate's: one thread at a time, the same on
    /// all ranks, and no registration or destruction.
    ///
    /// ```no_run
    /// # use symm_core::{Cuda, World, groups};
    /// # groups! { pub Tp = "tp"; }
    /// World::<Cuda>::run(1, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     let comm: *mut std::ffi::c_void = tp.as_raw()?; // for `ncclCommCount` and the like
    ///     assert!(!comm.is_null());
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Never while a handle of the group is alive.
    pub fn as_raw(&self) -> Result<*mut c_void> {
        self.core().link().comm().map(Comm::as_raw)
    }
}
