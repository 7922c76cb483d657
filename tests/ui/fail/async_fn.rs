use symm_core::{Dyn, Group, Host, Result, symmetric};

#[symmetric(group = tp)]
async fn forward(tp: &Group<Dyn, Host>) -> Result<()> {
    Ok(())
}

fn main() {}
