use symm_core::symm;

fn main() {
    let _ = symm!(group = vec![1], { 1 });
}
