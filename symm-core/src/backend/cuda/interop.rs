//! Our buffers and views where cudarc takes memory: its copies, libraries and kernels.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{
    CudaStream, DevicePtr, DevicePtrMut, DeviceSlice, LaunchArgs, PushKernelArg, SyncOnDrop,
};

use super::Cuda;
use super::fence::{Argument, Fence};
use crate::backend::driver::Access;
use crate::buffer::memory::Memory;
use crate::buffer::{Buf, SymmBuf, SymmView, SymmViewMut};
use crate::capture::active::{self, Active};
use crate::element::Element;
use crate::error::Result;
use crate::group::tag::GroupTag;
use crate::scope::routing;

/// What the types below have in common: a range of bytes of some memory.
trait Bytes {
    fn memory(&self) -> &Memory<Cuda>;
    fn range(&self) -> Range<usize>;

    fn address(&self) -> u64 {
        self.memory().addr() + self.range().start as u64
    }

    /// The address, ordered with other uses until the guard is dropped. cudarc has no way to return
    /// an error here, so it ends the world, or the capture.
    fn ordered<'a>(&'a self, stream: &'a CudaStream) -> (u64, SyncOnDrop<'a>) {
        let memory = self.memory();
        let unordered = (self.address(), SyncOnDrop::Record(None));
        if let Some(capture) = active::capture_on_this_thread(memory.rank()) {
            // Events of cudarc are off: the capture orders its streams.
            if let Ok(stream) = capture.own_stream(|own| **own == *stream) {
                self.captured(&capture, &stream);
            }
            return unordered;
        }
        let lease = memory.lease_if_made();
        let at_home = |own: &Arc<CudaStream>| **own == *stream;
        if memory.fence_if_made().is_none()
            && at_home(memory.stream())
            && lease.is_none_or(|lease| lease.is_used_on(at_home))
        {
            return unordered;
        }
        match self.fence() {
            Ok(fence) => (self.address(), fence.events(stream)),
            Err(error) => {
                memory.rank().poison(&error);
                unordered
            }
        }
    }

    /// What a kernel takes, on a stream that cudarc alone knows. In a capture that is taken to be
    /// the thread's current one.
    fn argument(&self) -> Taken<'_> {
        let memory = self.memory();
        if let Some(capture) = active::capture_on_this_thread(memory.rank()) {
            self.captured(&capture, &routing::stream(memory.rank()));
            let place = memory.lease().address(self.address());
            // SAFETY: the place is the lease's, which the memory keeps as long as it lives; nothing
            // writes to it.
            return Taken::Address(unsafe { &*place });
        }
        match self.fence() {
            Ok(fence) => match fence.argument(self.range()) {
                Some(argument) => Taken::View(argument),
                None => Taken::Address(self.leaked_address()),
            },
            Err(error) => {
                memory.rank().poison(&error);
                Taken::Address(self.leaked_address())
            }
        }
    }

    /// Notes a use on a stream of the capture.
    fn captured(&self, capture: &Active<Cuda>, stream: &Arc<CudaStream>) {
        // The capture keeps an error, and its end returns it.
        if capture
            .before_use(self.memory(), stream, Access::Write)
            .is_ok()
        {
            capture.after_use(self.memory(), stream, Access::Write);
        }
    }

    /// The memory's fence, with the launches of graphs that use the memory noted as uses.
    fn fence(&self) -> Result<&Fence> {
        let fence = self.memory().fence()?;
        if let Some(lease) = self.memory().lease_if_made() {
            lease.taken_by_kernel(fence)?;
        }
        Ok(fence)
    }

    /// In a world that just failed: the number of a kernel's arguments has to be right all the same.
    fn leaked_address(&self) -> &'static u64 {
        Box::leak(Box::new(self.address()))
    }
}

/// What a kernel takes.
enum Taken<'a> {
    /// The memory as cudarc sees it, with its events.
    View(&'a Argument),
    /// The bare address.
    Address(&'a u64),
}

impl<T: Element> Bytes for Buf<T, Cuda> {
    fn memory(&self) -> &Memory<Cuda> {
        &self.memory
    }

    fn range(&self) -> Range<usize> {
        0..self.num_bytes()
    }
}

impl<T: Element, G: GroupTag> Bytes for SymmBuf<T, G, Cuda> {
    fn memory(&self) -> &Memory<Cuda> {
        self.buf.memory()
    }

    fn range(&self) -> Range<usize> {
        self.buf.range()
    }
}

macro_rules! bytes_of_views {
    ($($view:ident),*) => { $(
        impl<T: Element, G: GroupTag> Bytes for $view<'_, T, G, Cuda> {
            fn memory(&self) -> &Memory<Cuda> {
                &self.parts().0.memory
            }

            fn range(&self) -> Range<usize> {
                let elements = self.parts().1;
                elements.start * size_of::<T>()..elements.end * size_of::<T>()
            }
        }
    )* };
}

