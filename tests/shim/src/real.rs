//! The library that calls are forwarded to.

use std::env;
use std::path::PathBuf;
use std::sync::LazyLock;

use libloading::Library;

static REAL: LazyLock<Option<Library>> = LazyLock::new(|| {
    let named = env::var_os("SYMM_SHIM_NCCL").filter(|path| !path.is_empty());
    let candidates = match named.map(PathBuf::from) {
        Some(folder) if folder.is_dir() => {
            vec![folder.join("libnccl.so.2"), folder.join("libnccl.so")]
        }
        Some(file) => vec![file],
        None => vec!["libnccl.so.2".into(), "libnccl.so".into()],
    };
    candidates.iter().find_map(|name| {
        // SAFETY: NCCL's initialisers have no preconditions; whoever sets the variable vouches for
        // the file.
        let loaded = unsafe { Library::new(name) };
        loaded
            .inspect_err(|error| eprintln!("symm-shim: {}: {error}", name.display()))
            .ok()
    })
});

/// The real function; `None` where the real library lacks it. Stays valid: the library is never
/// unloaded.
///
/// # Safety
/// `F` is the function's type.
pub(crate) unsafe fn symbol<F: Copy>(name: &[u8]) -> Option<F> {
    // SAFETY: the caller vouches for the type.
    let symbol = unsafe { REAL.as_ref()?.get::<F>(name) }.ok()?;
    Some(*symbol)
}

/// Whether the real library has the name.
pub(crate) fn has(name: &[u8]) -> bool {
    // SAFETY: the address is not used.
    unsafe { symbol::<*const ()>(name) }.is_some()
}
