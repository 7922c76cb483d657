use symm_core::{Dyn, Host, Result, SymmBuf};

fn overlap(x: &mut SymmBuf<f32, Dyn, Host>) -> Result<()> {
    let mut low = x.view_mut(0..6)?;
    let mut high = x.view_mut(4..8)?;
    low.fill_zero()?;
    high.fill_zero()
}

fn main() {}
