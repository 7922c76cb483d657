use symm_core::{Dyn, Group, Host, Result, symmetric};

#[symmetric(group = tp, when = len)]
fn forward(tp: &Group<Dyn, Host>, len: usize) -> Result<()> {
    Ok(())
}

fn main() {}
