use symm_core::symm;

fn main() {
    let _ = symm!({ 1 });
}
