symm_core::groups! {
    pub Tp = "tp";
    arena(Tp);
}

fn main() {}
