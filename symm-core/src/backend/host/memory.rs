//! A device's memory: real bytes behind virtual addresses that are never used twice, so that every
//! wrong access is found.

use std::alloc::{self, Layout};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::slice;

use super::options::Rng;
use crate::error::{Error, Result, Rule};

/// Every device has a range of addresses of its own, this many bits wide.
const DEVICE_BITS: u32 = 48;
/// Alignment of real bytes, so that a block can be read as any element.
const REAL_ALIGN: usize = 256;
/// Unit of the random gaps between blocks.
const GAP: u64 = 4096;

/// The rank whose device has the address.
fn owner(address: u64) -> Option<u64> {
    (address >> DEVICE_BITS).checked_sub(1)
}

/// Which addresses are handed out, and how many bytes are in use.
#[derive(Debug)]
pub(super) struct Space {
    rank: usize,
    rng: Rng,
    next: u64,
    end: u64,
    used: u64,
    limit: u64,
}

/// A range of addresses, and the gap behind it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) base: u64,
    bytes: u64,
    gap: u64,
}

impl Space {
    pub(super) fn new(rank: usize, limit: u64, mut rng: Rng) -> Self {
        let start = (rank as u64 + 1) << DEVICE_BITS;
        let next = start + (1 + rng.below(1 << 28)) * GAP;
        Self {
            rank,
            rng,
            next,
            end: start + (1 << DEVICE_BITS),
            used: 0,
            limit,
        }
    }

    /// Addresses for `bytes`, or `None` where the limit does not allow them.
    pub(super) fn take(&mut self, bytes: u64, align: u64) -> Option<Range> {
        let used = self
            .used
            .checked_add(bytes)
            .filter(|&used| used <= self.limit)?;
        let base = self.next.checked_next_multiple_of(align)?;
        let gap = (1 + self.rng.below(16)) * GAP;
        let next = base
            .checked_add(bytes)?
            .checked_add(gap)
            .filter(|&next| next <= self.end)?;
        (self.used, self.next) = (used, next);
        Some(Range { base, bytes, gap })
    }

    /// Gives bytes back; their addresses stay used.
    pub(super) fn release(&mut self, bytes: u64) {
        self.used -= bytes;
    }

    pub(super) fn out_of_memory(&self, need: u64, what: &str) -> Error {
        Error::OutOfMemory {
            rank: self.rank,
            need,
            what: format!("{what} ({} of {} bytes are in use)", self.used, self.limit).into(),
        }
    }
}

/// Zeroed bytes.
#[derive(Debug)]
pub(super) struct Block {
    range: Range,
    data: NonNull<u8>,
    /// What was allocated, in which the bytes lie.
    allocation: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the block owns its bytes, and hands them out under borrows of the memory that holds it
// alone.
unsafe impl Send for Block {}

impl Block {
    /// `None` where the host has no memory. Pages that are never touched cost nothing.
    pub(super) fn new(range: Range) -> Option<Self> {
        // Aligned by hand: for an alignment that `calloc` does not give, the standard library writes
        // the zeros, and so touches all pages.
        let bytes = usize::try_from(range.bytes).ok()?.checked_add(REAL_ALIGN)?;
        let layout = Layout::from_size_align(bytes, 1).ok()?;
        // SAFETY: the layout's size is not 0.
        let allocation = NonNull::new(unsafe { alloc::alloc_zeroed(layout) })?;
        let skip = allocation.align_offset(REAL_ALIGN);
        // SAFETY: `skip` is less than the alignment, by which the allocation is longer than the range.
        let data = unsafe { allocation.add(skip) };
        Some(Self {
            range,
            data,
            allocation,
            layout,
        })
    }

    /// Offset of the address, if it lies in the block.
    fn offset(&self, address: u64) -> Option<u64> {
        address
            .checked_sub(self.range.base)
            .filter(|&offset| offset < self.range.bytes)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed nowhere else.
        unsafe { alloc::dealloc(self.allocation.as_ptr(), self.layout) }
    }
}

/// What the engine thread, and it alone, reads and writes.
#[derive(Debug)]
pub(crate) struct Memory {
    rank: usize,
    blocks: BTreeMap<u64, Block>,
    /// What is being run, for messages.
    pub(super) label: &'static str,
    /// Bytes freed since the device last asked.
    freed: u64,
}

impl Memory {
    pub(super) fn new(rank: usize) -> Self {
        Self {
            rank,
            blocks: BTreeMap::new(),
            label: "idle",
            freed: 0,
        }
    }

