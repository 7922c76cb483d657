use symm_core::{Group, Host, ReduceOp, Result, SymmBuf, groups};

groups! { Tp = "tp"; }

fn write(tp: &Group<Tp, Host>, x: &SymmBuf<f32, Tp, Host>) -> Result<()> {
    tp.all_reduce_in_place(x, ReduceOp::Sum)?;
    Ok(())
}

fn main() {}
