use symm_core::{Dyn, Group, Host, Result, symmetric};

#[symmetric(gruop = tp)]
fn forward(tp: &Group<Dyn, Host>) -> Result<()> {
    Ok(())
}

fn main() {}
