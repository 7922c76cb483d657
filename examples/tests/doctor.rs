//! The doctor as a program: what it prints, and how it ends.

use std::path::PathBuf;
use std::process::{Command, Output};

use symm_core::Cuda;

/// Cargo builds a package's examples with its tests, beside them.
fn doctor(arguments: &[&str]) -> Output {
    let here = std::env::current_exe().expect("this program");
    let folder: PathBuf = here.ancestors().skip(2).take(1).collect();
    let program = folder.join("examples/doctor");
    Command::new(program)
        .args(arguments)
        .output()
        .expect("the doctor, which cargo test builds and cargo test --test does not")
}

#[test]
fn machines_read_json() {
    let output = doctor(&["--backend", "host", "--ranks", "3", "--quick", "--json"]);
    assert!(output.status.success());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&json["ok"], &json["ranks"]), (&true.into(), &3.into()));
    assert_eq!(json["windows"]["groups"].as_array().map(Vec::len), Some(4));
    assert!(json["collectives"]["calibration"].is_null());
}

#[test]
fn people_read_text_without_colours_where_there_is_no_terminal() {
    let output = doctor(&["--backend", "host", "--quick"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success() && !text.contains('\x1b'), "{text}");
    for section in ["machine", "GPUs", "NCCL", "verdict"] {
        assert!(text.lines().any(|line| line == section), "{text}");
    }
}

#[test]
fn gpus_that_were_asked_for_and_are_missing_have_to_be_mended() {
    if Cuda::probe().usable().is_ok() {
        println!("SKIP: there are GPUs here");
        return;
    }
    let output = doctor(&["--backend", "cuda"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("CHANGE") && text.contains("-> "), "{text}");
    // The process of a step says so too, and does not crash.
    let output = doctor(&["--step", "collectives", "--ranks", "2"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(
        output.status.code() == Some(1) && text.starts_with("@doctor {\"failed\":"),
        "{text}"
    );
}
