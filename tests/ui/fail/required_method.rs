use symm_core::{Result, symmetric};

trait Module {
    #[symmetric(group = self.tp)]
    fn forward(&self) -> Result<()>;
}

fn main() {}
