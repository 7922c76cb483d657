//! PyTorch's caching allocator as a model of its rounding: bytes that it would reserve for a trace,
//! with one pool for each group as `torch.cuda.MemPool` has it, or with one for all.
//!
//! After c10/cuda/CUDACachingAllocator.cpp of PyTorch, with
//! default settings: sizes are multiples of 512 bytes; requests up to 1 MiB are cut from blocks of
//! 2 MiB, those below 10 MiB from blocks of 20 MiB, larger ones get blocks of a multiple of 2 MiB; the
//! best fit is taken, lowest address first; of a small block any rest of 512 bytes is split off, of a
//! large one a rest of more than 1 MiB; free neighbours merge; small and large have pools of their own.

use std::collections::BTreeMap;

const SMALL: u64 = 1 << 20;
const SMALL_BUFFER: u64 = 2 << 20;
const MIN_LARGE: u64 = 10 << 20;
const LARGE_BUFFER: u64 = 20 << 20;
const ROUND_LARGE: u64 = 2 << 20;

/// One pool.
#[derive(Debug, Default)]
pub(crate) struct Torch {
    /// Small and large.
    pools: [Blocks; 2],
    live: BTreeMap<usize, (usize, u64)>,
    pub(crate) reserved: u64,
    pub(crate) segments: usize,
}

#[derive(Debug, Default)]
struct Blocks {
    /// Address to bytes, and whether the block is free. Addresses of segments never touch.
    all: BTreeMap<u64, (u64, bool)>,
    next: u64,
}

impl Torch {
    pub(crate) fn alloc(&mut self, id: usize, bytes: u64) {
        let bytes = bytes.max(1).next_multiple_of(512);
        let pool = usize::from(bytes > SMALL);
        let blocks = &mut self.pools[pool];
        let fits = blocks
            .all
            .iter()
            .filter(|(_, (size, free))| *free && *size >= bytes);
        let found = fits.map(|(&at, &(size, _))| (size, at)).min();
        let (size, at) = found.unwrap_or_else(|| {
            let size = match () {
                () if bytes <= SMALL => SMALL_BUFFER,
                () if bytes < MIN_LARGE => LARGE_BUFFER,
                () => bytes.next_multiple_of(ROUND_LARGE),
            };
            let at = blocks.next;
            blocks.next += size + 512;
            self.reserved += size;
            self.segments += 1;
            (size, at)
        });
        let rest = size - bytes;
        let splits = match pool {
            0 => rest >= 512,
            _ => rest > SMALL,
        };
        let taken = if splits { bytes } else { size };
        if splits {
            blocks.all.insert(at + bytes, (rest, true));
        }
        blocks.all.insert(at, (taken, false));
        self.live.insert(id, (pool, at));
    }

    pub(crate) fn free(&mut self, id: usize) {
        let Some((pool, mut at)) = self.live.remove(&id) else {
            return;
        };
        let all = &mut self.pools[pool].all;
        let Some((mut size, _)) = all.remove(&at) else {
            return;
        };
        if let Some((&next, &(bytes, true))) = all.range(at..).next()
            && at + size == next
        {
            all.remove(&next);
            size += bytes;
        }
        if let Some((&before, &(bytes, true))) = all.range(..at).next_back()
            && before + bytes == at
        {
            (at, size) = (before, size + bytes);
        }
        all.insert(at, (size, true));
    }
}
