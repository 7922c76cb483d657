use symm_core::Backend;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Rocm;

impl Backend for Rocm {}

fn main() {}
