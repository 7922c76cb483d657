use symm_core::{Dyn, Group, Host, Result, symmetric};

#[symmetric(group = tp)]
fn forward(tp: &Group<Dyn, Host>) -> Result<usize> {
    tp.size()
}

fn main() {}
