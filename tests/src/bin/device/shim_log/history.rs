//! One process's log: what its communicators lived through, in the order of the lines.

use std::collections::{BTreeMap, HashMap};

use super::parse::{Kind, Line};
use super::{Counts, Report};

/// One communicator as one rank saw it.
#[derive(Debug)]
pub(super) struct Life {
    /// The log that tells of it.
    pub(super) log: String,
    /// Equal on all of its ranks: the unique id, or the parent and which split of it.
    pub(super) name: String,
    pub(super) rank: u64,
    pub(super) size: u64,
    /// Bytes of each registration, in order.
    pub(super) registered: Vec<u64>,
    pub(super) collectives: Vec<Collective>,
    /// Ended by an orderly destroy, so that all was called that peers called.
    pub(super) destroyed: bool,
    ended: bool,
    revoked: bool,
    windows: Vec<Window>,
    splits: usize,
}

#[derive(Debug)]
struct Window {
    handle: u64,
    base: u64,
    bytes: u64,
    /// Which registration of the communicator made it.
    ordinal: usize,
}

/// One collective as one rank called it.
#[derive(Debug)]
pub(super) struct Collective {
    pub(super) number: u64,
    /// What all ranks must have alike.
    pub(super) call: String,
    /// Where the operands lie that peers address: which window, at which offset.
    pub(super) places: Vec<Option<(usize, u64)>>,
}

/// A call that has not returned.
struct Pending<'a> {
    line: Line<'a>,
    life: Option<usize>,
    /// A fault keeps it: nothing of NCCL is inside.
    held: bool,
}

struct Reader<'a> {
    log: &'a str,
    lives: Vec<Life>,
    /// By address: those that are alive, and whether one that had the address has ended.
    alive: HashMap<u64, usize>,
    ended: HashMap<u64, usize>,
    allocations: BTreeMap<u64, u64>,
    pending: BTreeMap<u64, Pending<'a>>,
    violations: &'a mut Vec<String>,
    counts: &'a mut Counts,
}

/// Reads a log, and checks what one process's log can show.
pub(super) fn read(log: &str, text: &str, report: &mut Report) -> Vec<Life> {
    let mut reader = Reader {
        log,
        lives: Vec::new(),
        alive: HashMap::new(),
        ended: HashMap::new(),
        allocations: BTreeMap::new(),
        pending: BTreeMap::new(),
        violations: &mut report.violations,
        counts: &mut report.counts,
    };
    for text in text.lines() {
        reader.counts.lines += 1;
        match Line::parse(text) {
            None => reader
                .violations
                .push(format!("{log}: a line that no shim wrote: {text}")),
            Some(line) => match line.kind {
                Kind::Call => reader.called(line),
                Kind::Return => reader.returned(&line),
                Kind::Fault => reader.faulted(&line),
                Kind::Note => {}
            },
        }
    }
    reader.counts.left_communicators += reader.alive.len();
    let windows = reader
        .alive
        .values()
        .map(|&life| &reader.lives[life].windows);
    reader.counts.left_windows += windows.map(Vec::len).sum::<usize>();
    reader.counts.left_allocations += reader.allocations.len();
    reader.lives
}

impl<'a> Reader<'a> {
    fn violation(&mut self, number: u64, what: impl std::fmt::Display) {
        self.violations
            .push(format!("{}:{number}: {what}", self.log));
    }

    fn called(&mut self, line: Line<'a>) {
        let comm = line.number("comm");
        let life = comm.and_then(|comm| self.alive.get(&comm).copied());
        let (name, number) = (line.name, line.number);
        if life.is_none()
            && let Some(gone) = comm.and_then(|comm| self.ended.get(&comm))
        {
            let of = self.lives[*gone].name.clone();
            self.violation(number, format!("{name} on {of}, which has ended"));
        }
        if let Some(life) = life {
            self.called_on(life, &line);
        }
        if name == "ncclMemFree"
            && let Some(base) = line.number("ptr")
        {
            self.freed(number, base);
        }
        let held = false;
        self.pending.insert(number, Pending { line, life, held });
    }

