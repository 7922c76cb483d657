use symm_core::{Dyn, Group, Host, symm};

fn forward(tp: &Group<Dyn, Host>) {
    let _ = symm!(group = tp);
}

fn main() {}
