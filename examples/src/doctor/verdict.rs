//! What it all means, and what to change.

use super::gpus::Way;
use super::report::{Finding, Level, Report};

/// The version that this crate is developed with.
const REFERENCE: u32 = 23_007;
/// From here on a kernel on a window can be stopped when a peer is lost.
const RELEASES: u32 = 22_907;
/// A communicator of many ranks needs more open files than this.
const FEW_FILES: u64 = 1024;
/// Settings that take windows away, and the value that does.
const SWITCHES: [(&str, &str); 3] = [
    ("NCCL_CUMEM_ENABLE", "0"),
    ("NCCL_WIN_ENABLE", "0"),
    ("NCCL_P2P_DISABLE", "1"),
];

/// Collects findings.
#[derive(Default)]
struct Verdict(Vec<Finding>);

impl Verdict {
    fn add(&mut self, level: Level, what: impl Into<String>, change: Option<&str>) {
        self.0.push(Finding {
            level,
            what: what.into(),
            change: change.map(str::to_owned),
        });
    }
}

/// The findings, the worst first.
pub(super) fn of(report: &Report, wanted_gpus: bool) -> Vec<Finding> {
    let mut verdict = Verdict::default();
    machine(report, &mut verdict, wanted_gpus);
    if report.backend == "cuda" {
        nccl(report, &mut verdict);
        links(report, &mut verdict);
        settings(report, &mut verdict);
    }
    windows(report, &mut verdict);
    collectives(report, &mut verdict);
    let mut findings = verdict.0;
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    findings
}

fn machine(report: &Report, verdict: &mut Verdict, wanted_gpus: bool) {
    let (machine, gpus) = (&report.machine, &report.gpus);
    match (&gpus.missing, gpus.gpus.len()) {
        (None, 1) => verdict.add(
            Level::Note,
            "there is one GPU: groups have one rank, and symmetric memory is of no use to them",
            None,
        ),
        (None, count) => verdict.add(Level::Good, format!("{count} GPUs"), None),
        (Some(why), _) if machine.nvidia_on_pci > 0 && report.backend == "cuda" => verdict.add(
            Level::Change,
            format!(
                "{} NVIDIA GPUs are on the PCI bus, but cannot be used: {why}",
                machine.nvidia_on_pci
            ),
            Some("install NVIDIA's driver, or give the container access to it (--gpus all)"),
        ),
        (Some(why), _) if wanted_gpus => verdict.add(
            Level::Change,
            format!("no GPU can be used: {why}"),
            Some("run it on a machine with NVIDIA GPUs, or with --backend host"),
        ),
        (Some(_), _) => verdict.add(
            Level::Note,
            "there is no NVIDIA GPU here: ranks run as threads on the host backend, with real data",
            None,
        ),
    }
    if report.backend == "host" && gpus.missing.is_none() {
        verdict.add(
            Level::Note,
            "the host backend was looked at, not the GPUs",
            None,
        );
    }
    if let Some(why) = &machine.shared_memory {
        verdict.add(
            Level::Change,
            format!("/dev/shm cannot be written to: {why}"),
            Some("mount a tmpfs there (docker: --shm-size=1g, --ipc=host): ranks that are processes meet in it"),
        );
    }
    let few = machine.open_files.filter(|files| *files < FEW_FILES);
    if let (Some(files), "cuda") = (few, report.backend) {
        verdict.add(
            Level::Change,
            format!("a process may open {files} files only, and NCCL waits for ever where it runs out of them"),
            Some("ulimit -n 65536"),
        );
    }
}

fn nccl(report: &Report, verdict: &mut Verdict) {
    let nccl = &report.nccl;
    let version = nccl.version.as_deref().unwrap_or_default();
    if let Some(why) = &nccl.missing {
        verdict.add(
            Level::Change,
            why.clone(),
            Some("install NCCL 2.30.7 (pip install nvidia-nccl-cu12, or NVIDIA's package libnccl2), and set SYMM_NCCL_PATH to libnccl.so.2 or its folder"),
        );
        return;
    }
    match nccl.code {
        Some(code) if code < RELEASES => verdict.add(
            Level::Note,
            format!("NCCL {version} cannot stop a kernel on a window when a peer is lost: collectives on windows wait for all ranks on the host first"),
            Some("take NCCL 2.29.7 or later; 2.30.7 is the reference"),
        ),
        Some(code) if code < REFERENCE => verdict.add(
            Level::Note,
            format!("NCCL {version} works; 2.30.7 is the reference"),
            None,
        ),
        _ => verdict.add(Level::Good, format!("NCCL {version}"), None),
    }
}

