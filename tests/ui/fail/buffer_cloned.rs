use symm_core::{Dyn, Host, SymmBuf};

fn twice(x: SymmBuf<f32, Dyn, Host>) -> [SymmBuf<f32, Dyn, Host>; 2] {
    [x.clone(), x]
}

fn main() {}
