//! Which segment has which window in which group, and the one place where windows are made.

pub(crate) mod ledger;
pub(crate) mod returns;
pub(crate) mod round;
pub(crate) mod statement;
pub(crate) mod trim;
