symm_core::groups! {
    pub Tp = "tp";
    pub Cp = "cp";
    pub Ep = "ep";
    arena(Tp, Cp);
    arena(Ep, Cp);
}

fn main() {}
