//! The one thread of a process that looks after its worlds: it acts on poison, on peers that died,
//! and on peers that stay behind, so that a thread in a raw CUDA wait is released too.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

/// Between two looks. Poison is acted on at the next one.
const PERIOD: Duration = Duration::from_millis(10);

/// Something that is looked after.
pub(crate) trait Watch: Send + Sync {
    /// Looks once. Never waits for a peer or a device.
    fn look(self: Arc<Self>);
}

#[derive(Default)]
struct Kennel {
    watched: Vec<Weak<dyn Watch>>,
    /// Whether the thread runs.
    awake: bool,
    /// Somebody wants a look now.
    called: bool,
}

static KENNEL: Mutex<Kennel> = Mutex::new(Kennel {
    watched: Vec::new(),
    awake: false,
    called: false,
});
static CALL: Condvar = Condvar::new();

fn kennel() -> MutexGuard<'static, Kennel> {
    KENNEL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks after `world` until it is gone. The thread is started with the first and ends with the last
/// one. Without a thread, the world is looked after by its own calls alone.
pub(crate) fn look_after(world: Weak<dyn Watch>) -> std::io::Result<()> {
    let mut kennel = kennel();
    kennel.watched.push(world);
    if !kennel.awake {
        thread::Builder::new()
            .name("symm-watchdog".into())
            .spawn(watch)?;
        kennel.awake = true;
    }
    Ok(())
}

/// Has the watchdog look now.
pub(crate) fn call() {
    kennel().called = true;
    CALL.notify_all();
}

fn watch() {
    let mut now = kennel();
    loop {
        now.watched.retain(|world| world.strong_count() > 0);
        if now.watched.is_empty() {
            now.awake = false;
            return;
        }
        let all: Vec<Arc<dyn Watch>> = now.watched.iter().filter_map(Weak::upgrade).collect();
        now.called = false;
        drop(now);
        all.into_iter().for_each(Watch::look);
        now = CALL
            .wait_timeout_while(kennel(), PERIOD, |kennel| !kennel.called)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
}
