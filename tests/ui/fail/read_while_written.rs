use symm_core::{Dyn, Group, Host, Result, SymmBuf};

fn gather(group: &Group<Dyn, Host>, mut x: SymmBuf<f32, Dyn, Host>) -> Result<()> {
    group.all_gather(&x, &mut x)?;
    Ok(())
}

fn main() {}
