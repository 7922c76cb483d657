//! The report for people: aligned, in colour on a terminal alone.

use std::fmt::Display;
use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

use symm_core::{Path, Reason};

use super::collectives::{Calibration, Call};
use super::gpus::{Gpus, Way};
use super::report::{Level, Nccl, Report};

const TITLE: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default();
const NOTE: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// Text in a style, and plain again.
fn styled(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Powers of two as people write them.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

/// Where the lines go.
struct Page<W>(W);

impl<W: Write> Page<W> {
    fn title(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.0, "\n{}", styled(TITLE, text))
    }

    /// A name and what there is to say of it.
    fn line(&mut self, name: &str, text: impl Display) -> io::Result<()> {
        writeln!(self.0, "  {name:<14}{text}")
    }
}

impl Report {
    /// Writes it for people.
    ///
    /// # Errors
    /// Those of standard output.
    pub fn print(&self) -> io::Result<()> {
        self.write(anstream::AutoStream::auto(io::stdout()).lock())
    }

    /// Writes it with its colours, wherever.
    pub(super) fn write(&self, out: impl Write) -> io::Result<()> {
        let mut page = Page(out);
        page.title("machine")?;
        self.machine(&mut page)?;
        page.title("GPUs")?;
        gpus(&self.gpus, &mut page)?;
        page.title("NCCL")?;
        nccl(&self.nccl, &mut page)?;
        let of = match (self.backend, self.shared_gpu) {
            ("host", _) => format!("{} ranks as threads of the host backend", self.ranks),
            (_, true) => format!("{} ranks that share a GPU, as tests do", self.ranks),
            _ => format!("{} ranks, a GPU each", self.ranks),
        };
        if self.ranks > 0 {
            page.title(&format!("windows: {of}"))?;
            self.windows(&mut page)?;
            page.title("collectives: what runs on the window")?;
            self.collectives(&mut page)?;
        }
        page.title("verdict")?;
        self.verdict(&mut page)
    }

    fn machine(&self, page: &mut Page<impl Write>) -> io::Result<()> {
        let machine = &self.machine;
        page.line(
            "PCI bus",
            format_args!("{} NVIDIA GPUs", machine.nvidia_on_pci),
        )?;
        if let Some(files) = machine.open_files {
            page.line("open files", format_args!("{files} at most"))?;
        }
        let memory = machine.shared_memory.as_deref();
        page.line("/dev/shm", memory.unwrap_or("can be written to"))?;
        for (at, variable) in machine.variables.iter().enumerate() {
            page.line(if at == 0 { "variables" } else { "" }, variable)?;
        }
        Ok(())
    }

    fn windows(&self, page: &mut Page<impl Write>) -> io::Result<()> {
        let groups = &self.windows.found.groups;
        let most = groups.iter().map(|tried| tried.ranks.len()).max();
        let width = 3 * most.unwrap_or_default();
        for tried in groups {
            let ranks = tried.ranks.iter().map(ToString::to_string);
            let ranks = ranks.collect::<Vec<_>>().join(" ");
            let (style, window) = match (tried.window, tried.symmetric && tried.exact) {
                (_, true) => (GOOD, "registered"),
                (true, false) => (NOTE, "registered"),
                (false, _) => (NOTE, "none"),
            };
            let sum = if tried.exact { "" } else { ", WRONG" };
            writeln!(
                page.0,
                "  ranks {ranks:<width$}  {}{:>9.1} ms  a sum is {}{}",
                styled(style, format_args!("{window:<10}")),
                tried.milliseconds,
                tried.path,
                styled(BAD, sum)
            )?;
        }
        trouble(
            page,
            self.windows.error.as_deref(),
            &self.windows.nccl_warnings,
        )
    }

    fn collectives(&self, page: &mut Page<impl Write>) -> io::Result<()> {
        let step = &self.collectives;
        calls(&step.found.calls, page)?;
        if let Some(calibration) = &step.found.calibration {
            let model = match self.backend {
                "host" => " (a made-up model: the host has no time of its own)",
                _ => "",
            };
            page.title(&format!(
                "calibration: microseconds on windows/on the twin{model}"
            ))?;
            times(calibration, &step.found.calls, page)?;
        }
        trouble(page, step.error.as_deref(), &step.nccl_warnings)
    }

