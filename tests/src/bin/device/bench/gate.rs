//! A batch of calls timed by the device and by the host, neither in the other's way.
//!
//! A collective of 4 us is over before the host has enqueued the next one, so events around a loop of
//! calls would time the host. Here the stream waits at a gate, a word of the host's memory, while the
//! host enqueues: the stream is behind all the time, which is when the host's time counts, and when
//! the gate opens everything runs without a pause.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use symm_core::cuda::cudarc::driver::{CudaEvent, CudaStream, result, sys};
use symm_tests::suite::Outcome;

use super::ours::Sample;

pub(super) struct Gate {
    stream: Arc<CudaStream>,
    started: CudaEvent,
    ended: CudaEvent,
    /// Memory of the driver that device and host see at the same address. Not given back: a stream
    /// may wait on it, and it is one page of a process that ends soon.
    word: &'static AtomicU32,
    /// The value that opens it next.
    turn: u32,
}

/// A gate that opens when this is dropped.
struct Closed<'a>(&'a AtomicU32, u32);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.store(self.1, Ordering::Release);
    }
}

impl Gate {
    pub(super) fn new(stream: &Arc<CudaStream>) -> Outcome<Self> {
        let context = stream.context();
        context.bind_to_thread()?;
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
        // SAFETY: the context is current; the page is aligned, larger than a word, and never freed.
        let word: &'static AtomicU32 = unsafe {
            let word = result::malloc_host(4096, flags)?.cast::<AtomicU32>();
            word.write(AtomicU32::new(0));
            &*word
        };
        let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        Ok(Self {
            stream: Arc::clone(stream),
            started: context.new_event(timed)?,
            ended: context.new_event(timed)?,
            word,
            turn: 0,
        })
    }

    /// Makes the stream wait until what is returned is dropped.
    fn close(&mut self) -> Outcome<Closed<'static>> {
        self.turn += 1;
        let closed = Closed(self.word, self.turn);
        let address = std::ptr::from_ref(self.word) as sys::CUdeviceptr;
        let at_least = sys::CUstreamWaitValue_flags::CU_STREAM_WAIT_VALUE_GEQ as u32;
        self.stream.context().bind_to_thread()?;
        // SAFETY: the stream is alive, its context is current, and the word stays.
        unsafe {
            sys::cuStreamWaitValue32_v2(self.stream.cu_stream(), address, self.turn, at_least)
                .result()?;
        }
        Ok(closed)
    }

    /// Times so many calls. One more comes before them, which all ranks leave together.
    pub(super) fn timed(
        &mut self,
        calls: usize,
        mut call: impl FnMut() -> Outcome,
    ) -> Outcome<Sample> {
        let closed = self.close()?;
        call()?;
        self.started.record(&self.stream)?;
        let began = Instant::now();
        for _ in 0..calls {
            call()?;
        }
        let enqueued = began.elapsed();
        self.ended.record(&self.stream)?;
        drop(closed);
        // Waits for both.
        let milliseconds = self.started.elapsed_ms(&self.ended)?;
        Ok(Sample {
            device: f64::from(milliseconds) * 1e3 / calls as f64,
            host: enqueued.as_secs_f64() * 1e9 / calls as f64,
        })
    }
}
