use symm_core::{Dyn, Group, Host, symmetric};

#[symmetric(group = tp)]
fn forward(tp: &Group<Dyn, Host>) -> impl Iterator<Item = u32> {
    0..3
}

fn main() {}
