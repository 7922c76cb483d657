//! Known defects of NCCL's versions, and what this crate does about each.

/// A known defect of NCCL, and what this crate does about it: see
/// [`NcclInfo::defects`](crate::cuda::NcclInfo::defects).
///
/// ```
/// # use symm_core::Cuda;
/// if let Ok(nccl) = Cuda::probe().nccl {
///     for defect in nccl.defects() {
///         assert!((defect.from..defect.until).contains(&nccl.version));
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Defect {
    /// The first version that has it, as NCCL writes it (2.30.7 is 23007).
    pub from: u32,
    /// The first version after it that has it no more; `u32::MAX` where none is known.
    pub until: u32,
    /// What goes wrong in NCCL.
    pub what: &'static str,
    /// What happens here instead.
    pub instead: &'static str,
}

/// `ncclSymkImplemented` says yes to averages of floats on windows, but `generate.py` emits no such
/// all_reduce kernel, so that NCCL indexes its table of kernels at -1. Not known to be mended.
///
/// An average is made of values that are scaled before they are summed, which takes no symmetric
/// kernel; visible as [`Reason::Defect`](crate::Reason::Defect).
pub(crate) const AVERAGE_ALL_REDUCE: Defect = Defect {
    from: 23_003,
    until: u32::MAX,
    what: "averages of floats in all_reduce on windows index NCCL's table of kernels at -1",
    instead: "they are kept from the window: Plain(Defect)",
};

/// Symmetric kernels are launched as programmatic dependents of the kernel before them on their
/// stream (`enqueue.cc`), but do not wait for it: `cudaGridDependencySynchronize` was left out until
/// commit 2948185d. So they read what that kernel has not written yet: with 2.28.9 on 2 H200, the
/// logits of this repository's decoder were wrong from the first row on.
///
/// A small write is put between the two: it waits for the kernel before it, and the symmetric
/// kernel depends on the write alone. In captures such calls are kept from the window, visible as
/// [`Reason::Defect`](crate::Reason::Defect), unless
/// [`GraphOptions::early_reads`](crate::GraphOptions::early_reads) asks for the write there too.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))] // the host backend has no such dependents
pub(crate) const EARLY_READ: Defect = Defect {
    from: 22_800,
    until: 23_007,
    what: "symmetric kernels start before the kernel that makes their input is done",
    instead: "a small write between the two prevents it; in captures such calls are Plain(Defect) unless GraphOptions::early_reads asks for the write there",
};

/// The symmetric LL kernels load packs of 8 bytes from addresses that are no multiple of 4 wrongly
/// (`loadPack` in `op128.h`), which only types of 1 and 2 bytes have: with 2.28.9 on 2 H200, a
/// quarter of the elements came out wrong.
///
/// Such calls are kept from the window; visible as [`Reason::Defect`](crate::Reason::Defect).
pub(crate) const UNALIGNED_LOAD: Defect = Defect {
    from: 22_700,
    until: 23_003,
    what: "symmetric kernels load types of 1 and 2 bytes wrongly from addresses that are no multiple of 4",
    instead: "such calls are kept from the window: Plain(Defect)",
};

/// A send or receive of memory in a window makes NCCL map the peer's memory and note it for the host
/// alone; an ordinary collective that finds the note leaves out the copy for its kernel, which then
/// follows a null pointer (`ipcRegisterBuffer` in `p2p.cc`: `devPeerRmtAddrs`, until 2.29.2). With
/// 2.28.9 on 2 H200, an all_reduce of 32 MiB of `f64` behind an all_to_all ended in an illegal
/// address, and the context with it.
///
/// What NCCL makes of sends and receives runs on the twin, which has no windows.
pub(crate) const EXCHANGE_FIRST: Defect = Defect {
    from: 22_700,
    until: 22_902,
    what: "sends and receives of memory in windows make later ordinary collectives on it follow a null pointer",
    instead: "sends, receives, all_to_all, gather and scatter run on a communicator without windows; groups on communicators of another maker need NCCL_LOCAL_REGISTER=0",
};

/// All of them.
const ALL: [Defect; 4] = [
    AVERAGE_ALL_REDUCE,
    EARLY_READ,
    UNALIGNED_LOAD,
    EXCHANGE_FIRST,
];

/// Those of a version.
pub(crate) fn of(version: u32) -> impl Iterator<Item = Defect> {
    ALL.into_iter()
        .filter(move |defect| defect.affects(version))
}

impl Defect {
    pub(crate) fn affects(&self, version: u32) -> bool {
        (self.from..self.until).contains(&version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart() {
        let early = [22_705, 22_803, 22_809, 22_907, 23_006, 23_007];
        assert_eq!(
            early.map(|v| EARLY_READ.affects(v)),
            [false, true, true, true, true, false]
        );
        assert_eq!(
            [22_907, 23_003, 23_203].map(|v| AVERAGE_ALL_REDUCE.affects(v)),
            [false, true, true]
        );
        let count = [22_705, 22_803, 23_006, 23_007].map(|version| of(version).count());
        assert_eq!(count, [2, 3, 2, 1]);
    }
}
