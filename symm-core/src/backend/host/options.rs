//! Settings of the host backend, and the seeded randomness that they start.

use std::time::Duration;

use super::clock::{Costs, Launched};
use super::fault::Fault;
use super::fault_text;
use crate::error::{Error, Result};

const SEED: &str = "SYMM_HOST_SEED";
const FAULTS: &str = "SYMM_HOST_FAULTS";

/// How long collectives wait for a revoke after a peer has failed: long for a watchdog, short for a
/// world that has none. Then they fail, and the device with them.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Settings of the host backend: what it emulates, how adversarial it is, and what goes wrong in
/// it.
///
/// Without a fault in the code, those of `$SYMM_HOST_FAULTS` happen, for ranks that are processes:
/// `RANK:CALL:K:WHAT`, separated by commas. `CALL` is a [name](super::CallKind::name), or `nth` for
/// any call; `WHAT` is `fail`, `hang`, `null`, `out_of_memory`, `kill`, `delay=MS` or `stop=MS`:
/// `SYMM_HOST_FAULTS=1:launch:3:kill,0:nth:40:delay=20`.
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
    pub(super) patience: Duration,
    pub(super) costs: Option<Costs>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: None,
            memory: 8 << 30,
            windows: true,
            nccl_version: 23007,
            faults: Vec::new(),
            patience: PATIENCE,
            costs: None,
        }
    }
}

impl Options {
    /// Seeds the order in which streams run and the addresses of memory. Without it
    /// `$SYMM_HOST_SEED` does, else a constant.
    ///
    /// ```
    /// # use symm_core::{Config, Host, Result};
    /// # use symm_core::host::Options;
    /// let address = |seed| -> Result<u64> {
    ///     let config = Config::<Host>::default().options(Options::default().seed(seed));
    ///     let ranks = config.run(1, |world| Ok(world.pool().zeros::<f32>(4)?.address()))?;
    ///     Ok(ranks[0])
    /// };
    /// assert_eq!(address(7)?, address(7)?);
    /// assert_ne!(address(7)?, address(8)?);
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Bytes of each rank's device (8 GiB by default); more is `OutOfMemory`. Memory that is never
    /// touched costs the host nothing.
    ///
    /// ```
    /// # use symm_core::{Config, Error, Host};
    /// # use symm_core::host::Options;
    /// let config = Config::<Host>::default().options(Options::default().memory(1 << 20));
    /// let ranks = config.run(1, |world| world.pool().zeros::<u8>(2 << 20).map(drop));
    /// assert!(matches!(ranks, Err(Error::OutOfMemory { need, .. }) if need == 2 << 20));
    /// ```
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// Whether communicators have windows. If not, registering succeeds and gives none, as NCCL
    /// does where symmetric memory is not supported.
    ///
    /// ```
    /// # use symm_core::{Config, Host, Path, Reason, ReduceOp, groups, symm};
    /// # use symm_core::host::Options;
    /// # groups! { pub Tp = "tp"; }
    /// let config = Config::<Host>::default().options(Options::default().windows(false));
    /// let paths = config.run(2, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     let mut x = symm!(group = tp, { tp.zeros::<f32>(4)? })?;
    ///     tp.all_reduce_in_place(&mut x, ReduceOp::Sum)
    /// })?;
    /// assert_eq!(paths, [Path::Plain(Reason::Unsupported); 2]);
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn windows(mut self, windows: bool) -> Self {
        self.windows = windows;
        self
    }

    /// The NCCL whose rules hold, as NCCL writes versions (2.30.7, the default, is 23007).
    ///
    /// ```
    /// # use symm_core::{Config, Host, Path, Reason, ReduceOp, groups, symm};
    /// # use symm_core::host::Options;
    /// # groups! { pub Tp = "tp"; }
    /// let average = |version| {
    ///     let options = Options::default().nccl_version(version);
    ///     Config::<Host>::default().options(options).run(2, |world| {
    ///         let tp = world.split::<Tp>(0, 0)?;
    ///         let mut x = symm!(group = tp, { tp.zeros::<f32>(4)? })?;
    ///         tp.all_reduce_in_place(&mut x, ReduceOp::Avg)
    ///     })
    /// };
    /// assert_eq!(average(22_907)?, [Path::Plain(Reason::NoKernel); 2]);
    /// assert_eq!(average(23_007)?, [Path::Plain(Reason::Defect); 2]);
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn nccl_version(mut self, version: u32) -> Self {
        self.nccl_version = version;
        self
    }

    /// Adds something that goes wrong.
    ///
    /// ```
    /// # use symm_core::{Config, Error, Host};
    /// # use std::time::Duration;
    /// # use symm_core::host::{At, CallKind, Fault, Options, What};
    /// let slow = Fault::new(0, At::Call(CallKind::Download, 1), What::Delay(Duration::from_millis(20)));
    /// let broken = Fault::new(0, At::Call(CallKind::Download, 2), What::Fail);
    /// let options = Options::default().fault(slow).fault(broken);
    /// let ranks = Config::<Host>::default().options(options).run(1, |world| {
    ///     let x = world.pool().zeros::<f32>(4)?;
    ///     x.to_vec()?; // 20 ms later
    ///     x.to_vec().map(drop)
    /// });
    /// assert!(matches!(ranks, Err(Error::Backend { call: "download", .. })));
    /// ```
    pub fn fault(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    /// What collectives cost on the device's clock, in nanoseconds: what
    /// [`Group::calibrate`](crate::Group::calibrate) measures. Without it all cost nothing, so no
    /// path is faster than another. `model` stands for the GPU's name where measurements are kept.
    ///
    /// ```
    /// use symm_core::host::{Launched, Options};
    ///
    /// // Large sums are slower on windows.
    /// let options = Options::default().costs("slow sums", |call: &Launched| {
    ///     let slow = call.symmetric && call.operation == "all_reduce" && call.bytes >= 16 << 10;
    ///     if slow { 30_000 } else { 10_000 }
    /// });
    /// assert!(format!("{options:?}").contains("slow sums"));
    /// ```
    pub fn costs(mut self, model: &'static str, costs: fn(&Launched) -> u64) -> Self {
        self.costs = Some(Costs { model, costs });
        self
    }

    /// How long collectives wait for a revoke after a peer has failed.
    #[cfg(test)]
    pub(super) fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// What goes wrong, by the code or else by the environment.
    pub(super) fn faults(&self) -> Result<Vec<Fault>> {
        match std::env::var_os(FAULTS).filter(|_| self.faults.is_empty()) {
            None => Ok(self.faults.clone()),
            Some(text) => {
                fault_text::parse(&text.to_string_lossy()).map_err(|problem| Error::Environment {
                    name: FAULTS,
                    problem: problem.into(),
                })
            }
        }
    }

    /// What ranks have in common.
    pub(super) fn facts(&self) -> Vec<(String, String)> {
        let version = self.nccl_version;
        let numbers = [version / 10_000, version / 100 % 100, version % 100];
        let version = numbers.map(|number| number.to_string()).join(".");
        let windows = if self.windows { "yes" } else { "no" };
        let mut facts = vec![
            ("NCCL version".to_owned(), version),
            ("windows".to_owned(), windows.to_owned()),
        ];
        let model = self.costs.map(|costs| costs.model.to_owned());
        facts.extend(model.map(|model| ("costs".to_owned(), model)));
        facts
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
