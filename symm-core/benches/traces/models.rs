//! Allocation traces of real model shapes: those published for Llama-3.1-70B (hidden 8192, 8 KV heads
//! of 128, 80 layers, <https://huggingface.co/meta-llama/Llama-3.1-70B>) and DeepSeek-V3 (hidden 7168,
//! 58 MoE layers with 8 of 256 experts active, <https://arxiv.org/abs/2412.19437>), bf16, served with
//! tensor, context, data and expert parallel groups. Every rank of a group sees the same events.

/// Which group a buffer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Of {
    Tp,
    Cp,
    /// Attention ranks, data parallel replicas and experts of the MoE traces.
    Attn,
    Dp,
    Ep,
}

/// An event of one rank, in program order.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Alloc { id: usize, of: Of, bytes: u64 },
    Free { id: usize },
}

#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) name: &'static str,
    pub(crate) events: Vec<Event>,
    buffers: usize,
}

impl Trace {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            events: Vec::new(),
            buffers: 0,
        }
    }

    fn alloc(&mut self, of: Of, bytes: u64) -> usize {
        let id = self.buffers;
        self.buffers += 1;
        // Of whole granules, as an arena's blocks are, so that what is compared is the placement.
        let bytes = bytes.max(1).next_multiple_of(512);
        self.events.push(Event::Alloc { id, of, bytes });
        id
    }

    fn free(&mut self, id: usize) {
        self.events.push(Event::Free { id });
    }

    /// Attention with a context-parallel gather of K and V, then two row-parallel partial sums.
    fn dense_layer(&mut self, tokens: u64, hidden: u64, kv: u64, cp: u64) {
        let gathered: Vec<_> = match cp {
            1 => Vec::new(),
            _ => (0..2)
                .map(|_| self.alloc(Of::Cp, tokens * kv * BF16 * cp))
                .collect(),
        };
        let attention = self.alloc(Of::Tp, tokens * hidden * BF16);
        gathered.into_iter().for_each(|id| self.free(id));
        let reduced = self.alloc(Of::Tp, tokens * hidden * BF16);
        self.free(attention);
        let mlp = self.alloc(Of::Tp, tokens * hidden * BF16);
        self.free(reduced);
        self.free(mlp);
    }

    /// Data-parallel attention, gather of all replicas' tokens, experts, reduce-scatter back.
    fn moe_layer(&mut self, tokens: u64, hidden: u64, dp: u64) {
        let attention = self.alloc(Of::Attn, tokens * hidden * BF16);
        let everyone = self.alloc(Of::Ep, tokens * dp * hidden * BF16);
        self.free(attention);
        let combined = self.alloc(Of::Ep, tokens * dp * hidden * BF16);
        self.free(everyone);
        let back = self.alloc(Of::Dp, tokens * hidden * BF16);
        self.free(combined);
        self.free(back);
    }
}

const BF16: u64 = 2;

/// Batches of decode steps; no context parallelism.
fn decode() -> Trace {
    let mut t = Trace::new("decode");
    for _ in 0..4 {
        for batch in (0..9).map(|power| 1 << power) {
            (0..80).for_each(|_| t.dense_layer(batch, 8192, 1024, 1));
            let logits = t.alloc(Of::Tp, batch * 128_256 * BF16);
            t.free(logits);
        }
    }
    t
}

/// Prefill in chunks of any length.
fn chunked_prefill() -> Trace {
    let (mut t, mut random) = (Trace::new("chunked prefill"), Random(7));
    for _ in 0..500 {
        let tokens = 16 + random.below(8177);
        (0..4).for_each(|_| t.dense_layer(tokens, 8192, 1024, 4));
    }
    t
}

fn moe() -> Trace {
    let (mut t, mut random) = (Trace::new("moe"), Random(11));
    for _ in 0..300 {
        let tokens = *random.one_of(&[1, 8, 32, 128, 512, 2048]);
        (0..8).for_each(|_| t.moe_layer(tokens, 7168, 8));
    }
    t
}

/// Prefill and decode interleaved, with buffers that outlive a step: a gather kept for the next chunk.
fn mixed() -> Trace {
    let (mut t, mut random, mut kept) = (Trace::new("mixed"), Random(13), Vec::new());
    for _ in 0..300 {
        let tokens = *random.one_of(&[1, 4, 16, 64, 1024, 4096, 8192]);
        (0..3).for_each(|_| t.dense_layer(tokens, 8192, 1024, 2));
        kept.push(t.alloc(Of::Cp, tokens * 1024 * BF16 * 2));
        if kept.len() > 4 {
            let one = random.below(kept.len() as u64) as usize;
            let one = kept.remove(one);
            t.free(one);
        }
        t.moe_layer(tokens.min(512), 7168, 8);
    }
    kept.into_iter().for_each(|id| t.free(id));
    t
}

pub(crate) fn all() -> [Trace; 4] {
    [decode(), chunked_prefill(), moe(), mixed()]
}

/// SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>): the same sizes on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ z >> 31) % end
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }
}
