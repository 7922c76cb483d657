//! Enqueuing collectives.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use cudarc::driver::CudaStream;
use half::{bf16, f16};

use super::comm::Comm;
use super::device::Device;
use super::mode::Relaxed;
use super::nccl_sys::{Nccl, RawComm, RawStream, SCALAR_HOST_IMMEDIATE};
use crate::backend::call::{Call, Op, ReduceOp};
use crate::element::Dtype;
use crate::error::Result;

/// Enqueues the calls, as one NCCL group if there is more than one.
///
/// # Safety
/// As for `Driver::launch`.
pub(super) unsafe fn launch(
    device: &Device,
    comm: &Comm,
    stream: &Arc<CudaStream>,
    calls: &[Call],
) -> Result<()> {
    device.bind()?;
    // The first collective that takes an algorithm connects it, on this thread if nothing else is
    // to be done, by calls that NCCL does not guard in a capture: `nvlsAllocateMem` has a
    // `cudaMemset` (2.28.9 to 2.30.7, `ncclCollPreconnect` in group.cc).
    let _relaxed = Relaxed::if_strict(device)?;
    // In a group of one rank they are copies.
    if comm.size() > 1
        && comm.may_take_symmetric_kernels()
        && calls.iter().any(|call| call.op.has_symmetric_kernels())
    {
        device.separate(stream)?;
    }
    let enqueue = Enqueue {
        device,
        nccl: device.nccl,
        comm: comm.as_raw(),
        size: comm.size(),
        rank: comm.rank(),
        stream: stream.cu_stream().cast(),
    };
    // SAFETY: the caller vouches for the operands.
    unsafe {
        match calls {
            [call] => enqueue.call(call),
            calls => enqueue.grouped(|| calls.iter().try_for_each(|call| enqueue.call(call))),
        }
    }
}

/// Where calls go.
struct Enqueue<'a> {
    device: &'a Device,
    nccl: &'a Nccl,
    comm: RawComm,
    size: usize,
    rank: usize,
    stream: RawStream,
}