fn links(report: &Report, verdict: &mut Verdict) {
    let gpus = &report.gpus;
    if let Some(gpu) = gpus.gpus.iter().find(|gpu| gpu.cumem == Some(false)) {
        verdict.add(
            Level::Change,
            format!("cuda:{} cannot map and share memory piece by piece (cuMem), so there are no windows", gpu.ordinal),
            Some("take a newer driver; in a virtual machine, one that passes the GPU through whole"),
        );
    }
    if gpus.gpus.len() < 2 {
        return;
    }
    let reach = |way| gpus.links.iter().filter(|link| link.way == way).count();
    match (gpus.all_nvlink(), reach(Way::None)) {
        (true, _) => verdict.add(Level::Good, "each pair of GPUs is joined by NVLink", None),
        (false, 0) => verdict.add(
            Level::Note,
            "some pairs of GPUs are joined by PCIe alone: symmetric kernels need one NVLink domain, so groups across them are plain",
            Some("where the machine has NVLink between some, put ranks of one group on those (CUDA_VISIBLE_DEVICES)"),
        ),
        (false, _) => verdict.add(
            Level::Note,
            "some pairs of GPUs reach each other through the host alone: groups across them have no windows",
            Some("see whether the BIOS (ACS, IOMMU) or the virtual machine forbids peer access"),
        ),
    }
}

fn settings(report: &Report, verdict: &mut Verdict) {
    for (name, value) in SWITCHES {
        if report.machine.variable(name) == Some(value) {
            verdict.add(
                Level::Change,
                format!("{name}={value} switches symmetric memory off"),
                Some(&format!("unset {name}")),
            );
        }
    }
}

fn windows(report: &Report, verdict: &mut Verdict) {
    let step = &report.windows;
    if let Some(error) = &step.error {
        verdict.add(
            Level::Change,
            format!("registering windows failed: {error}"),
            Some("see what NCCL warned of above; NCCL_DEBUG=INFO says more"),
        );
    }
    let tried = &step.found.groups;
    if let Some(wrong) = tried.iter().find(|tried| !tried.exact) {
        verdict.add(
            Level::Change,
            format!("a sum over ranks {:?} was wrong", wrong.ranks),
            Some("do not use this machine before nvidia-smi, dcgmi diag -r 3 and another NCCL have been tried"),
        );
    }
    let of_several: Vec<_> = tried.iter().filter(|tried| tried.ranks.len() > 1).collect();
    let without: Vec<_> = of_several.iter().filter(|tried| !tried.symmetric).collect();
    if let [first, ..] = &without[..] {
        let what = format!(
            "{} of {} groups take no symmetric kernels; ranks {:?}: {}",
            without.len(),
            of_several.len(),
            first.ranks,
            first.path
        );
        // Where the links are there, something takes them away.
        match report.gpus.all_nvlink() && report.backend == "cuda" && !report.shared_gpu {
            true => verdict.add(
                Level::Change,
                what,
                Some("unset NCCL_* settings one by one; in containers, all ranks need the same /dev/shm, network and process namespace"),
            ),
            false => verdict.add(Level::Note, what, None),
        }
    } else if !of_several.is_empty() && step.error.is_none() {
        let what =
            "windows register, and sums on them take symmetric kernels, in every pair and in all";
        verdict.add(Level::Good, what, None);
    }
}