    pub(super) fn add(&mut self, block: Block) {
        self.blocks.insert(block.range.base, block);
    }

    pub(super) fn free(&mut self, base: u64) {
        if let Some(block) = self.blocks.remove(&base) {
            self.freed += block.range.bytes;
        }
    }

    pub(super) fn take_freed(&mut self) -> u64 {
        std::mem::take(&mut self.freed)
    }

    /// The bytes at `address`.
    pub(crate) fn bytes(&self, address: u64, len: u64) -> Result<&[u8]> {
        let (data, len) = self.locate(address, len)?;
        // SAFETY: `locate` found these bytes inside one live block; the shared borrow of self keeps
        // it alive and unwritten.
        Ok(unsafe { slice::from_raw_parts(data.as_ptr(), len) })
    }

    /// The bytes at `address`, to be written.
    pub(crate) fn bytes_mut(&mut self, address: u64, len: u64) -> Result<&mut [u8]> {
        let (data, len) = self.locate(address, len)?;
        // SAFETY: as in `bytes`; the borrow of self is exclusive.
        Ok(unsafe { slice::from_raw_parts_mut(data.as_ptr(), len) })
    }

    /// Several ranges (address, bytes) at once. Inputs may overlap one another; an output may
    /// overlap nothing.
    #[expect(clippy::type_complexity, reason = "two plain lists")]
    pub(crate) fn views(
        &mut self,
        inputs: &[(u64, u64)],
        outputs: &[(u64, u64)],
    ) -> Result<(Vec<&[u8]>, Vec<&mut [u8]>)> {
        for (at, &output) in outputs.iter().enumerate() {
            if outputs[..at]
                .iter()
                .chain(inputs)
                .any(|&other| overlap(output, other))
            {
                return Err(Error::Overlap {
                    operation: self.label,
                    group: format!("rank {}", self.rank).into(),
                });
            }
        }
        let inputs = inputs
            .iter()
            .map(|&(address, len)| self.locate(address, len))
            .collect::<Result<Vec<_>>>()?;
        let outputs = outputs
            .iter()
            .map(|&(address, len)| self.locate(address, len))
            .collect::<Result<Vec<_>>>()?;
        // SAFETY: each range lies inside a live block that the exclusive borrow of self keeps
        // alive.
        let inputs = inputs
            .into_iter()
            .map(|(data, len)| unsafe { slice::from_raw_parts(data.as_ptr(), len) });
        // SAFETY: as above, and outputs overlap neither one another nor an input: distinct blocks
        // are distinct memory, and distinct addresses of one block distinct bytes of it.
        let outputs = outputs
            .into_iter()
            .map(|(data, len)| unsafe { slice::from_raw_parts_mut(data.as_ptr(), len) });
        Ok((inputs.collect(), outputs.collect()))
    }

    /// Real memory of a range, which must lie in one block.
    fn locate(&self, address: u64, len: u64) -> Result<(NonNull<u8>, usize)> {
        if len == 0 {
            return Ok((NonNull::<u64>::dangling().cast(), 0));
        }
        let before = self
            .blocks
            .range(..=address)
            .next_back()
            .map(|(_, block)| block);
        let Some((block, offset)) = before.and_then(|block| Some((block, block.offset(address)?)))
        else {
            return Err(self.wrong(before, address, len));
        };
        if len > block.range.bytes - offset {
            return Err(self.wrong(Some(block), address, len));
        }
        // SAFETY: offset < bytes of the allocation. Both fit usize, as `Block::new` checked.
        Ok((unsafe { block.data.add(offset as usize) }, len as usize))
    }

