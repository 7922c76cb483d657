#![deny(unused_must_use)]

use symm_core::{Dyn, Group, Host, Result};

fn forward(tp: &Group<Dyn, Host>) -> Result<()> {
    tp.scope()?;
    Ok(())
}

fn main() {}
