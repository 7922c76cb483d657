//! What a stream can do any number of times: what a record keeps, and a launch enqueues.

use std::fmt;
use std::sync::Arc;

use super::memory::Memory;
use super::plan::Plan;
use super::queue::Item;
use crate::error::Result;

/// Work on memory that may run again and again.
pub(crate) type Kernel = Arc<dyn Fn(&mut Memory) -> Result<()> + Send + Sync>;

/// One step of a stream's work.
#[derive(Clone)]
pub(crate) enum Step {
    Run { label: &'static str, kernel: Kernel },
    Collectives(Arc<Plan>),
}

impl Step {
    /// An error if the step must not be enqueued or recorded any more; under the device's lock, so
    /// that no revoke comes between.
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Step::Run { .. } => Ok(()),
            Step::Collectives(plan) => plan.check_usable(),
        }
    }

    /// The step as one entry of a queue. Collectives take their communicator's next numbers: call
    /// it in the order in which the items are enqueued.
    pub(super) fn item(&self) -> Item {
        match self {
            Step::Run { label, kernel } => {
                let kernel = Arc::clone(kernel);
                Item::Run {
                    label,
                    work: Box::new(move |memory| kernel(memory)),
                }
            }
            Step::Collectives(plan) => Item::Collective(Box::new(plan.number())),
        }
    }

    /// What the step does, call by call.
    pub(super) fn labels(&self) -> Vec<String> {
        match self {
            Step::Run { label, .. } => vec![(*label).to_owned()],
            Step::Collectives(plan) => plan.labels().collect(),
        }
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.labels().join(", "))
    }
}