fn collectives(report: &Report, verdict: &mut Verdict) {
    let step = &report.collectives;
    // What keeps windows from being is said once.
    if let Some(error) = step
        .error
        .as_ref()
        .filter(|_| step.error != report.windows.error)
    {
        verdict.add(
            Level::Change,
            format!("the collectives failed: {error}"),
            Some("see what NCCL warned of above; NCCL_DEBUG=INFO says more"),
        );
    }
    let Some(found) = &step.found.calibration else {
        return;
    };
    let twin = found.points.iter().filter(|point| point.twin).count();
    if found.noisy {
        verdict.add(
            Level::Note,
            "the calibration was noisy, so it was not kept",
            Some("run it again while the GPUs do nothing else"),
        );
    }
    if twin > 0 && report.backend == "cuda" {
        let what = format!(
            "{twin} of {} measured sizes are faster without the window",
            found.points.len()
        );
        let off = report.machine.variable("SYMM_TUNED") == Some("0");
        match (found.cached, off) {
            (true, false) => verdict.add(
                Level::Good,
                format!("{what}: programs start with what was measured"),
                None,
            ),
            (true, true) => verdict.add(
                Level::Note,
                format!("{what}, but SYMM_TUNED=0 keeps programs from starting with what was measured"),
                Some("unset SYMM_TUNED"),
            ),
            (false, _) => verdict.add(
                Level::Note,
                format!("{what}, but what was measured could not be kept for the next start"),
                Some("see that SYMM_CACHE_DIR (or ~/.cache) can be written to, or call Group::calibrate at the start"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::gpus::{Gpu, Gpus, Link};
    use super::super::machine::Machine;
    use super::super::report::Nccl;
    use super::super::step::Step;
    use super::super::windows::{Tried, Windows};
    use super::*;

    /// Two GPUs by NVLink, all well.
    fn healthy() -> Report {
        let gpu = |ordinal| Gpu {
            ordinal,
            cumem: Some(true),
            ..Gpu::default()
        };
        let link = |from, to| Link {
            from,
            to,
            way: Way::Nvlink,
        };
        let tried = Tried {
            ranks: vec![0, 1],
            window: true,
            milliseconds: 5.0,
            path: "symmetric".into(),
            symmetric: true,
            exact: true,
        };
        Report {
            backend: "cuda",
            ranks: 2,
            shared_gpu: false,
            machine: Machine {
                nvidia_on_pci: 2,
                open_files: Some(65_536),
                ..Machine::default()
            },
            gpus: Gpus {
                gpus: vec![gpu(0), gpu(1)],
                links: vec![link(0, 1), link(1, 0)],
                ..Gpus::default()
            },
            nccl: Nccl {
                version: Some("2.30.7".into()),
                code: Some(23_007),
                ..Nccl::default()
            },
            windows: Step {
                found: Windows {
                    groups: vec![tried],
                },
                ..Step::default()
            },
            collectives: Step::default(),
            findings: Vec::new(),
            ok: false,
        }
    }

    /// What has to be changed.
    fn changes(report: &Report) -> Vec<String> {
        let findings = of(report, false).into_iter();
        let changes = findings.filter(|finding| finding.level == Level::Change);
        changes.map(|finding| finding.what).collect()
    }

    #[track_caller]
    fn one_change(spoil: impl FnOnce(&mut Report), says: &str) {
        let mut report = healthy();
        spoil(&mut report);
        let changes = changes(&report);
        assert!(
            matches!(&changes[..], [one] if one.contains(says)),
            "{changes:?}"
        );
    }

    #[test]
    fn a_healthy_machine_needs_no_change() {
        assert_eq!(changes(&healthy()), [""; 0]);
    }

    #[test]
    fn each_trouble_is_named() {
        one_change(|r| r.machine.open_files = Some(256), "256 files");
        one_change(
            |r| r.machine.shared_memory = Some("read-only".into()),
            "/dev/shm",
        );
        one_change(
            |r| r.machine.variables = vec!["NCCL_WIN_ENABLE=0".into()],
            "NCCL_WIN_ENABLE=0",
        );
        one_change(|r| r.nccl.missing = Some("no libnccl".into()), "no libnccl");
        one_change(|r| r.gpus.gpus[1].cumem = Some(false), "cuda:1");
        one_change(|r| r.gpus.missing = Some("code 803".into()), "code 803");
        one_change(
            |r| r.windows.error = Some("signal: 11".into()),
            "signal: 11",
        );
        one_change(|r| r.collectives.error = Some("stuck".into()), "stuck");
        one_change(|r| r.windows.found.groups[0].exact = false, "was wrong");
        one_change(
            |r| r.windows.found.groups[0].symmetric = false,
            "no symmetric kernels",
        );
    }

    #[test]
    fn what_the_machine_cannot_have_is_a_note() {
        let mut report = healthy();
        report.windows.found.groups[0].symmetric = false;
        report.gpus.links[0].way = Way::Pcie;
        assert_eq!(changes(&report), [""; 0]);
        let mut old = healthy();
        old.nccl.code = Some(22_803);
        assert_eq!(changes(&old), [""; 0]);
        assert!(
            of(&old, false)
                .iter()
                .any(|finding| finding.what.contains("cannot stop"))
        );
    }
}
