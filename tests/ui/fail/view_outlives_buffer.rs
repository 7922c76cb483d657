use symm_core::{Dyn, Group, Host, Result, SymmView};

fn dangle(group: &Group<Dyn, Host>) -> Result<SymmView<'_, f32, Dyn, Host>> {
    let x = group.zeros(8)?;
    x.view(0..4)
}

fn main() {}
