use symm_core::{Dyn, Group, Host, Result, SymmBuf, groups};

groups! { Tp = "tp"; }

fn mix(
    tp: &Group<Tp, Host>,
    x: &SymmBuf<f32, Dyn, Host>,
    y: &mut SymmBuf<f32, Tp, Host>,
) -> Result<()> {
    tp.all_gather(x, y)?;
    Ok(())
}

fn main() {}
