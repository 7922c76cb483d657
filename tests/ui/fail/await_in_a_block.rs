use symm_core::{Dyn, Group, Host, Result, symm};

async fn forward(tp: &Group<Dyn, Host>) -> Result<u32> {
    symm!(group = tp, { std::future::ready(1).await })
}

fn main() {}
