use symm_core::{Group, Host, ReduceOp, Result, SymmBuf, groups};

groups! { Tp = "tp"; Cp = "cp"; }

fn mix(tp: &Group<Tp, Host>, x: &mut SymmBuf<f32, Cp, Host>) -> Result<()> {
    tp.all_reduce_in_place(x, ReduceOp::Sum)?;
    Ok(())
}

fn main() {}
