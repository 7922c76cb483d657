symm_core::groups! {
    pub Tp = "tp";
    pub Cp = "tp";
}

fn main() {}
