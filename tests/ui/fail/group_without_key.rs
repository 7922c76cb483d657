use symm_core::{Dyn, Group, Host, Result, symmetric};

#[symmetric(tp)]
fn forward(tp: &Group<Dyn, Host>) -> Result<()> {
    Ok(())
}

fn main() {}
