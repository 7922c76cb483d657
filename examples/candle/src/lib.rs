//! An all-reduce for the row-parallel layers of [candle](https://docs.rs/candle-core), on symmetric
//! memory.
//!
//! candle allocates its tensors itself, so that they lie in no window. [`SumAllReduce`] copies a
//! layer's partial sums into a symmetric buffer, sums there with NCCL's symmetric kernel, and copies
//! the result into the tensor that it returns. At decode sizes the two copies cost less than the
//! kernel wins. There is one buffer for each layer, type and size, rounded up to a power of two: it is
//! made at the first call and stays at its address, so that captured graphs can use it.
//!
//! The buffers belong to the thread that runs the model, and go with its [`Buffers`] guard:
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use symm_candle::{Buffers, SumAllReduce};
//! use symm_core::{Host, World, groups};
//! groups! { pub Tp = "tp"; }
//!
//! World::<Host>::run(2, |world| {
//!     let tp = world.split::<Tp>(0, 0)?;
//!     let device = Device::Cpu;
//!     let _buffers = Buffers::enter(&world, &device)?;
//!     let all_reduce = SumAllReduce::new(&tp); // a field of the layer, Send and Sync
//!     let partial = Tensor::full(tp.rank() as f32 + 1.0, 3, &device).expect("a tensor");
//!     let sum = all_reduce.sum_all_reduce(&partial).expect("a sum");
//!     assert_eq!(sum.to_vec1::<f32>().expect("its elements"), [3.0; 3]);
//!     Ok(())
//! })?;
//! # Ok::<(), symm_core::Error>(())
//! ```
//!
//! With the feature `cuda` the same runs on candle's CUDA devices; see [`Buffers::enter`] for the
//! stream, and [`SumAllReduce`] for graphs.

mod buffers;
mod layer;
mod reduce;

pub use buffers::{Buffers, Place};
pub use layer::RowParallel;
pub use reduce::SumAllReduce;

/// An error of ours, as candle carries them.
pub(crate) fn failed(error: symm_core::Error) -> candle_core::Error {
    candle_core::Error::wrap(error)
}
