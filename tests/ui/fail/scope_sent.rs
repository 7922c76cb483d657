use symm_core::{Dyn, Group, Host, Result};

async fn hold(tp: Group<Dyn, Host>) -> Result<()> {
    let scope = tp.scope()?;
    std::future::ready(()).await;
    scope.close()
}

fn send(tp: Group<Dyn, Host>) {
    spawn(hold(tp));
}

fn spawn(_: impl Future + Send) {}

fn main() {}
