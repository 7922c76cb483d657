use symm_core::{Buf, Host, SymmBuf, groups};

groups! { Tp = "tp"; }

fn swap(x: &mut SymmBuf<f32, Tp, Host>, ordinary: &mut Buf<f32, Host>) {
    std::mem::swap(&mut **x, ordinary);
}

fn main() {}
