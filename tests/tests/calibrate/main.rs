//! Path choice on the host backend, whose clock is what a test says: which table ranks come to, what
//! is kept of it, and what goes wrong.

#![allow(missing_docs)]

mod cache;
mod choices;
mod faults;
mod order;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use symm_core::host::{Launched, Options};
use symm_core::{Config, Group, Host, Path, Reason, ReduceOp, Result, groups, symm};

groups! {
    pub Tp = "tp";
    pub Cp = "cp";
}

const FASTER: Path = Path::Plain(Reason::Faster);
const KIB: usize = 1 << 10;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("symm-calibrate-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn files(&self) -> Vec<PathBuf> {
        let Ok(files) = fs::read_dir(&self.0) else {
            return Vec::new();
        };
        files.map(|file| file.unwrap().path()).collect()
    }

    /// The one file.
    fn file(&self) -> PathBuf {
        match &self.files()[..] {
            [file] => file.clone(),
            files => panic!("{files:?}"),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Sums of 16 KiB are slower on windows, by 4%.
fn slow_at_16k(call: &Launched) -> u64 {
    let slow =
        call.operation == "all_reduce" && (12 * KIB..24 * KIB).contains(&(call.bytes as usize));
    match (call.symmetric, slow) {
        (true, true) => 10_400,
        (true, false) => 5_000,
        (false, _) => 10_000,
    }
}

fn config(folder: &Folder, model: &'static str, costs: fn(&Launched) -> u64) -> Config<Host> {
    configured(folder, Options::default().costs(model, costs))
}

fn configured(folder: &Folder, options: Options) -> Config<Host> {
    Config::default()
        .deadline(Duration::from_secs(30))
        .cache_dir(&folder.0)
        .tuned(true)
        .options(options)
}

/// The path of a sum of so many KiB, whose result must be right.
fn sum(tp: &Group<Tp, Host>, kib: usize) -> Result<Path> {
    let mut x = symm!(group = tp, { tp.from_slice(&vec![1.0f32; kib * KIB / 4])? })?;
    let path = tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    let expected = tp.size() as f32;
    assert!(
        x.to_vec()?.iter().all(|x| *x == expected),
        "a sum of {kib} KiB, {path}"
    );
    Ok(path)
}

fn sums(tp: &Group<Tp, Host>) -> Result<[Path; 3]> {
    Ok([sum(tp, 8)?, sum(tp, 16)?, sum(tp, 32)?])
}

const FOUND: [Path; 3] = [Path::Symmetric, FASTER, Path::Symmetric];
const NOTHING: [Path; 3] = [Path::Symmetric; 3];
