//! cudarc's slices and views in our collectives, through `plain(..)`.

use std::any::Any;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut};

use super::Cuda;
use super::device::Device;
use super::memory::Plain;
use crate::backend::driver::{Access, Driver};
use crate::buffer::operand::{Foreign, Held, Operand, Owner};
use crate::buffer::plain::sealed::Sealed;
use crate::buffer::{Buf, PlainSource, PlainTarget};
use crate::capture::active;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::pool::Pool;

/// Memory of cudarc's, by what it is borrowed as. cudarc's own events order its uses.
#[derive(Debug)]
struct Borrowed<P, T>(P, PhantomData<T>);

/// The same, with a share in it, so that it can be kept for longer than the call.
#[derive(Debug)]
struct Shared<'a, T>(&'a Arc<CudaSlice<T>>);

fn operand<'a, T: Element>(len: usize, memory: impl Foreign<Cuda> + 'a) -> Operand<'a, Cuda> {
    let bytes = (len * size_of::<T>()) as u64;
    Operand {
        len,
        bytes,
        owner: Owner::Foreign(Box::new(memory)),
        of_group: false,
    }
}

fn elsewhere(device: &Device, stream: &CudaStream) -> Option<String> {
    (*stream.context() != device.context).then(|| format!("cuda:{}", stream.context().ordinal()))
}

impl<T: Element, P: DevicePtr<T> + Debug> Foreign<Cuda> for Borrowed<&P, T> {
    fn elsewhere(&self, device: &Device) -> Option<String> {
        elsewhere(device, self.0.stream())
    }

    fn enter<'s>(
        &'s mut self,
        stream: &'s Arc<CudaStream>,
        _: Access,
    ) -> (u64, Box<dyn Held + 's>) {
        let (address, order) = self.0.device_ptr(stream);
        (address, Box::new(order))
    }
}

impl<T: Element, P: DevicePtrMut<T> + Debug> Foreign<Cuda> for Borrowed<&mut P, T> {
    fn elsewhere(&self, device: &Device) -> Option<String> {
        elsewhere(device, self.0.stream())
    }

    fn enter<'s>(
        &'s mut self,
        stream: &'s Arc<CudaStream>,
        _: Access,
    ) -> (u64, Box<dyn Held + 's>) {
        let (address, order) = self.0.device_ptr_mut(stream);
        (address, Box::new(order))
    }
}

impl<T: Element> Foreign<Cuda> for Shared<'_, T> {
    fn elsewhere(&self, device: &Device) -> Option<String> {
        elsewhere(device, self.0.stream())
    }

    fn enter<'s>(
        &'s mut self,
        stream: &'s Arc<CudaStream>,
        _: Access,
    ) -> (u64, Box<dyn Held + 's>) {
        let (address, order) = self.0.device_ptr(stream);
        (address, Box::new(order))
    }

    fn kept(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(Arc::<CudaSlice<T>>::clone(self.0))
    }
}

impl<T: Element> Sealed for &Arc<CudaSlice<T>> {}

#[diagnostic::do_not_recommend]
impl<'a, T: Element> PlainSource<'a> for &'a Arc<CudaSlice<T>> {
    type Element = T;
    type Backend = Cuda;

    fn into_plain(self) -> Operand<'a, Cuda> {
        operand::<T>(self.len(), Shared(self))
    }
}

impl Pool<Cuda> {
    /// Makes a buffer of memory that cudarc allocated: what a graph uses it keeps then, and other
    /// streams are ordered with it as with every buffer. It is freed as before, behind the work of
    /// the slice's stream.
    ///
    /// # Errors
    /// [`Error::WrongDevice`] for memory of another device; those of the driver.
    ///
    /// ```no_run
    /// use symm_core::{Cuda, World};
    /// World::<Cuda>::run(1, |world| {
    ///     let slice = world.stream().clone_htod(&[1.0f32, 2.0]).expect("memory");
    ///     let buf = world.pool().adopt(slice)?;
    ///     assert_eq!(buf.to_vec()?, [1.0, 2.0]);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    #[track_caller]
    pub fn adopt<T: Element>(&self, slice: CudaSlice<T>) -> Result<Buf<T, Cuda>> {
        let site = Location::caller();
        let (len, stream) = (slice.len(), Arc::clone(slice.stream()));
        active::refuse(
            self.rank(),
            "taking over memory",
            "take it over before the capture",
        )?;
        let device = &self.rank().device;
        if let Some(found) = elsewhere(device, &stream) {
            return Err(Error::WrongDevice {
                what: "adopt: the slice".into(),
                found: found.into(),
                device: Cuda::describe(device).into(),
            });
        }
        let memory = Plain::adopt(slice)?;
        Ok(Buf::adopted(self.rank(), memory, len, stream, site))
    }
}

macro_rules! plain_source {
    ($($type:ty),*) => { $(
        impl<T: Element> Sealed for &$type {}

        #[diagnostic::do_not_recommend]
        impl<'a, T: Element> PlainSource<'a> for &'a $type {
            type Element = T;
            type Backend = Cuda;

            fn into_plain(self) -> Operand<'a, Cuda> {
                operand::<T>(self.len(), Borrowed(self, PhantomData))
            }
        }
    )* };
}

macro_rules! plain_target {
    ($($type:ty),*) => { $(
        impl<T: Element> Sealed for &mut $type {}

        #[diagnostic::do_not_recommend]
        impl<'a, T: Element> PlainTarget<'a> for &'a mut $type {
            type Element = T;
            type Backend = Cuda;

            fn into_plain_mut(self) -> Operand<'a, Cuda> {
                operand::<T>(self.len(), Borrowed(self, PhantomData))
            }
        }
    )* };
}

plain_source!(CudaSlice<T>, CudaView<'_, T>);
plain_target!(CudaSlice<T>, CudaViewMut<'_, T>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Plain, plain};

    /// Compiled, not run: what `plain` takes of cudarc's.
    #[expect(dead_code, reason = "it needs a GPU to run")]
    fn plain_takes_cudarcs_types<'a>(
        slice: &'a CudaSlice<f32>,
        view: &'a CudaView<'a, f32>,
        shared: &'a Arc<CudaSlice<f32>>,
    ) -> [Plain<'a, f32, Cuda>; 3] {
        [plain(slice), plain(view), plain(shared)]
    }
}
