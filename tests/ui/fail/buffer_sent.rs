use symm_core::{Dyn, Host, SymmBuf};

fn send(buffer: SymmBuf<f32, Dyn, Host>) {
    spawn(async move {
        std::future::ready(()).await;
        drop(buffer);
    });
}

fn spawn(_: impl Future + Send) {}

fn main() {}