bytes_of_views!(SymmView, SymmViewMut);

macro_rules! readable {
    ($(<$($lifetime:lifetime,)? T $(, $group:ident)?> $type:ty;)*) => { $(
        impl<$($lifetime,)? T: Element $(, $group: GroupTag)?> DeviceSlice<T> for $type {
            fn len(&self) -> usize {
                self.range().len() / size_of::<T>()
            }

            fn stream(&self) -> &Arc<CudaStream> {
                self.memory().stream()
            }
        }

        impl<$($lifetime,)? T: Element $(, $group: GroupTag)?> DevicePtr<T> for $type {
            fn device_ptr<'s>(&'s self, stream: &'s CudaStream) -> (u64, SyncOnDrop<'s>) {
                self.ordered(stream)
            }
        }

        // SAFETY: what is pushed is the argument's own view of the memory (or its bare address),
        // which stays where it is for `'b`.
        unsafe impl<'a, 'b: 'a, $($lifetime: 'b,)? T: Element $(, $group: GroupTag)?> PushKernelArg<&'b $type> for LaunchArgs<'a> {
            #[inline(always)]
            fn arg(&mut self, arg: &'b $type) -> &mut Self {
                match arg.argument() {
                    Taken::View(argument) => self.arg(&argument.read),
                    Taken::Address(address) => self.arg(address),
                }
            }
        }
    )* };
}

macro_rules! writable {
    ($(<$($lifetime:lifetime,)? T $(, $group:ident)?> $type:ty;)*) => { $(
        impl<$($lifetime,)? T: Element $(, $group: GroupTag)?> DevicePtrMut<T> for $type {
            fn device_ptr_mut<'s>(&'s mut self, stream: &'s CudaStream) -> (u64, SyncOnDrop<'s>) {
                self.ordered(stream)
            }
        }

        // SAFETY: as for reading.
        unsafe impl<'a, 'b: 'a, $($lifetime: 'b,)? T: Element $(, $group: GroupTag)?> PushKernelArg<&'b mut $type> for LaunchArgs<'a> {
            #[inline(always)]
            fn arg(&mut self, arg: &'b mut $type) -> &mut Self {
                match arg.argument() {
                    // SAFETY: whoever has this range of the memory exclusively has its view
                    // exclusively too.
                    Taken::View(argument) => self.arg(unsafe { &mut *argument.write.get() }),
                    Taken::Address(address) => self.arg(address),
                }
            }
        }
    )* };
}

readable! {
    <T> Buf<T, Cuda>;
    <T, G> SymmBuf<T, G, Cuda>;
    <'v, T, G> SymmView<'v, T, G, Cuda>;
    <'v, T, G> SymmViewMut<'v, T, G, Cuda>;
}

writable! {
    <T> Buf<T, Cuda>;
    <T, G> SymmBuf<T, G, Cuda>;
    <'v, T, G> SymmViewMut<'v, T, G, Cuda>;
}

#[cfg(test)]
mod tests {
    use cudarc::driver::{CudaFunction, DriverError, LaunchConfig};

    use super::*;

    /// Compiled, not run: that cudarc takes our types wherever it takes its own.
    #[expect(dead_code, reason = "it needs a GPU to run")]
    fn cudarc_takes_our_types<G: GroupTag>(
        stream: &Arc<CudaStream>,
        kernel: &CudaFunction,
        buf: &mut Buf<f32, Cuda>,
        symm: &mut SymmBuf<f32, G, Cuda>,
        view: &SymmView<'_, f32, G, Cuda>,
        view_mut: &mut SymmViewMut<'_, f32, G, Cuda>,
    ) -> Result<(), DriverError> {
        stream.memset_zeros(symm)?;
        stream.memcpy_htod(&[1.0], view_mut)?;
        stream.memcpy_dtod(view, buf)?;
        stream.clone_dtoh(symm)?;
        let mut launch = stream.launch_builder(kernel);
        launch
            .arg(&*buf)
            .arg(symm)
            .arg(view)
            .arg(view_mut)
            .arg(&8usize);
        // SAFETY: never called.
        unsafe { launch.launch(LaunchConfig::for_num_elems(8)) }.map(drop)
    }
}
