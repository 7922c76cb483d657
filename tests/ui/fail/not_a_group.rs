use symm_core::{Result, symmetric};

struct Layer {
    weights: Vec<f32>,
}

impl Layer {
    #[symmetric(group = self.weights)]
    fn forward(&self) -> Result<()> {
        Ok(())
    }
}

fn main() {}
