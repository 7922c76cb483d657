use symm_core::symmetric;

#[symmetric(group = self.tp)]
struct Layer;

fn main() {}
