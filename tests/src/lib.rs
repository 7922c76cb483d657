//! What symm-core has to do, as cases that run on any backend: see [`suite`].

pub mod suite;

/// The README's code is run too.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}
