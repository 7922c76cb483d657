//! What CUDA lets a thread call while it captures.

use std::cell::Cell;
use std::marker::PhantomData;

use cudarc::driver::{CudaStream, DriverError, sys};

use super::device::{Device, stream_error};
use crate::StaysOnItsThread;
use crate::capture::CaptureMode;
use crate::error::Result;

pub(super) fn raw(mode: CaptureMode) -> sys::CUstreamCaptureMode {
    match mode {
        CaptureMode::ThreadLocal => sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
        CaptureMode::Relaxed => sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED,
        CaptureMode::Global => sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL,
    }
}

// How many captures of this thread refuse calls.
thread_local!(static STRICT: Cell<usize> = const { Cell::new(0) });

/// Notes that this thread has a capture during which CUDA refuses some of its calls, until dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Strict(PhantomData<StaysOnItsThread>);

impl Strict {
    pub(super) fn enter(mode: CaptureMode) -> Option<Self> {
        (mode != CaptureMode::Relaxed).then(|| {
            STRICT.set(STRICT.get() + 1);
            Self(PhantomData)
        })
    }
}

impl Drop for Strict {
    fn drop(&mut self) {
        STRICT.set(STRICT.get() - 1);
    }
}

/// Lets this thread make calls that a capture on it would refuse (mapping memory, waiting on
/// streams outside the capture), until dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Relaxed(sys::CUstreamCaptureMode, PhantomData<StaysOnItsThread>);

impl Relaxed {
    pub(super) fn enter(device: &Device) -> Result<Self> {
        Self::exchange().map_err(|error| device.error(EXCHANGE, error))
    }

    fn exchange() -> Result<Self, DriverError> {
        let mut mode = raw(CaptureMode::Relaxed);
        // SAFETY: the pointer is to a live variable, which gets the thread's former mode.
        let exchanged = unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) };
        exchanged.result()?;
        Ok(Self(mode, PhantomData))
    }

    /// The same where a capture would refuse something, for calls that are made all the time.
    pub(super) fn if_strict(device: &Device) -> Result<Option<Self>> {
        match STRICT.get() {
            0 => Ok(None),
            _ => Self::enter(device).map(Some),
        }
    }

    /// The same for calls that know a stream alone.
    pub(super) fn if_strict_on(stream: &CudaStream) -> Result<Option<Self>> {
        match STRICT.get() {
            0 => Ok(None),
            _ => Self::exchange()
                .map(Some)
                .map_err(|error| stream_error(stream, EXCHANGE, error)),
        }
    }
}

const EXCHANGE: &str = "cuThreadExchangeStreamCaptureMode";

impl Drop for Relaxed {
    fn drop(&mut self) {
        // SAFETY: as above. It fails only when the process is exiting.
        let _ = unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_captures_are_counted_on_their_own_thread() {
        let outer = Strict::enter(CaptureMode::ThreadLocal);
        let inner = Strict::enter(CaptureMode::Global);
        assert!(Strict::enter(CaptureMode::Relaxed).is_none());
        assert_eq!(STRICT.get(), 2);
        drop(outer);
        assert_eq!(STRICT.get(), 1);
        let elsewhere = std::thread::spawn(|| STRICT.get());
        assert_eq!(elsewhere.join().ok(), Some(0));
        drop(inner);
        assert_eq!(STRICT.get(), 0);
    }
}
