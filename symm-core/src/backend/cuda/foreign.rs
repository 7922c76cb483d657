//! cudarc's slices and views in our collectives, through `plain(..)`.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut};

use super::Cuda;
use super::device::Device;
use crate::backend::driver::Access;
use crate::buffer::operand::{Foreign, Held, Operand, Owner};
use crate::buffer::plain::sealed::Sealed;
use crate::buffer::{PlainSource, PlainTarget};
use crate::element::Element;

/// Memory of cudarc's, by what it is borrowed as. cudarc's own events order its uses.
#[derive(Debug)]
struct Borrowed<P, T>(P, PhantomData<T>);

fn operand<'a, T: Element, P>(len: usize, memory: P) -> Operand<'a, Cuda>
where
    Borrowed<P, T>: Foreign<Cuda> + 'a,
{
    let bytes = (len * size_of::<T>()) as u64;
    Operand {
        len,
        bytes,
        owner: Owner::Foreign(Box::new(Borrowed(memory, PhantomData))),
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

macro_rules! plain_source {
    ($($type:ty),*) => { $(
        impl<T: Element> Sealed for &$type {}

        #[diagnostic::do_not_recommend]
        impl<'a, T: Element> PlainSource<'a> for &'a $type {
            type Element = T;
            type Backend = Cuda;

            fn into_plain(self) -> Operand<'a, Cuda> {
                operand::<T, _>(self.len(), self)
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
                operand::<T, _>(self.len(), self)
            }
        }
    )* };
}

plain_source!(CudaSlice<T>, CudaView<'_, T>);
plain_target!(CudaSlice<T>, CudaViewMut<'_, T>);
