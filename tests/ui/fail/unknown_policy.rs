use symm_core::{Dyn, Group, Host, symmetric};

#[symmetric(group = tp, on_error = ignore)]
fn forward(tp: &Group<Dyn, Host>) {}

fn main() {}
