use symm_core::{Dyn, Group, Host, symmetric};

#[symmetric(group = tp)]
fn forward(tp: &Group<Dyn, Host>) -> Option<u32> {
    Some(1)
}

fn main() {}