    fn called_on(&mut self, at: usize, line: &Line<'_>) {
        let (name, number) = (line.name, line.number);
        let launches = COLLECTIVES.contains(&name) || matches!(name, "ncclSend" | "ncclRecv");
        if self.lives[at].revoked && (launches || name == "ncclCommWindowRegister") {
            let of = self.lives[at].name.clone();
            self.violation(number, format!("{name} on {of} after its revoke"));
        }
        match name {
            "ncclCommWindowRegister" => self.registering(at, line),
            "ncclCommWindowDeregister" => {
                let handle = line.number("window").unwrap_or_default();
                let life = &self.lives[at];
                if handle != 0 && !life.windows.iter().any(|window| window.handle == handle) {
                    let what = format!("window {handle:#x} of {} is not alive", life.name);
                    self.violation(number, what);
                }
            }
            "ncclCommSplit" => self.lives[at].splits += 1,
            "ncclCommRevoke" => {
                self.lives[at].revoked = true;
                self.counts.revoked += 1;
            }
            "ncclCommDestroy" | "ncclCommAbort" => self.ending(at, line),
            "ncclSend" | "ncclRecv" => self.counts.messages += 1,
            name if COLLECTIVES.contains(&name) => self.collective(at, line),
            _ => {}
        }
    }

    fn registering(&mut self, at: usize, line: &Line<'_>) {
        let base = line.number("buff").unwrap_or_default();
        let bytes = line.number("size").unwrap_or_default();
        self.counts.registrations += 1;
        self.lives[at].registered.push(bytes);
        let life = &self.lives[at];
        if life.windows.iter().any(|window| window.base == base) {
            let what = format!("a second window on {base:#x} in {}", life.name);
            self.violation(line.number, what);
        }
        if self.allocations.get(&base) != Some(&bytes) {
            let what = format!("{bytes} bytes at {base:#x} are not the whole of one ncclMemAlloc");
            self.violation(line.number, what);
        }
    }

    fn collective(&mut self, at: usize, line: &Line<'_>) {
        let value = |key| line.number(key);
        let (count, dtype) = (
            value("count").unwrap_or_default(),
            value("dtype").unwrap_or_default(),
        );
        // Sums of scaled values have numbers of their own, and no symmetric kernels.
        let scaled = value("op").is_some_and(|op| op > 4);
        let op = match value("op") {
            Some(op) if !scaled => format!(" op {op}"),
            Some(_) => " op scaled".into(),
            None => String::new(),
        };
        let root = value("root").map_or_else(String::new, |root| format!(" root {root}"));
        let part = count * bytes_of(dtype);
        let life = &self.lives[at];
        let addressed: &[(&str, u64)] = match line.name {
            _ if scaled => &[],
            "ncclAllReduce" => &[("send", part), ("recv", part)],
            "ncclAllGather" => &[("recv", part * life.size)],
            "ncclReduceScatter" => &[("send", part * life.size)],
            _ => &[],
        };
        let mut past = Vec::new();
        let places: Vec<_> = addressed
            .iter()
            .map(|&(operand, bytes)| {
                let start = value(operand)?;
                let inside = |window: &&Window| {
                    start
                        .checked_sub(window.base)
                        .is_some_and(|at| at < window.bytes)
                };
                let window = life.windows.iter().find(inside)?;
                let offset = start - window.base;
                if offset + bytes > window.bytes {
                    past.push(format!("{}: {operand} runs past its window", line.name));
                }
                Some((window.ordinal, offset))
            })
            .collect();
        self.counts.collectives += 1;
        self.counts.windowed += usize::from(places.iter().any(Option::is_some));
        self.lives[at].collectives.push(Collective {
            number: line.number,
            call: format!("{}{op}{root} count {count} type {dtype}", line.name),
            places,
        });
        for what in past {
            self.violation(line.number, what);
        }
    }

    fn ending(&mut self, at: usize, line: &Line<'_>) {
        let (name, number) = (line.name, line.number);
        let life = &self.lives[at];
        // An abort after a revoke takes the windows along: NCCL destroys what is left of them.
        let windows = life.windows.iter();
        let mut found: Vec<String> = windows
            .filter(|_| !(life.revoked && name == "ncclCommAbort"))
            .map(|window| format!("{name} of {} with window {:#x}", life.name, window.handle))
            .collect();
        let inside = self
            .pending
            .iter()
            .filter(|(_, call)| call.life == Some(at) && !call.held);
        found.extend(inside.map(|(of, call)| {
            format!(
                "{name} of {} while {} (line {of}) is inside",
                life.name, call.line.name
            )
        }));
        for what in found {
            self.violation(number, what);
        }
        let orderly = name == "ncclCommDestroy";
        let life = &mut self.lives[at];
        (life.ended, life.destroyed) = (true, orderly);
        match orderly {
            true => self.counts.destroyed += 1,
            false => self.counts.aborted += 1,
        }
        if let Some(comm) = line.number("comm") {
            self.alive.remove(&comm);
            self.ended.insert(comm, at);
        }
    }

