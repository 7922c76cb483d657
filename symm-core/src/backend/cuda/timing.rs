//! How long work takes on the device.

use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{CudaStream, sys};

use super::device::{Device, stream_error};
use crate::backend::driver::Sweep;
use crate::error::Result;

/// Up to 64 MiB; above, what is faster there stays so (`../shared/reference/measured.md`). Graphs are
/// long enough that the ranks' different starts count for little.
pub(super) const SWEEP: Sweep = Sweep {
    largest: 64 << 20,
    repeats: 7,
    calls: |bytes| match bytes {
        0..=0x4_0000 => 40,
        0x4_0001..=0x40_0000 => 12,
        _ => 4,
    },
};

/// The GPU's name, e.g. `NVIDIA H200`. Never `None`, so that ranks are alike in that.
pub(super) fn model(device: &Device) -> Option<String> {
    let name = device.context.name();
    Some(name.unwrap_or_else(|error| format!("a GPU without a name: {error}")))
}

/// The time between two events around the work.
pub(super) fn timed(
    stream: &Arc<CudaStream>,
    work: &mut dyn FnMut() -> Result<()>,
) -> Result<Duration> {
    let event = || {
        let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        stream
            .record_event(timed)
            .map_err(|error| stream_error(stream, "cuEventRecord", error))
    };
    let begun = event()?;
    work()?;
    let ended = event()?;
    // Waits for both.
    let milliseconds = begun
        .elapsed_ms(&ended)
        .map_err(|error| stream_error(stream, "cuEventElapsedTime", error))?;
    Ok(Duration::from_secs_f64(
        f64::from(milliseconds.max(0.0)) / 1e3,
    ))
}
