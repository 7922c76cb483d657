symm_core::groups! {
    pub Tp = "tp";
    pub Cp = "cp";
    arena(Tp, Cpp);
}

fn main() {}
