use symm_core::{Dyn, Host, Src};

struct Slice;

impl Src<f32, Dyn, Host> for Slice {}

fn main() {}
