//! What keeps ranks that differ from hanging or computing garbage: shared memory in which every rank
//! states what it is about to do before it does it, and a watchdog that acts when ranks differ, die
//! or stay behind.
//!
//! [`board`] is the memory of one host and [`layout`] what lies where in it: the [`ring`] that
//! compares collectives, the [`pairs`] that compare point-to-point, the [`details`] for messages,
//! and the world's [`poison`]. [`fingerprint`] says what is compared. [`group`] and [`world`] are a
//! rank's view of the two kinds of boards, [`vitals`] says whether the world is alive, the [`watchdog`]
//! looks after it: for what is [`late`], and for the [`release`] of what waits once it has failed.

pub(crate) mod board;
pub(crate) mod details;
mod file;
pub(crate) mod fingerprint;
pub(crate) mod gate;
pub(crate) mod group;
mod late;
pub(crate) mod layout;
pub(crate) mod limits;
pub(crate) mod pairs;
pub(crate) mod poison;
pub(crate) mod record;
pub(crate) mod release;
pub(crate) mod ring;
mod sync;
#[cfg(test)]
mod tests;
pub(crate) mod vitals;
pub(crate) mod watchdog;
pub(crate) mod watched;
pub(crate) mod world;
