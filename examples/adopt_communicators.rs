//! A program that has NCCL communicators of its own, as frameworks do, and gets symmetric memory for
//! them.
//!
//! ```sh
//! cargo run --release --example adopt_communicators                    # on GPUs if there are two or more
//! cargo run --release --example adopt_communicators -- --backend host  # the same steps without a GPU
//! ```
//!
//! There is no NCCL on the host backend, so there the group is split from the world; all that follows
//! is the same.

use std::process::ExitCode;

use clap::Parser;
use symm_core::{Backend, Group, Host, Path, ReduceOp, Result, SymmBuf, World, groups, symmetric};
use symm_examples::Start;

groups! {
    /// The ranks of the framework's communicator.
    pub Tp = "tp";
}

const LEN: usize = 4096;

struct RowParallel<B: Backend> {
    tp: Group<Tp, B>,
}

impl<B: Backend> RowParallel<B> {
    #[symmetric(group = self.tp)]
    fn forward(&self, partial: &[f32]) -> Result<(SymmBuf<f32, Tp, B>, Path)> {
        let mut sum = SymmBuf::from_slice(partial)?;
        let path = self.tp.all_reduce_in_place(&mut sum, ReduceOp::Sum)?;
        Ok((sum, path))
    }
}

/// What the program does with a group, wherever it comes from.
fn with(tp: Group<Tp, impl Backend>) -> Result<(Path, usize)> {
    let layer = RowParallel { tp };
    let (ranks, me) = (layer.tp.size(), layer.tp.rank());
    let mut path = Path::Symmetric;
    for round in 0..3 {
        let sum;
        (sum, path) = layer.forward(&[(me + round) as f32; LEN])?;
        let expected = ranks * (ranks - 1) / 2 + ranks * round;
        assert_eq!(sum.to_vec()?, [expected as f32; LEN]);
    }
    Ok((path, layer.tp.windows()))
}

/// The framework: it has loaded NCCL, and made a communicator of all GPUs.
#[cfg(feature = "cuda")]
mod framework {
    use std::ffi::{c_int, c_void};
    use std::sync::Arc;

    use cudarc::driver::CudaContext;
    use libloading::{Library, Symbol};
    use symm_core::{Cuda, Error, Result};

    #[repr(C)]
    #[derive(Clone, Copy)]
    pub(super) struct UniqueId([u8; 128]);

    /// NCCL, as the framework calls it.
    pub(super) struct Nccl(Library);

    /// An `ncclComm_t`, which any one thread at a time may use.
    #[derive(Clone, Copy)]
    pub(super) struct Comm(pub(super) *mut c_void);

    // SAFETY: NCCL's communicators belong to no thread.
    unsafe impl Send for Comm {}

    impl Nccl {
        /// The library that symm-core loads too: a process has one NCCL.
        pub(super) fn open() -> Result<Self> {
            let path = Cuda::probe().nccl?.path;
            // SAFETY: it is loaded already.
            unsafe { Library::new(&path) }
                .map(Self)
                .map_err(|error| failed("dlopen", &error))
        }

        /// # Safety
        /// `F` is the function's type.
        unsafe fn symbol<F>(&self, name: &'static str) -> Result<Symbol<'_, F>> {
            // SAFETY: the caller vouches for the type.
            unsafe { self.0.get(name.as_bytes()) }.map_err(|error| failed(name, &error))
        }

        pub(super) fn unique_id(&self) -> Result<UniqueId> {
            type Get = unsafe extern "C" fn(*mut UniqueId) -> c_int;
            let mut id = UniqueId([0; 128]);
            // SAFETY: the type is that of nccl.h.
            let get = unsafe { self.symbol::<Get>("ncclGetUniqueId") }?;
            // SAFETY: a place for the id.
            checked("ncclGetUniqueId", unsafe { get(&mut id) })?;
            Ok(id)
        }

        /// A blocking communicator, on the context's device. Waits for all ranks.
        pub(super) fn connect(
            &self,
            context: &Arc<CudaContext>,
            id: UniqueId,
            ranks: usize,
            rank: usize,
        ) -> Result<Comm> {
            type Init = unsafe extern "C" fn(*mut *mut c_void, c_int, UniqueId, c_int) -> c_int;
            context
                .bind_to_thread()
                .map_err(|error| failed("cuCtxSetCurrent", &error.0))?;
            let mut comm = std::ptr::null_mut();
            // SAFETY: the type is that of nccl.h.
            let init = unsafe { self.symbol::<Init>("ncclCommInitRank") }?;
            // SAFETY: a place for the communicator, and an id of this NCCL.
            let code = unsafe { init(&mut comm, ranks as c_int, id, rank as c_int) };
            checked("ncclCommInitRank", code)?;
            Ok(Comm(comm))
        }

        /// Waits for the other ranks' calls.
        pub(super) fn destroy(&self, comm: Comm) -> Result<()> {
            type Destroy = unsafe extern "C" fn(*mut c_void) -> c_int;
            // SAFETY: the type is that of nccl.h.
            let destroy = unsafe { self.symbol::<Destroy>("ncclCommDestroy") }?;
            // SAFETY: made by `connect`, and given away here.
            checked("ncclCommDestroy", unsafe { destroy(comm.0) })
        }
    }

    fn checked(call: &'static str, code: c_int) -> Result<()> {
        match code {
            0 => Ok(()),
            code => Err(failed(call, &format!("code {code}"))),
        }
    }

    fn failed(call: &str, error: &dyn std::fmt::Debug) -> Error {
        Error::Config {
            what: format!("{call}: {error:?}").into(),
        }
    }
}

#[cfg(feature = "cuda")]
fn on_gpus(ranks: usize) -> Result<Vec<(Path, usize)>> {
    let nccl = framework::Nccl::open()?;
    let id = nccl.unique_id()?;
    let ended = World::<symm_core::Cuda>::run(ranks, |world| {
        let comm = nccl.connect(world.stream().context(), id, ranks, world.rank())?;
        // SAFETY: blocking, of this rank's device, used by nobody else meanwhile; it is destroyed
        // when the world is gone, and with it the group and its buffers.
        let tp = unsafe { Group::from_raw(&world, comm.0) }?;
        Ok((with(tp)?, comm))
    })?;
    // The world has been torn down: the windows are gone, and the communicators are the
    // framework's alone again.
    let (found, comms): (Vec<_>, Vec<_>) = ended.into_iter().unzip();
    let nccl = &nccl;
    std::thread::scope(|scope| {
        let threads = comms
            .into_iter()
            .map(|comm| scope.spawn(move || nccl.destroy(comm)));
        let threads: Vec<_> = threads.collect(); // all at once: they wait for each other
        let ended = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        ended
            .collect::<Vec<_>>()
            .into_iter()
            .try_for_each(|ended| ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    Ok(found)
}

fn run(start: &Start) -> Result<Vec<(Path, usize)>> {
    match start.on_gpus()? {
        #[cfg(feature = "cuda")]
        Some(ranks) => on_gpus(ranks),
        _ => World::<Host>::run(start.on_host(), |world| with(world.split(0, 0)?)),
    }
}

fn main() -> ExitCode {
    match run(&Start::parse()) {
        Ok(found) => {
            let (path, windows) = found[0];
            println!("{} ranks: sums are right", found.len());
            println!(
                "{windows} window on the communicator, all_reduce of {} bytes: {path}",
                LEN * 4
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
