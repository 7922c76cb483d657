//! A first layer: four ranks as threads, no GPU. `cargo run --example first_layer`

use symm_core::{Backend, Group, Host, ReduceOp, Result, SymmBuf, World, groups, symmetric};

groups! {
    /// Tensor parallel: partial sums of the linear layers.
    pub Tp = "tp";
}

struct RowParallel<B: Backend> {
    tp: Group<Tp, B>,
}

impl<B: Backend> RowParallel<B> {
    #[symmetric(group = self.tp)]
    fn forward(&self, partial: &[f32]) -> Result<SymmBuf<f32, Tp, B>> {
        let mut sum = SymmBuf::from_slice(partial)?; // in symmetric memory of Tp
        self.tp.all_reduce_in_place(&mut sum, ReduceOp::Sum)?; // registers what it needs, then runs
        Ok(sum)
    }
}

fn main() -> Result<()> {
    // World::<Cuda> on a machine with 4 GPUs
    let sums = World::<Host>::run(4, |world| {
        let layer = RowParallel {
            tp: world.split(0, 0)?,
        };
        layer.forward(&[world.rank() as f32; 3])?.to_vec()
    })?;
    assert_eq!(sums, [[6.0; 3]; 4]);
    println!("every rank has {:?}", sums[0]);
    Ok(())
}
