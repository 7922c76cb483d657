//! What symm-core has to do, as cases that run on any backend: see [`suite`].

pub mod suite;
