//! Streams that record their work instead of running it.

use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};

use super::device::{BIND, stream_error};
use super::graph::{Graph, Template};
use super::mode::{self, Strict};
use super::tracking::Untracked;
use crate::StaysOnItsThread;
use crate::capture::CaptureMode;
use crate::error::Result;

/// Where an error shows that cudarc met inside the capture, in a call that cannot return one. What
/// ends the capture knows only that it is invalid.
const INSIDE: &str = "a call inside the capture";

/// A stream that is capturing. Dropped, it ends the capture and throws away what was captured.
///
/// Stays on its thread: unless the mode is relaxed, the thread that began a capture has to end it.
#[derive(Debug)]
#[must_use]
pub struct Recording {
    stream: Arc<CudaStream>,
    open: bool,
    // Given back behind the end of the capture.
    _strict: Option<Strict>,
    _untracked: [Untracked; 2],
    _thread: PhantomData<StaysOnItsThread>,
}

impl Recording {
    /// `context` is the rank's own: cudarc's switch for event tracking is in its context objects,
    /// of which there are two where the stream is one that the user made.
    pub(super) fn begin(
        stream: &Arc<CudaStream>,
        context: &Arc<CudaContext>,
        mode: CaptureMode,
    ) -> Result<Self> {
        stream
            .context()
            .bind_to_thread()
            .map_err(|error| stream_error(stream, BIND, error))?;
        let untracked = [stream.context(), context].map(Untracked::enter);
        // SAFETY: the stream is alive.
        unsafe { result::stream::begin_capture(stream.cu_stream(), mode::raw(mode)) }
            .map_err(|error| stream_error(stream, "cuStreamBeginCapture", error))?;
        Ok(Self {
            stream: Arc::clone(stream),
            open: true,
            _strict: Strict::enter(mode),
            _untracked: untracked,
            _thread: PhantomData,
        })
    }

    /// Ends the capture.
    pub(super) fn end(mut self) -> Result<Template> {
        let ended = self.stop();
        let inside = self.stream.context().check_err();
        inside.map_err(|error| stream_error(&self.stream, INSIDE, error))?;
        ended.map_err(|error| stream_error(&self.stream, "cuStreamEndCapture", error))
    }

    /// Ends the capture and makes of it what can be launched.
    pub(super) fn finish(self) -> Result<Graph> {
        let stream = Arc::clone(&self.stream);
        self.end()?.instantiate(&stream)
    }

    fn stop(&mut self) -> Result<Template, DriverError> {
        self.open = false;
        let context = self.stream.context();
        // Not `bind_to_thread`, which fails with errors of other calls: a stream that is left
        // capturing is of no use to anyone.
        // SAFETY: the stream keeps its context alive.
        let bound = unsafe { result::ctx::set_current(context.cu_ctx()) };
        let mut graph = ptr::null_mut();
        // SAFETY: the stream is alive and capturing; the pointer is to a live variable.
        let ended = unsafe { sys::cuStreamEndCapture(self.stream.cu_stream(), &mut graph) };
        // An invalid capture gives NULL, with an error code or without.
        let template = (!graph.is_null()).then(|| {
            // SAFETY: just made by the driver, and nobody else's.
            unsafe { Template::own(graph, context) }
        });
        bound?;
        ended.result()?;
        template.ok_or(DriverError(
            sys::CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
        ))
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if self.open {
            // What is thrown away may be invalid: its error, and those of cudarc inside it, are the
            // reason why it is, not the next call's.
            drop(self.stop());
            let _ = self.stream.context().check_err();
        }
    }
}
