symm_core::groups! {
    pub Tp = "tp";
    pub Tp = "tensor parallel";
}

fn main() {}