    fn freed(&mut self, number: u64, base: u64) {
        let mut found = Vec::new();
        for life in self.lives.iter().filter(|life| !life.ended) {
            let window = life.windows.iter().find(|window| window.base == base);
            found.extend(window.map(|window| {
                format!(
                    "{base:#x} is freed with window {:#x} of {}",
                    window.handle, life.name
                )
            }));
        }
        if self.allocations.remove(&base).is_none() && base != 0 {
            found.push(format!("{base:#x} is freed, which is not allocated"));
        }
        for what in found {
            self.violation(number, what);
        }
    }

    fn faulted(&mut self, line: &Line<'_>) {
        self.counts.faults += 1;
        if let Some(call) = line.of().and_then(|of| self.pending.get_mut(&of)) {
            call.held = true;
        }
    }

    fn returned(&mut self, line: &Line<'_>) {
        let Some(call) = line.of().and_then(|of| self.pending.remove(&of)) else {
            self.violation(line.number, "a return without a call");
            return;
        };
        if call.line.name != line.name {
            self.violation(
                line.number,
                format!("{} returns as {}", call.line.name, line.name),
            );
        }
        let name = call.line.name;
        match (name, line.is_success()) {
            ("ncclMemAlloc", true) => {
                let size = call.line.number("size").unwrap_or_default();
                self.counts.allocations += 1;
                self.allocations
                    .insert(line.number("ptr").unwrap_or_default(), size);
            }
            ("ncclCommInitRankConfig", true) => {
                let id = call.line.text("id").unwrap_or_default();
                self.made(line, format!("id {id}"));
            }
            ("ncclCommSplit", true) => {
                if let Some(parent) = call.life.map(|at| &self.lives[at]) {
                    let color = call.line.text("color").unwrap_or_default();
                    let name = format!("{}, split {} color {color}", parent.name, parent.splits);
                    self.made(line, name);
                }
            }
            ("ncclCommWindowRegister", true) => {
                let handle = line.number("window").unwrap_or_default();
                let number = |key| call.line.number(key).unwrap_or_default();
                match call.life.map(|at| &mut self.lives[at]) {
                    Some(life) if handle != 0 => life.windows.push(Window {
                        handle,
                        base: number("buff"),
                        bytes: number("size"),
                        ordinal: life.registered.len().saturating_sub(1),
                    }),
                    _ => self.counts.null_windows += 1,
                }
            }
            ("ncclCommWindowDeregister", true) => {
                let handle = call.line.number("window");
                if let Some(life) = call.life.map(|at| &mut self.lives[at]) {
                    life.windows.retain(|window| Some(window.handle) != handle);
                }
            }
            _ => {}
        }
    }

    fn made(&mut self, line: &Line<'_>, name: String) {
        let Some(comm) = line.number("new").filter(|comm| *comm != 0) else {
            return;
        };
        self.ended.remove(&comm);
        self.alive.insert(comm, self.lives.len());
        self.lives.push(Life {
            log: self.log.to_owned(),
            name,
            rank: line.number("newrank").unwrap_or_default(),
            size: line.number("newsize").unwrap_or_default(),
            registered: Vec::new(),
            collectives: Vec::new(),
            destroyed: false,
            ended: false,
            revoked: false,
            windows: Vec::new(),
            splits: 0,
        });
    }
}

/// What all ranks call together, in one order.
const COLLECTIVES: [&str; 8] = [
    "ncclAllReduce",
    "ncclAllGather",
    "ncclReduceScatter",
    "ncclBroadcast",
    "ncclReduce",
    "ncclAlltoAll",
    "ncclGather",
    "ncclScatter",
];

/// Bytes of an element of a `ncclDataType_t`.
fn bytes_of(dtype: u64) -> u64 {
    match dtype {
        2 | 3 | 7 => 4,
        4 | 5 | 8 => 8,
        6 | 9 => 2,
        _ => 1,
    }
}
