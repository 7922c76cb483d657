//! Finding and loading NCCL, once per process.

use std::env;
use std::ffi::{OsString, c_int};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::Library;

use super::super::libcuda::{loader_says, unavailable};
pub(in super::super) use super::table::Nccl;
use super::{FLOOR, SUCCESS, dotted, maps};
use crate::error::{Error, Result};

/// Where to look first.
const PATH: &str = "SYMM_NCCL_PATH";
/// Wheels and Debian ship the first name alone, an unpacked archive may have only the second.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

/// The process's NCCL, loaded at the first call; its error is the same at each call.
pub(in super::super) fn nccl() -> Result<&'static Nccl> {
    static LOADED: OnceLock<Result<Nccl>> = OnceLock::new();
    LOADED
        .get_or_init(|| load(&nccl_candidates()))
        .as_ref()
        .map_err(Error::clone)
}

/// The files that are tried.
pub(in super::super) fn nccl_candidates() -> Vec<PathBuf> {
    candidates(env::var_os(PATH))
}

/// The files to try: what the variable names, a file or a folder, and nothing else if it is set;
/// else the usual names, as the loader finds them.
fn candidates(explicit: Option<OsString>) -> Vec<PathBuf> {
    match explicit.filter(|path| !path.is_empty()).map(PathBuf::from) {
        Some(folder) if folder.is_dir() => NAMES.map(|name| folder.join(name)).to_vec(),
        Some(file) => vec![file],
        None => NAMES.map(PathBuf::from).to_vec(),
    }
}

/// Loads the first candidate that opens. What it then lacks is an error: going on to the next would
/// put a second NCCL into the process.
fn load(candidates: &[PathBuf]) -> Result<Nccl> {
    let mut tried = Vec::new();
    for name in candidates {
        // SAFETY: NCCL's initialisers have no preconditions; whoever sets the variable vouches for
        // the file.
        match unsafe { Library::new(name) } {
            Ok(library) => return open(library, name),
            Err(error) => tried.push(loader_says(&error)),
        }
    }
    Err(unavailable(format!(
        "NCCL could not be loaded (set {PATH} to libnccl.so.2 or its folder; tried {})",
        tried.join("; ")
    )))
}

fn open(library: Library, name: &Path) -> Result<Nccl> {
    let name = name.display();
    // SAFETY: the type is that of nccl.h.
    let get_version = match unsafe {
        library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(b"ncclGetVersion\0")
    } {
        Ok(symbol) => *symbol,
        Err(error) => {
            return Err(unavailable(format!(
                "{name} is not NCCL: {}",
                loader_says(&error)
            )));
        }
    };
    let mut version = 0;
    // SAFETY: the pointer is to a live integer; the function needs no device.
    let code = unsafe { get_version(&mut version) };
    let version = version.unsigned_abs();
    if code != SUCCESS || version < FLOOR {
        let found = if code == SUCCESS {
            format!("is NCCL {}", dotted(version))
        } else {
            format!("does not tell its version (code {code})")
        };
        return Err(unavailable(format!(
            "{name} {found}, but symmetric windows need {} or later",
            dotted(FLOOR)
        )));
    }

    let path = maps::around(get_version as usize)
        .0
        .unwrap_or_else(|| PathBuf::from(name.to_string()));
    let missing = |symbol| {
        unavailable(format!(
            "{name} (NCCL {}) has no {symbol}: it is damaged, or a build of its own",
            dotted(version)
        ))
    };
    Nccl::resolve(library, version, path).map_err(missing)
}

