//! Tables of paths on disk, for the next start. Rank 0 of a group reads and writes them, no other rank
//! does: a file that differed by rank would have ranks take different kernels.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use super::core::GroupCore;
use super::table::{Choices, Row};
use crate::agreement::fingerprint;
use crate::backend::Backend;

const TITLE: &str = "symm-core: paths of collectives, version 1";
/// No file of ours is longer.
const LONGEST: u64 = 64 << 10;

/// The folder: what was set, else `$SYMM_CACHE_DIR` (empty: none), else the one of the XDG Base
/// Directory Specification.
pub(crate) fn folder(
    set: Option<&Path>,
    read: impl Fn(&str) -> Option<OsString>,
) -> Option<PathBuf> {
    if let Some(set) = set {
        return Some(set.to_owned());
    }
    if let Some(set) = read("SYMM_CACHE_DIR") {
        return (!set.is_empty()).then(|| set.into());
    }
    // "If an implementation encounters a relative path [..] it should ignore it."
    let absolute = |name| {
        read(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(base.join("symm-core"))
}

/// All that times depend on, a line each; `None` where nothing is kept.
fn key<B: Backend>(group: &GroupCore<B>) -> Option<String> {
    let world = &group.world;
    let model = B::model(&world.device)?;
    let here = world.hosts.here(&group.members).len();
    let mut key = format!(
        "{TITLE}\ndevice {model:?}\nranks {}, {here} of them on a host\n",
        group.size()
    );
    // NCCL's version and settings among them. Quoted, so that each is one line.
    for (name, value) in B::facts(&world.device) {
        let _ = writeln!(key, "fact {name:?} {value:?}");
    }
    Some(key)
}

fn file(folder: &Path, key: &str) -> PathBuf {
    folder.join(format!("paths-{:016x}", digest(key)))
}

fn digest(text: &str) -> u64 {
    text.bytes()
        .fold(0, |digest, byte| fingerprint::join(digest, byte.into()))
}

/// The file's contents.
fn write(key: &str, choices: Choices) -> String {
    let mut text = key.to_owned();
    for (row, mask) in Row::ALL.into_iter().zip(choices.0) {
        let (operation, types) = (row.call().0.name(), row.types());
        let _ = writeln!(text, "twin {operation} {types} {mask:016x}");
    }
    let sum = digest(&text);
    let _ = writeln!(text, "sum {sum:016x}");
    text
}

/// The table in a file's contents, or what is wrong with them.
fn parse(text: &str, key: &str) -> Result<Choices, &'static str> {
    let rest = text.strip_prefix(key);
    let rest = rest.ok_or("it is of another machine or version")?;
    let masks = rest.lines().filter_map(|line| {
        let mask = line.strip_prefix("twin ")?.rsplit(' ').next()?;
        u64::from_str_radix(mask, 16).ok()
    });
    let masks: Vec<u64> = masks.collect();
    let masks = masks.try_into().map_err(|_| "it is damaged")?;
    let choices = Choices(masks);
    match write(key, choices) == text {
        true => Ok(choices),
        false => Err("it is damaged"),
    }
}

/// The table that was kept for groups like this one.
pub(super) fn load<B: Backend>(group: &GroupCore<B>) -> Option<Choices> {
    let folder = group.world.tuning.cache.as_deref()?;
    let key = key(group)?;
    let file = file(folder, &key);
    let text = match text(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return ignored(&file, &error.to_string()),
    };
    match parse(&text, &key) {
        Ok(choices) => Some(choices),
        Err(why) => ignored(&file, why),
    }
}

fn ignored(file: &Path, why: &str) -> Option<Choices> {
    eprintln!(
        "symm: {} is not used: {why}; a calibration replaces it",
        file.display()
    );
    None
}

fn text(file: &Path) -> io::Result<String> {
    // A pipe would be waited for.
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut text = String::new();
    File::open(file)?.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// Keeps a table for groups like this one, and says whether it could.
pub(super) fn store<B: Backend>(group: &GroupCore<B>, choices: Choices) -> bool {
    let Some(folder) = group.world.tuning.cache.as_deref() else {
        return false;
    };
    let Some(key) = key(group) else {
        return false;
    };
    let file = file(folder, &key);
    match replace(folder, &file, &write(&key, choices)) {
        Ok(()) => true,
        Err(error) => {
            eprintln!("symm: {} could not be written: {error}", file.display());
            false
        }
    }
}

/// Readers find the old file or the new one, whole.
fn replace(folder: &Path, file: &Path, text: &str) -> io::Result<()> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    fs::create_dir_all(folder)?;
    let (id, number) = (process::id(), WRITTEN.fetch_add(1, Ordering::Relaxed));
    let new = folder.join(format!(".paths-{id}-{number}"));
    let moved = fs::write(&new, text).and_then(|()| fs::rename(&new, file));
    if moved.is_err() {
        // The first error says what is wrong.
        let _ = fs::remove_file(&new);
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "a title\ndevice \"NVIDIA H200\"\nranks 4\n";
    const CHOICES: Choices = Choices([0, u64::MAX, 0xFF << 20, 1, 2]);

    #[test]
    fn a_file_comes_back_as_it_was() {
        assert_eq!(parse(&write(KEY, CHOICES), KEY), Ok(CHOICES));
    }

    #[test]
    fn what_is_damaged_or_foreign_is_refused() {
        let whole = write(KEY, CHOICES);
        for end in 0..whole.len() {
            assert!(parse(&whole[..end], KEY).is_err(), "{end} bytes");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone().into_bytes();
            bytes[at] ^= 1;
            let text = String::from_utf8(bytes).expect("ASCII");
            assert!(parse(&text, KEY).is_err(), "byte {at}: {text}");
        }
        assert!(parse(&whole, "another key\n").is_err());
        assert!(parse(&(whole + "more"), KEY).is_err());
    }

    #[test]
    fn the_folder_is_found() {
        let of = |all: &[(&str, &str)]| {
            folder(None, |name| {
                let found = all.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| value.into())
            })
        };
        assert_eq!(of(&[("HOME", "/h")]), Some("/h/.cache/symm-core".into()));
        let both = [("HOME", "/h"), ("XDG_CACHE_HOME", "/x")];
        assert_eq!(of(&both), Some("/x/symm-core".into()));
        let relative = [("HOME", "/h"), ("XDG_CACHE_HOME", "x")];
        assert_eq!(of(&relative), Some("/h/.cache/symm-core".into()));
        assert_eq!(of(&[("SYMM_CACHE_DIR", "c"), both[1]]), Some("c".into()));
        assert_eq!(of(&[("SYMM_CACHE_DIR", ""), both[0]]), None);
        assert_eq!(of(&[]), None);
        let set = folder(Some(Path::new("/set")), |_| Some("/env".into()));
        assert_eq!(set, Some("/set".into()));
    }
}
