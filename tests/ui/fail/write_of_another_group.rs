use symm_core::{Group, Host, Result, SymmBuf, groups};

groups! { Tp = "tp"; Cp = "cp"; }

fn mix(
    tp: &Group<Tp, Host>,
    x: &SymmBuf<f32, Tp, Host>,
    y: &mut SymmBuf<f32, Cp, Host>,
) -> Result<()> {
    tp.all_gather(x, y)?;
    Ok(())
}

fn main() {}
