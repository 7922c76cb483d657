use symm_core::{Result, symmetric};

#[symmetric(when = true)]
fn forward() -> Result<()> {
    Ok(())
}

fn main() {}
