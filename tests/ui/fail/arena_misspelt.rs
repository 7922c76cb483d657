symm_core::groups! {
    pub Tp = "tp";
    pub Cp = "cp";
    arean(Tp, Cp);
}

fn main() {}
