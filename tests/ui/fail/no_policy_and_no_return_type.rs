use symm_core::{Dyn, Group, Host, symmetric};

#[symmetric(group = tp)]
fn forward(tp: &Group<Dyn, Host>) {}

fn main() {}
