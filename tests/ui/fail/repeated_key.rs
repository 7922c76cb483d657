use symm_core::{Dyn, Group, Host, Result, symmetric};

#[symmetric(group = tp, group = cp)]
fn forward(tp: &Group<Dyn, Host>, cp: &Group<Dyn, Host>) -> Result<()> {
    Ok(())
}

fn main() {}
