//! The command line of the small examples: where their ranks run.

use clap::Parser;
use symm_core::{Cuda, Result};

use crate::Choice;

/// Ranks where nobody says how many.
const RANKS: usize = 4;

/// Where the ranks of an example run.
#[derive(Clone, Debug, Parser)]
pub struct Start {
    /// Where the ranks run; auto takes GPUs where there are two or more
    #[arg(long, value_enum, default_value_t = Choice::Auto)]
    pub backend: Choice,
    /// Ranks; by default 4, and at most one a GPU
    #[arg(long)]
    pub ranks: Option<usize>,
}

impl Start {
    /// How many ranks to start on GPUs; `None` for the host backend, after saying why.
    ///
    /// # Errors
    /// What is missing, where GPUs were asked for.
    pub fn on_gpus(&self) -> Result<Option<usize>> {
        let found = Cuda::probe();
        let usable = found
            .usable()
            .and_then(|()| Ok(found.driver?.devices.len()));
        let found = match (self.backend, usable) {
            (Choice::Host, _) => None,
            (Choice::Cuda, usable) => Some(usable?),
            (Choice::Auto, Ok(count)) if count > 1 => Some(count),
            (Choice::Auto, Ok(_)) => {
                println!("there is one GPU, which --backend cuda takes: host backend");
                None
            }
            (Choice::Auto, Err(why)) => {
                println!("{why}: host backend");
                None
            }
        };
        Ok(found.map(|count| self.ranks.unwrap_or(RANKS.min(count))))
    }

    /// How many ranks to start on the host backend.
    pub fn on_host(&self) -> usize {
        self.ranks.unwrap_or(RANKS)
    }
}
