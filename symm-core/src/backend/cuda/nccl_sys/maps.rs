//! Which libraries this process has mapped: the loader says neither which file a name led to, nor
//! whether another NCCL is there already.

use std::path::{Path, PathBuf};

/// The file that `address` is mapped from, and every other `libnccl.so*` in this process. Nothing
/// where /proc cannot be read.
pub(super) fn around(address: usize) -> (Option<PathBuf>, Vec<PathBuf>) {
    std::fs::read_to_string("/proc/self/maps")
        .map_or_else(|_| (None, Vec::new()), |maps| parse(&maps, address))
}

fn parse(maps: &str, address: usize) -> (Option<PathBuf>, Vec<PathBuf>) {
    let mappings: Vec<_> = maps.lines().filter_map(Mapping::parse).collect();
    let ours = mappings
        .iter()
        .find(|mapping| mapping.range.contains(&address));
    let mut others: Vec<PathBuf> = Vec::new();
    for mapping in &mappings {
        // The same file under two names is one library to the loader.
        let same = ours.is_some_and(|ours| ours.inode == mapping.inode);
        if !same && mapping.is_nccl() && !others.iter().any(|other| other == mapping.path) {
            others.push(mapping.path.to_owned());
        }
    }
    (ours.map(|ours| ours.path.to_owned()), others)
}

/// One line: `7f..-7f.. r-xp 00001000 08:01 1234    /usr/lib/libnccl.so.2`.
struct Mapping<'a> {
    range: std::ops::Range<usize>,
    /// Device and inode.
    inode: (&'a str, &'a str),
    path: &'a Path,
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let (_permissions, _offset, device, inode) = (
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next()?,
        );
        let path = fields.next()?.trim_start();
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        let address = |hex| usize::from_str_radix(hex, 16).ok();
        path.starts_with('/').then_some(Self {
            range: address(start)?..address(end)?,
            inode: (device, inode),
            path: Path::new(path),
        })
    }

    fn is_nccl(&self) -> bool {
        self.path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("libnccl.so"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55d0c0a00000-55d0c0a02000 r--p 00000000 08:01 11                         /usr/bin/python3
7f0000000000-7f0000001000 r--p 00000000 08:01 77                         /opt/my nccl/libnccl.so.2
7f0000001000-7f0000009000 r-xp 00001000 08:01 77                         /opt/my nccl/libnccl.so.2
7f1000000000-7f1000001000 r-xp 00000000 08:01 77                         /opt/link/libnccl.so.2.30.7
7f2000000000-7f2000001000 r-xp 00000000 08:01 78                         /usr/lib/libnccl.so.2.27.5 (deleted)
7f2000001000-7f2000002000 rw-p 00000000 00:00 0
7f3000000000-7f3000001000 r-xp 00000000 08:01 79                         /usr/lib/libnccl-net.so
7ffd00000000-7ffd00001000 rw-p 00000000 00:00 0                          [stack]
";

    #[test]
    fn finds_our_file_and_the_other_nccl() {
        let (ours, others) = parse(MAPS, 0x7f00_0000_1234);
        assert_eq!(
            ours.as_deref(),
            Some(Path::new("/opt/my nccl/libnccl.so.2"))
        );
        assert_eq!(others, [Path::new("/usr/lib/libnccl.so.2.27.5")]);
    }

    #[test]
    fn survives_what_it_does_not_know() {
        assert_eq!(parse("", 1), (None, vec![]));
        assert_eq!(parse("nonsense\nzz-zz r-xp 0 0 0 /x", 1), (None, vec![]));
    }

    #[test]
    fn reads_this_process() {
        let (ours, _) = around(reads_this_process as fn() as usize);
        assert!(!cfg!(target_os = "linux") || ours.is_some_and(|path| path.is_file()));
    }
}
