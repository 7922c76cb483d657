//! Settings of the host backend, and the seeded randomness that they start.

use super::fault::Fault;
use crate::error::{Error, Result};

const SEED: &str = "SYMM_HOST_SEED";

/// Settings of the host backend: what it emulates, how adversarial it is, and what goes wrong in
/// it.
///
/// ```
/// use symm_core::host::{At, CallKind, Fault, Options, What};
///
/// let options = Options::default()
///     .seed(7) // another order of the streams' work, other addresses
///     .memory(1 << 30) // of each rank's device
///     .fault(Fault::new(1, At::Call(CallKind::Register, 1), What::Null));
/// assert!(format!("{options:?}").contains("Register"));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    pub(super) seed: Option<u64>,
    pub(super) memory: u64,
    pub(super) windows: bool,
    pub(super) nccl_version: u32,
    pub(super) faults: Vec<Fault>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: None,
            memory: 8 << 30,
            windows: true,
            nccl_version: 23007,
            faults: Vec::new(),
        }
    }
}

impl Options {
    /// Seeds the order in which streams run and the addresses of memory. Without it
    /// `$SYMM_HOST_SEED` does, else a constant.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Bytes of each rank's device (8 GiB by default); more is `OutOfMemory`. Memory that is never
    /// touched costs the host nothing.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// Whether communicators have windows. If not, registering succeeds and gives none, as NCCL
    /// does where symmetric memory is not supported.
    pub fn windows(mut self, windows: bool) -> Self {
        self.windows = windows;
        self
    }

    /// The NCCL whose rules hold, as NCCL writes versions (2.30.7, the default, is 23007).
    pub fn nccl_version(mut self, version: u32) -> Self {
        self.nccl_version = version;
        self
    }

    /// Adds something that goes wrong.
    pub fn fault(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    /// The randomness of one rank.
    pub(super) fn rng(&self, rank: usize) -> Result<Rng> {
        let seed = match (self.seed, std::env::var_os(SEED)) {
            (Some(seed), _) => seed,
            (None, None) => 0x5EED,
            (None, Some(text)) => text
                .to_str()
                .and_then(|text| text.trim().parse().ok())
                .ok_or_else(|| Error::Environment {
                    name: SEED,
                    problem: format!("{text:?} is not a number from 0 to {}", u64::MAX).into(),
                })?,
        };
        let mut rng = Rng(seed);
        rng.0 = rng.next() ^ (rank as u64).wrapping_mul(0xA076_1D64_78BD_642F);
        Ok(rng)
    }
}

/// SplitMix64: small, and good enough to be unpredictable for a program under test.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end` (not 0).
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