    fn verdict(&self, page: &mut Page<impl Write>) -> io::Result<()> {
        for finding in &self.findings {
            let (style, word) = match finding.level {
                Level::Good => (GOOD, "good"),
                Level::Note => (NOTE, "note"),
                Level::Change => (BAD, "CHANGE"),
            };
            writeln!(
                page.0,
                "  {}  {}",
                styled(style, format_args!("{word:<6}")),
                finding.what
            )?;
            if let Some(change) = &finding.change {
                writeln!(page.0, "  {:<6}  -> {change}", "")?;
            }
        }
        match self.ok {
            true => writeln!(page.0, "\n{}", styled(GOOD, "nothing has to be changed")),
            false => writeln!(page.0, "\n{}", styled(BAD, "something has to be changed")),
        }
    }
}

fn trouble(
    page: &mut Page<impl Write>,
    error: Option<&str>,
    warnings: &[String],
) -> io::Result<()> {
    if let Some(error) = error {
        page.line("failed", styled(BAD, error))?;
    }
    warnings
        .iter()
        .try_for_each(|warning| page.line("NCCL warned", warning))
}

fn gpus(found: &Gpus, page: &mut Page<impl Write>) -> io::Result<()> {
    if let Some(why) = &found.missing {
        return page.line("none", why);
    }
    let (driver, cuda) = (found.driver.as_deref(), found.cuda.as_deref());
    let (driver, cuda) = (
        driver.unwrap_or("of an unknown number"),
        cuda.unwrap_or("?"),
    );
    page.line("driver", format_args!("{driver}, for CUDA {cuda}"))?;
    for gpu in &found.gpus {
        let gib = gpu.memory as f64 / (1u64 << 30) as f64;
        let has = |what: &str, has: Option<bool>| match has {
            Some(true) => format!(", {what}"),
            Some(false) => format!(", no {what}"),
            None => String::new(),
        };
        page.line(
            &format!("cuda:{}", gpu.ordinal),
            format_args!(
                "{}, {gib:.0} GiB, sm {}, {}{}{}{}",
                gpu.name,
                gpu.capability,
                gpu.pci.as_deref().unwrap_or("PCI address unknown"),
                gpu.nvlinks
                    .map(|links| format!(", {links} NVLinks up"))
                    .unwrap_or_default(),
                has("cuMem", gpu.cumem),
                has("multicast", gpu.multicast),
            ),
        )?;
    }
    if found.gpus.len() < 2 {
        return Ok(());
    }
    let heads = found
        .gpus
        .iter()
        .map(|to| format!("{:>8}", format!("cuda:{}", to.ordinal)));
    page.line("links", heads.collect::<String>())?;
    for from in &found.gpus {
        let cells = found.gpus.iter().map(|to| {
            let word = match found.way(from.ordinal, to.ordinal) {
                _ if from.ordinal == to.ordinal => "-",
                Some(Way::Nvlink) => "NVLink",
                Some(Way::Pcie) => "PCIe",
                Some(Way::None) => "host",
                None => "?",
            };
            format!("{word:>8}")
        });
        page.line(
            &format!("  cuda:{}", from.ordinal),
            cells.collect::<String>(),
        )?;
    }
    Ok(())
}

fn nccl(found: &Nccl, page: &mut Page<impl Write>) -> io::Result<()> {
    match (&found.version, &found.missing) {
        (Some(version), _) => page.line("version", version)?,
        (None, Some(why)) => page.line("none", why)?,
        (None, None) => page.line("none", "not looked for")?,
    }
    if let Some(path) = &found.path {
        page.line("file", path)?;
    }
    if !found.tried.is_empty() {
        page.line("looked for", found.tried.join(", "))?;
    }
    for (at, defect) in found.defects.iter().enumerate() {
        page.line(if at == 0 { "known defects" } else { "" }, defect.what)?;
        page.line("", styled(DIM, format_args!("here: {}", defect.instead)))?;
    }
    Ok(())
}