    /// What is wrong with an access; `before` is the last live block that starts at or before it.
    #[cold]
    fn wrong(&self, before: Option<&Block>, address: u64, len: u64) -> Error {
        let what = format!("{}: {len} bytes at {address:#x}", self.label);
        let violation = |rule, detail: String| Error::Violation {
            rank: self.rank,
            rule,
            detail: detail.into(),
        };
        let Some(rank) = owner(address).filter(|&owner| owner == self.rank as u64) else {
            let found = owner(address).map_or_else(
                || format!("no device ({address:#x})"),
                |owner| format!("host:{owner}"),
            );
            let device = format!("host:{}", self.rank);
            return Error::WrongDevice {
                what: what.into(),
                found: found.into(),
                device: device.into(),
            };
        };
        match before.map(|block| (block.range, address - block.range.base)) {
            // In the block or in the gap that follows it.
            Some((range, offset)) if offset < range.bytes + range.gap => violation(
                Rule::Overrun,
                format!(
                    "{what}, which is offset {offset} of an allocation of {} bytes",
                    range.bytes
                ),
            ),
            _ => violation(
                Rule::UseAfterFree,
                format!("{what}, where host:{rank} has nothing any more"),
            ),
        }
    }
}

/// Whether two ranges (address, bytes) share a byte.
fn overlap((a, a_len): (u64, u64), (b, b_len): (u64, u64)) -> bool {
    a_len > 0 && b_len > 0 && a < b.saturating_add(b_len) && b < a.saturating_add(a_len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::host::Options;

    fn memory(sizes: &[u64]) -> (Memory, Vec<u64>) {
        let mut space = Space::new(1, 1 << 20, Options::default().seed(3).rng(1).unwrap());
        let mut memory = Memory::new(1);
        let bases = sizes.iter().map(|&bytes| {
            let range = space.take(bytes, 256).unwrap();
            memory.add(Block::new(range).unwrap());
            range.base
        });
        let bases = bases.collect();
        (memory, bases)
    }

    fn rule<T>(result: Result<T>) -> Rule {
        match result {
            Err(Error::Violation { rank: 1, rule, .. }) => rule,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("no error"),
        }
    }

    #[test]
    fn every_wrong_access_is_named() {
        let (mut memory, bases) = memory(&[64, 64]);
        assert_eq!(memory.bytes(bases[0], 64).unwrap(), [0; 64]);
        memory.bytes_mut(bases[1] + 60, 4).unwrap().fill(1);
        assert_eq!(rule(memory.bytes(bases[1] + 60, 5)), Rule::Overrun);
        assert_eq!(rule(memory.bytes(bases[0] + 64, 1)), Rule::Overrun);
        memory.free(bases[1]);
        assert_eq!(rule(memory.bytes(bases[1], 1)), Rule::UseAfterFree);
        assert_eq!(memory.take_freed(), 64);
        for stranger in [0, 64, 1 << DEVICE_BITS, 5 << DEVICE_BITS] {
            assert!(
                matches!(memory.bytes(stranger, 1), Err(Error::WrongDevice { .. })),
                "{stranger:#x}"
            );
        }
    }

    #[test]
    fn views_are_disjoint() {
        let (mut memory, bases) = memory(&[64]);
        let base = bases[0];
        let (inputs, outputs) = memory
            .views(
                &[(base, 16), (base + 8, 16)],
                &[(base + 24, 8), (base + 32, 32)],
            )
            .unwrap();
        outputs.into_iter().for_each(|output| output.fill(7));
        assert_eq!(inputs[1], [0; 16]);
        assert_eq!(memory.bytes(base + 23, 3).unwrap(), [0, 7, 7]);
        assert!(matches!(
            memory.views(&[(base, 25)], &[(base + 24, 8)]),
            Err(Error::Overlap { .. })
        ));
        assert!(matches!(
            memory.views(&[], &[(base, 8), (base + 7, 8)]),
            Err(Error::Overlap { .. })
        ));
    }

    #[test]
    fn the_limit_counts_what_is_in_use() {
        let mut space = Space::new(0, 100, Options::default().rng(0).unwrap());
        let first = space.take(60, 256).unwrap();
        assert!(space.take(60, 256).is_none());
        space.release(60);
        assert!(space.take(60, 256).unwrap().base > first.base);
        assert!(space.take(u64::MAX, 256).is_none());
    }
}
