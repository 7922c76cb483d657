use symm_core::{Buf, Group, Host, Result, SymmBuf, groups};

groups! { Tp = "tp"; }

fn read(tp: &Group<Tp, Host>, x: &Buf<f32, Host>, y: &mut SymmBuf<f32, Tp, Host>) -> Result<()> {
    tp.all_gather(x, y)?;
    Ok(())
}

fn main() {}
