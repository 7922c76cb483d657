//! What the examples of symm-core are made of, as a library, so that tests run it too.
//!
//! [`decoder`] is a small transformer whose layers are annotated with the groups that their buffers
//! belong to.

pub mod decoder;
