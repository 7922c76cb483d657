use symm_core::{Group, Host, Result, SymmBuf, groups, symmetric};

groups! { Tp = "tp"; Cp = "cp"; }

#[symmetric(group = tp)]
fn mix(tp: &Group<Tp, Host>) -> Result<SymmBuf<f32, Cp, Host>> {
    tp.zeros(8)
}

fn main() {}
