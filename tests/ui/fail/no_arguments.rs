use symm_core::{Result, symmetric};

#[symmetric]
fn forward() -> Result<()> {
    Ok(())
}

fn main() {
    let _ = forward(); // the function is there all the same
}