impl Enqueue<'_> {
    /// Runs `enqueue` inside a group. The group is ended also when a call failed, or the thread's
    /// next call would wait in it for ever.
    fn grouped(&self, enqueue: impl FnOnce() -> Result<()>) -> Result<()> {
        // SAFETY: start and end are paired on this thread.
        let started = unsafe { (self.nccl.ncclGroupStart)() };
        self.device.check("ncclGroupStart", started)?;
        let enqueued = enqueue();
        // SAFETY: as above.
        let ended = unsafe { (self.nccl.ncclGroupEnd)() };
        let ended = self.device.check("ncclGroupEnd", ended);
        enqueued.and(ended)
    }

    /// # Safety
    /// The operands are memory of the device, as long as the operation needs, allocated until it is
    /// done.
    unsafe fn call(&self, call: &Call) -> Result<()> {
        let (send, recv) = (call.send as *const c_void, call.recv as *mut c_void);
        let (count, dtype) = (call.count, call.dtype as c_int);
        let (nccl, comm, stream) = (self.nccl, self.comm, self.stream);
        // SAFETY: the caller vouches for the operands; communicator and stream are alive.
        unsafe {
            match call.op {
                Op::AllReduce(op) => self.reduction(call, op, |op| {
                    self.device.check(
                        "ncclAllReduce",
                        (nccl.ncclAllReduce)(send, recv, count, dtype, op, comm, stream),
                    )
                }),
                Op::ReduceScatter(op) => self.reduction(call, op, |op| {
                    self.device.check(
                        "ncclReduceScatter",
                        (nccl.ncclReduceScatter)(send, recv, count, dtype, op, comm, stream),
                    )
                }),
                Op::AllGather if call.avoid_windows => self.gather_by_broadcasts(call),
                Op::AllGather => self.device.check(
                    "ncclAllGather",
                    (nccl.ncclAllGather)(send, recv, count, dtype, comm, stream),
                ),
                // None of these has a symmetric kernel, so none uses a window.
                Op::Broadcast { root } => self.device.check(
                    "ncclBroadcast",
                    (nccl.ncclBroadcast)(send, recv, count, dtype, root as c_int, comm, stream),
                ),
                Op::Reduce { op, root } => self.device.check(
                    "ncclReduce",
                    (nccl.ncclReduce)(
                        send,
                        recv,
                        count,
                        dtype,
                        op as c_int,
                        root as c_int,
                        comm,
                        stream,
                    ),
                ),
                Op::AllToAll => match nccl.ncclAlltoAll {
                    Some(all_to_all) => self.device.check(
                        "ncclAlltoAll",
                        all_to_all(send, recv, count, dtype, comm, stream),
                    ),
                    None => self.pairwise(call, |_| true, |_| true),
                },
                Op::Gather { root } => match nccl.ncclGather {
                    Some(gather) => self.device.check(
                        "ncclGather",
                        gather(send, recv, count, dtype, root as c_int, comm, stream),
                    ),
                    None => self.pairwise(call, |peer| peer == root, |_| self.rank == root),
                },
                Op::Scatter { root } => match nccl.ncclScatter {
                    Some(scatter) => self.device.check(
                        "ncclScatter",
                        scatter(send, recv, count, dtype, root as c_int, comm, stream),
                    ),
                    None => self.pairwise(call, |_| self.rank == root, |peer| peer == root),
                },
                Op::Send { peer } => self.device.check(
                    "ncclSend",
                    (nccl.ncclSend)(send, count, dtype, peer as c_int, comm, stream),
                ),
                Op::Recv { peer } => self.device.check(
                    "ncclRecv",
                    (nccl.ncclRecv)(recv, count, dtype, peer as c_int, comm, stream),
                ),
            }
        }
    }

    /// An all_gather that keeps off the window: broadcasts have no symmetric kernels.
    ///
    /// # Safety
    /// As for `call`.
    unsafe fn gather_by_broadcasts(&self, call: &Call) -> Result<()> {
        let part = (call.count * call.dtype.bytes()) as u64;
        self.grouped(|| {
            (0..self.size).try_for_each(|root| {
                let recv = call.recv + part * root as u64;
                // Only the root's source is read.
                let send = if root == self.rank { call.send } else { recv };
                let broadcast = Op::Broadcast { root };
                // SAFETY: the caller vouches for the operands.
                unsafe {
                    self.call(&Call {
                        op: broadcast,
                        send,
                        recv,
                        ..*call
                    })
                }
            })
        })
    }

    /// What NCCL before 2.28 has no call for: sends to the peers that `to` names, receives from
    /// those that `from` names.
    ///
    /// # Safety
    /// As for `call`.
    unsafe fn pairwise(
        &self,
        call: &Call,
        to: impl Fn(usize) -> bool,
        from: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let part = (call.count * call.dtype.bytes()) as u64;
        // An operand of one part is the same for all peers, one of `size` parts has one for each.
        let at = |base: u64, parts: usize, peer: usize| {
            if parts > call.count {
                base + part * peer as u64
            } else {
                base
            }
        };
        let (sends, receives) = call.op.lengths(call.count, self.rank, self.size);
        let (count, dtype) = (call.count, call.dtype as c_int);
        self.grouped(|| {
            for peer in 0..self.size {
                if to(peer) {
                    let send = at(call.send, sends, peer) as *const c_void;
                    // SAFETY: the caller vouches for the operands.
                    let code = unsafe {
                        (self.nccl.ncclSend)(
                            send,
                            count,
                            dtype,
                            peer as c_int,
                            self.comm,
                            self.stream,
                        )
                    };
                    self.device.check("ncclSend", code)?;
                }
                if from(peer) {
                    let recv = at(call.recv, receives, peer) as *mut c_void;
                    // SAFETY: as above.
                    let code = unsafe {
                        (self.nccl.ncclRecv)(
                            recv,
                            count,
                            dtype,
                            peer as c_int,
                            self.comm,
                            self.stream,
                        )
                    };
                    self.device.check("ncclRecv", code)?;
                }
            }
            Ok(())
        })
    }

    /// Runs `enqueue` with NCCL's number of the operator. To keep off the window, a sum or an
    /// average becomes a sum of scaled values, which NCCL has no symmetric kernel for; that is also
    /// how its other kernels compute an average.
    fn reduction(
        &self,
        call: &Call,
        op: ReduceOp,
        enqueue: impl FnOnce(c_int) -> Result<()>,
    ) -> Result<()> {
        let factor = match op {
            ReduceOp::Sum => 1.0,
            ReduceOp::Avg => 1.0 / self.size as f64,
            _ => return enqueue(op as c_int),
        };
        let Some(mut scalar) = scalar(call.dtype, factor).filter(|_| call.avoid_windows) else {
            return enqueue(op as c_int);
        };
        let mut scaled = 0;
        // SAFETY: the scalar is read before the call returns; it is of the type that `dtype` says.
        let code = unsafe {
            (self.nccl.ncclRedOpCreatePreMulSum)(
                &mut scaled,
                scalar.as_mut_ptr().cast(),
                call.dtype as c_int,
                SCALAR_HOST_IMMEDIATE,
                self.comm,
            )
        };
        self.device.check("ncclRedOpCreatePreMulSum", code)?;
        let enqueued = enqueue(scaled);
        // SAFETY: made above; NCCL copied it when the call was enqueued, also in a group.
        let destroyed = self.device.check("ncclRedOpDestroy", unsafe {
            (self.nccl.ncclRedOpDestroy)(scaled, self.comm)
        });
        enqueued.and(destroyed)
    }
}

/// The factor as bytes of the type. `None` for types of which NCCL has no symmetric reductions, so
/// that nothing has to be avoided.
fn scalar(dtype: Dtype, factor: f64) -> Option<[u8; 8]> {
    let mut bytes = [0; 8];
    match dtype {
        Dtype::F16 => bytes[..2].copy_from_slice(&f16::from_f64(factor).to_ne_bytes()),
        Dtype::Bf16 => bytes[..2].copy_from_slice(&bf16::from_f64(factor).to_ne_bytes()),
        Dtype::F32 => bytes[..4].copy_from_slice(&(factor as f32).to_ne_bytes()),
        _ => return None,
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scalar_is_of_its_type() {
        assert_eq!(
            scalar(Dtype::F32, 0.25),
            Some([0, 0, 0x80, 0x3e, 0, 0, 0, 0])
        );
        assert_eq!(
            scalar(Dtype::Bf16, 0.25),
            Some([0x80, 0x3e, 0, 0, 0, 0, 0, 0])
        );
        assert_eq!(scalar(Dtype::F16, 0.25), Some([0, 0x34, 0, 0, 0, 0, 0, 0]));
        assert_eq!(scalar(Dtype::F64, 0.25), None);
    }
}
