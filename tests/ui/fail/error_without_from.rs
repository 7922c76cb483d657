use symm_core::{Dyn, Group, Host, symmetric};

struct OutOfTokens;

#[symmetric(group = tp)]
fn forward(tp: &Group<Dyn, Host>) -> Result<(), OutOfTokens> {
    Err(OutOfTokens)
}

fn main() {}
