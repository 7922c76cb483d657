symm_core::groups! {
    pub Tp = "";
}

fn main() {}
