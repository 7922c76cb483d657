//! The symmetric buffers of a thread: one for each layer, type and size.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::marker::PhantomData;

use candle_core::{DType, Device};
use symm_core::{
    Backend, Cuda, Element, Error, Group, GroupTag, Host, Result, StreamScope, SymmBuf, World, symm,
};

/// Which buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The group's generation.
    pub(crate) group: u64,
    /// The layer's number.
    pub(crate) layer: u64,
    pub(crate) dtype: DType,
    /// Elements.
    pub(crate) bucket: usize,
}

type Kept = HashMap<Key, Box<dyn Any>>;

thread_local! {
    /// `None` where no guard lives.
    static KEPT: RefCell<Option<Kept>> = const { RefCell::new(None) };
}

/// The buffers of this thread, and its stream: all of candle's. Gives the buffers back when it is
/// dropped, so it has to go before the world does. One a thread.
#[derive(Debug)]
#[must_use = "the buffers go with it"]
pub struct Buffers<B: Backend> {
    _stream: Option<StreamScope<B>>,
    /// The buffers are this thread's.
    _not_send: PhantomData<*const ()>,
}

/// A backend whose memory candle's device reaches.
pub trait Place: Backend {
    /// candle's stream, if its work goes to one.
    ///
    /// # Errors
    /// [`Error::Config`] for a device of another kind; [`Error::WrongDevice`] for another GPU.
    fn stream(world: &World<Self>, device: &Device) -> Result<Option<StreamScope<Self>>>;
}

impl Place for Host {
    fn stream(_: &World<Host>, device: &Device) -> Result<Option<StreamScope<Host>>> {
        match device {
            Device::Cpu => Ok(None),
            _ => Err(other("the host backend takes candle's CPU device")),
        }
    }
}

impl Place for Cuda {
    #[cfg(feature = "cuda")]
    fn stream(world: &World<Cuda>, device: &Device) -> Result<Option<StreamScope<Cuda>>> {
        match device {
            Device::Cuda(device) => world.on_stream(&device.cuda_stream()).map(Some),
            _ => Err(other("the Cuda backend takes candle's CUDA devices")),
        }
    }

    #[cfg(not(feature = "cuda"))]
    fn stream(_: &World<Cuda>, _: &Device) -> Result<Option<StreamScope<Cuda>>> {
        Err(other("symm-candle was built without its feature `cuda`"))
    }
}

fn other(what: &str) -> Error {
    Error::Config { what: what.into() }
}

impl<B: Place> Buffers<B> {
    /// Keeps buffers on this thread from here on, and makes candle's stream this thread's current
    /// one: what candle enqueues and what the world enqueues are in one order then, without events.
    ///
    /// On GPUs the device is this rank's, made with `Device::new_cuda_with_stream(ordinal)`:
    /// `Device::new_cuda` takes CUDA's default stream, which no graph can capture. Hand the same
    /// stream to [`GraphPool::capture`](symm_core::GraphPool::capture).
    ///
    /// # Errors
    /// [`Error::Config`] for a device of another kind, and where this thread has buffers already;
    /// [`Error::WrongDevice`] for another GPU than the rank's.
    pub fn enter(world: &World<B>, device: &Device) -> Result<Self> {
        let stream = B::stream(world, device)?;
        let first = KEPT.with_borrow_mut(|kept| match kept {
            Some(_) => false,
            None => {
                *kept = Some(Kept::new());
                true
            }
        });
        match first {
            true => Ok(Self {
                _stream: stream,
                _not_send: PhantomData,
            }),
            false => Err(other("this thread has Buffers already: one guard a thread")),
        }
    }

    /// How many buffers there are.
    pub fn count(&self) -> usize {
        KEPT.with_borrow(|kept| kept.as_ref().map_or(0, HashMap::len))
    }
}

impl<B: Backend> Drop for Buffers<B> {
    fn drop(&mut self) {
        // Dropped outside of the borrow; nothing is left while the thread itself is torn down.
        let kept =
            KEPT.try_with(|kept| kept.try_borrow_mut().ok().and_then(|mut kept| kept.take()));
        drop(kept);
    }
}

/// Runs `work` on the buffer, which is made if it is not there. All ranks of the group come here in
/// the same order with the same sizes.
pub(crate) fn with<T: Element, G: GroupTag, B: Backend, R>(
    group: &Group<G, B>,
    key: Key,
    work: impl FnOnce(&mut SymmBuf<T, G, B>) -> Result<R>,
) -> Result<R> {
    // Taken out meanwhile, so that nothing is borrowed while others work.
    let kept = KEPT.with_borrow_mut(|kept| match kept {
        Some(kept) => Ok(kept.remove(&key)),
        None => Err(other(
            "this thread has no Buffers: call Buffers::enter(&world, &device) where the model runs, \
             and keep what it returns until the model has run",
        )),
    })?;
    let mut buffer = match kept.map(Box::<dyn Any>::downcast) {
        Some(Ok(buffer)) => buffer,
        _ => Box::new(symm!(group = group, { group.empty::<T>(key.bucket)? })?),
    };
    let done = work(&mut buffer);
    KEPT.with_borrow_mut(|kept| kept.as_mut().map(|kept| kept.insert(key, buffer)));
    done
}
