use symm_core::Element;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Complex(f32, f32);

impl Element for Complex {}

fn main() {}
