//! Ranks that come to differ, die, stop or stay behind, on the host backend: each of them gets an
//! error with the same cause, in time; after a rebuild the same code is exact and memory is as it
//! was. And what looks like a difference but is legal goes through.

#![allow(missing_docs)]

mod child;
mod collectives;
mod deadlines;
mod faults;
mod harness;
mod hosts;
mod joining;
mod kills;
mod launches;
mod legal;
mod messages;
mod rounds;
mod sleep;
mod strict;
mod threads;
mod versions;

use libtest_mimic::{Arguments, Failed, Trial};

/// A test and what it shows.
pub(crate) type Case = (&'static str, fn() -> Result<(), Failed>);

fn main() {
    // This binary is the program of the ranks that are processes, too.
    if let Some(status) = child::run() {
        std::process::exit(status);
    }
    let concepts: [(&str, &[Case]); 13] = [
        ("collectives", collectives::CASES),
        ("messages", messages::CASES),
        ("launches", launches::CASES),
        ("rounds", rounds::CASES),
        ("legal", legal::CASES),
        ("threads", threads::CASES),
        ("deadlines", deadlines::CASES),
        ("strict", strict::CASES),
        ("versions", versions::CASES),
        ("joining", joining::CASES),
        ("kills", kills::CASES),
        ("hosts", hosts::CASES),
        ("sleep", sleep::CASES),
    ];
    let mut trials = faults::trials();
    for (concept, cases) in concepts {
        let named = |(name, case): &Case| Trial::test(format!("{concept}/{name}"), *case);
        trials.extend(cases.iter().map(named));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
