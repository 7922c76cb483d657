use symm_core::{Dyn, Group, Host, Result, symmetric};

#[symmetric(group = tp, on_error = panic)]
fn forward(tp: &Group<Dyn, Host>) -> impl Future<Output = Result<()>> {
    async { Ok(()) }
}

fn main() {}