impl Nccl {
    /// Fails when another NCCL is in the process too, as it may be from some time on, when a
    /// framework loads its own.
    pub(in super::super) fn alone(&self) -> Result<()> {
        match maps::around(self.ncclMemAlloc as usize).1.first() {
            Some(other) if self.symm_nccl_forwards.is_none() => Err(unavailable(format!(
                "two NCCLs are in this process, {} and {}: a communicator of one crashes the other, so point {PATH} at the one that the rest uses",
                self.path.display(),
                other.display()
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(candidates: &[&str]) -> String {
        let candidates: Vec<_> = candidates.iter().map(PathBuf::from).collect();
        match load(&candidates) {
            Ok(nccl) => format!("loaded {}", nccl.path.display()),
            Err(error) => {
                assert!(error.is_unavailable(), "{error}");
                error.to_string()
            }
        }
    }

    #[test]
    fn the_variable_names_a_file_or_a_folder_and_then_nothing_else_is_tried() {
        let names = |explicit: Option<&str>| candidates(explicit.map(OsString::from));
        assert_eq!(
            names(None),
            [Path::new("libnccl.so.2"), Path::new("libnccl.so")]
        );
        assert_eq!(names(Some("")), names(None));
        assert_eq!(names(Some("/no/such/file")), [Path::new("/no/such/file")]);
        assert_eq!(
            names(Some("/")),
            [Path::new("/libnccl.so.2"), Path::new("/libnccl.so")]
        );
    }

    #[test]
    fn a_missing_library_names_all_that_was_tried() {
        let text = failure(&["/no/such/first.so", "/no/such/second.so"]);
        assert!(
            text.contains("first.so")
                && text.contains("second.so")
                && text.contains("SYMM_NCCL_PATH"),
            "{text}"
        );
    }

    #[test]
    fn a_file_that_is_no_library_says_so() {
        let text = failure(&["/proc/self/maps"]);
        assert!(text.contains("/proc/self/maps"), "{text}");
    }

    #[test]
    fn another_library_is_not_nccl() {
        let text = failure(&["libc.so.6"]);
        assert!(
            text.contains("libc.so.6 is not NCCL") && text.contains("ncclGetVersion"),
            "{text}"
        );
    }

    /// A library that exports `ncclGetVersion`, and what else is said. `None` where no compiler is at
    /// hand.
    fn fake(version: u32, more: &str) -> Option<PathBuf> {
        let name = format!("symm-fake-nccl-{}-{version}", std::process::id());
        let folder = env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).ok()?;
        let (source, library) = (folder.join("fake.rs"), folder.join("libnccl.so.2"));
        let code = format!(
            r#"#[unsafe(no_mangle)] pub unsafe extern "C" fn ncclGetVersion(v: *mut i32) -> i32 {{ unsafe {{ *v = {version} }}; 0 }} {more}"#
        );
        std::fs::write(&source, code).ok()?;
        let mut rustc = std::process::Command::new("rustc");
        let built = rustc
            .args(["--edition=2024", "--crate-type=cdylib", "-o"])
            .arg(&library)
            .arg(&source)
            .status()
            .ok()?;
        built.success().then_some(library)
    }

    #[test]
    fn an_old_nccl_and_a_crippled_one_are_told_apart() {
        let (Some(old), Some(crippled)) = (fake(22_605, ""), fake(22_700, "")) else {
            eprintln!("skipped: no rustc to build a fake NCCL with");
            return;
        };
        let (old, crippled) = (old.display().to_string(), crippled.display().to_string());
        let text = failure(&[&old]);
        assert!(
            text.contains("is NCCL 2.26.5") && text.contains("2.27.0 or later"),
            "{text}"
        );
        let text = failure(&[&crippled]);
        assert!(
            text.contains("(NCCL 2.27.0) has no ncclGetErrorString"),
            "{text}"
        );
    }

    #[test]
    fn what_a_forwarder_denies_is_absent() {
        let stub = |name: &&str| {
            format!(r#"#[unsafe(no_mangle)] pub extern "C" fn {name}() -> i32 {{ 0 }}"#)
        };
        let stubs: String = super::super::table::REQUIRED.iter().map(stub).collect();
        let optional = ["ncclCommRevoke", "ncclAlltoAll"].iter().map(stub);
        let denies = r#"#[unsafe(no_mangle)] pub unsafe extern "C" fn symm_nccl_forwards(n: *const std::ffi::c_char) -> i32 {
            (unsafe { std::ffi::CStr::from_ptr(n) } != c"ncclCommRevoke") as i32
        }"#;
        let more = format!("{stubs}{}{denies}", optional.collect::<String>());
        let Some(forwarder) = fake(22_803, &more) else {
            eprintln!("skipped: no rustc to build a fake NCCL with");
            return;
        };
        let nccl = load(&[forwarder]).expect("all that is required");
        assert!(nccl.symm_nccl_forwards.is_some() && nccl.ncclAlltoAll.is_some());
        assert!(nccl.ncclCommRevoke.is_none() && nccl.ncclGather.is_none());
    }
}