/// Calls of one operation and type: a row.
fn rows<T>(all: &[T], key: impl Fn(&T) -> (&str, &str)) -> Vec<Vec<&T>> {
    let mut rows: Vec<Vec<&T>> = Vec::new();
    for one in all {
        match rows.iter_mut().find(|row| key(row[0]) == key(one)) {
            Some(row) => row.push(one),
            None => rows.push(vec![one]),
        }
    }
    rows
}

/// The heads of columns.
fn heads(sizes: impl Iterator<Item = u64>) -> String {
    sizes.map(|bytes| format!("{:>12}", size(bytes))).collect()
}

fn calls(calls: &[Call], page: &mut Page<impl Write>) -> io::Result<()> {
    if calls.is_empty() {
        return Ok(());
    }
    let rows = rows(calls, |call| (&call.operation, &call.types));
    let sizes = heads(rows[0].iter().map(|call| call.bytes as u64));
    writeln!(page.0, "  {:<20}{:<6}{sizes}", "operation", "types")?;
    for row in &rows {
        write!(page.0, "  {:<20}{:<6}", row[0].operation, row[0].types)?;
        let mut why = Vec::new();
        for call in row {
            let (style, word) = match call.path.strip_prefix("plain: ") {
                None => (GOOD, "window"),
                Some(reason) => {
                    if !why.contains(&reason) {
                        why.push(reason);
                    }
                    let faster = call.path == Path::Plain(Reason::Faster).to_string();
                    (DIM, if faster { "twin" } else { "plain" })
                }
            };
            write!(page.0, "{}", styled(style, format_args!("{word:>12}")))?;
        }
        match why.is_empty() {
            true => writeln!(page.0)?,
            false => writeln!(page.0, "  {}", why.join("; "))?,
        }
    }
    if calls.iter().all(|call| call.kernels.is_empty()) {
        return Ok(());
    }
    page.title("their kernels")?;
    for row in &rows {
        let mut names: Vec<(String, Vec<String>)> = Vec::new();
        for call in row {
            let (kernels, bytes) = (call.kernels.join(" "), size(call.bytes as u64));
            match names.last_mut().filter(|(known, _)| *known == kernels) {
                Some((_, sizes)) => sizes.push(bytes),
                None => names.push((kernels, vec![bytes])),
            }
        }
        for (kernels, sizes) in names.iter().filter(|(kernels, _)| !kernels.is_empty()) {
            let sizes = match &sizes[..] {
                [one] => one.clone(),
                many => format!("{} .. {}", many[0], many[many.len() - 1]),
            };
            let name = format!("{} {}", row[0].operation, row[0].types);
            writeln!(page.0, "  {name:<26}{sizes:<18}{kernels}")?;
        }
    }
    Ok(())
}

fn times(calibration: &Calibration, calls: &[Call], page: &mut Page<impl Write>) -> io::Result<()> {
    if calibration.points.is_empty() {
        return page.line(
            "",
            "nothing to choose: no collective takes a symmetric kernel here",
        );
    }
    let mut sizes: Vec<u64> = calls.iter().map(|call| call.bytes as u64).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let heads = heads(sizes.iter().copied());
    writeln!(page.0, "  {:<16}{:<10}{heads}", "operation", "types")?;
    for row in rows(&calibration.points, |point| {
        (&point.operation, &point.types)
    }) {
        write!(page.0, "  {:<16}{:<10}", row[0].operation, row[0].types)?;
        for bytes in &sizes {
            let point = row.iter().find(|point| point.bytes == *bytes);
            let cell = point.map_or_else(String::new, |point| {
                let better = |better: bool| if better { GOOD } else { DIM };
                let [windowed, twin] =
                    [point.windowed_us, point.twin_us].map(|us| format!("{us:.1}"));
                let gap = " ".repeat(12usize.saturating_sub(windowed.len() + 1 + twin.len()));
                let windowed = styled(better(!point.twin), windowed);
                format!("{gap}{windowed}/{}", styled(better(point.twin), twin))
            });
            write!(page.0, "{cell:>12}")?;
        }
        writeln!(page.0)?;
    }
    match (calibration.noisy, calibration.cached) {
        (true, _) => writeln!(page.0, "  noisy: not kept"),
        (false, true) => writeln!(page.0, "  kept: programs start with it"),
        (false, false) => Ok(()),
    }
}
