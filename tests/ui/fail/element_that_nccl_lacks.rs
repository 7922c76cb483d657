use symm_core::{Dyn, Host, SymmBuf};

fn tokens(_: SymmBuf<usize, Dyn, Host>) {}

fn main() {}
