//! Kernels of the host backend: closures that run in stream order on the device's memory.

use std::sync::Arc;

use super::step::Step;
use super::{Host, Memory};
use crate::backend::driver::Access;
use crate::buffer::bytes::{as_elements, as_elements_mut};
use crate::buffer::operand::Operand;
use crate::buffer::{Plain, PlainMut};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::scope::routing;

/// Enqueues `body` on the thread's current stream, with the elements of `inputs` to read and of
/// `outputs` to write: what a kernel launch is on CUDA.
///
/// It runs later, on the device's thread, when the stream gets there; uses of the same buffers on
/// other streams are ordered with it. In a capture it becomes a node of the graph, and runs at
/// every launch: what it captures is the same each time, as a kernel's arguments are.
///
/// ```
/// use symm_core::{Buf, Host, World, host, plain, plain_mut};
///
/// World::<Host>::run(1, |world| {
///     let x: Buf<f32, Host> = Buf::from_slice(&[1.0, 2.0])?;
///     let mut y: Buf<f32, Host> = Buf::empty(2)?;
///     host::launch([plain(&x)], [plain_mut(&mut y)], |[x], [y]| {
///         for (y, x) in y.iter_mut().zip(x) {
///             *y = x * x;
///         }
///     })?;
///     assert_eq!(y.to_vec()?, [1.0, 4.0]);
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Config`] without any operand; [`Error::Poisoned`]. An output that overlaps another
/// operand is an error of the stream, as is a panic of `body`: the next call that waits for the
/// stream reports it.
pub fn launch<T: Element, const I: usize, const O: usize>(
    inputs: [Plain<'_, T, Host>; I],
    outputs: [PlainMut<'_, T, Host>; O],
    body: impl Fn([&[T]; I], [&mut [T]; O]) + Send + Sync + 'static,
) -> Result<()> {
    let inputs = inputs.map(|input| input.operand);
    let outputs = outputs.map(|output| output.operand);
    let rank = outputs
        .iter()
        .chain(&inputs)
        .find_map(|operand| operand.rank());
    let rank = rank.ok_or_else(|| Error::Config {
        what: "host::launch needs at least one operand".into(),
    })?;
    rank.check()?;
    let stream = routing::stream(rank);

    let order = |operands: &[Operand<'_, Host>], access| {
        operands
            .iter()
            .try_for_each(|operand| operand.order(&stream, access))
    };
    order(&inputs, Access::Read)?;
    order(&outputs, Access::Write)?;
    let spans = |operands: &[Operand<'_, Host>]| -> Vec<(u64, u64)> {
        operands
            .iter()
            .filter_map(Operand::span)
            .map(|span| (span.start, span.end - span.start))
            .collect()
    };
    let (reads, writes) = (spans(&inputs), spans(&outputs));
    stream.push(Step::Run {
        label: "host::launch",
        kernel: Arc::new(move |memory| run(memory, &reads, &writes, &body)),
    })?;
    inputs
        .iter()
        .try_for_each(|operand| operand.leave(&stream, Access::Read))?;
    outputs
        .iter()
        .try_for_each(|operand| operand.leave(&stream, Access::Write))
}

fn run<T: Element, const I: usize, const O: usize>(
    memory: &mut Memory,
    reads: &[(u64, u64)],
    writes: &[(u64, u64)],
    body: &impl Fn([&[T]; I], [&mut [T]; O]),
) -> Result<()> {
    let misaligned = || Error::Config {
        what: "host::launch: an operand is not aligned for its type".into(),
    };
    let (inputs, outputs) = memory.views(reads, writes)?;
    let inputs: Vec<&[T]> = inputs
        .into_iter()
        .map(as_elements)
        .collect::<Option<_>>()
        .ok_or_else(misaligned)?;
    let outputs: Vec<&mut [T]> = outputs
        .into_iter()
        .map(as_elements_mut)
        .collect::<Option<_>>()
        .ok_or_else(misaligned)?;
    let inputs = inputs.try_into().map_err(|_| misaligned())?;
    let outputs = outputs.try_into().map_err(|_| misaligned())?;
    body(inputs, outputs);
    Ok(())
}
