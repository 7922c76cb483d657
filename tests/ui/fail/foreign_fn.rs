use symm_core::symmetric;

unsafe extern "C" {
    #[symmetric(group = tp)]
    fn forward();
}

fn main() {}
