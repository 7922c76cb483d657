//! The benches of the device binary run without a GPU, and keep what they print.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Runs the bench with `$OUT` in a folder of its own; returns what it kept there.
fn bench(name: &str, arguments: &str) -> (Output, Vec<Value>) {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&out);
    fs::create_dir_all(&out).expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_device"))
        .args(["host", "bench"])
        .args(arguments.split(' '))
        .env("OUT", &out)
        .output()
        .expect("the device binary");
    let files: Vec<PathBuf> = fs::read_dir(&out)
        .expect("the folder")
        .map(|file| file.expect("a file").path())
        .collect();
    let lines = files.iter().flat_map(|file| {
        let text = fs::read_to_string(file).expect("text");
        let rows = text.lines().map(serde_json::from_str);
        rows.collect::<Result<Vec<Value>, _>>().expect("JSON lines")
    });
    (output, lines.collect())
}

/// What it printed; it must have ended well.
fn printed(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}{errors}", output.status);
    text
}

fn positive(figure: &Value) -> bool {
    figure
        .as_f64()
        .is_some_and(|figure| figure.is_finite() && figure > 0.0)
}

#[test]
fn collectives_have_a_row_for_each_size_and_their_means_last() {
    let (output, rows) = bench(
        "collectives",
        "collectives threads 2 ops=all_gather,all_reduce from=1K to=4K repeats=2",
    );
    let text = printed(&output);
    let sizes = |operation: &str| -> Vec<u64> {
        let rows = rows.iter().filter(|row| row["operation"] == operation);
        rows.filter_map(|row| row["bytes"].as_u64()).collect()
    };
    assert_eq!(sizes("all_gather"), [1024, 2048, 4096]);
    assert_eq!(sizes("all_reduce"), [1024, 2048, 4096]);
    assert!(sizes("reduce_scatter").is_empty());
    for row in &rows[..6] {
        assert_eq!(
            (&row["path"], &row["ranks"]),
            (&"symmetric".into(), &2.into())
        );
        let figures = [
            &row["ratio"],
            &row["noise"],
            &row["device_us"]["ours"],
            &row["host_ns"]["ordinary"],
        ];
        assert!(figures.into_iter().all(positive), "{row}");
    }
    let last = rows.last().expect("the means");
    assert!(
        positive(&last["geometric_means"]["all_gather"]["ratio"]),
        "{last}"
    );
    let tables = [
        "all_gather of bf16",
        "all_reduce of bf16",
        "geometric means",
    ];
    let places: Vec<_> = tables.iter().map(|table| text.find(table)).collect();
    assert!(places.is_sorted() && places[0].is_some(), "{text}");
}

#[test]
fn ranks_as_processes_print_once() {
    let (output, rows) = bench(
        "processes",
        "collectives processes 2 ops=reduce_scatter from=2K to=2K repeats=2",
    );
    let text = printed(&output);
    assert_eq!(text.matches("reduce_scatter of bf16").count(), 1, "{text}");
    assert_eq!((rows.len(), &rows[0]["launch"]), (2, &"processes".into()));
}

#[test]
fn starts_and_scopes_are_timed() {
    let (output, rows) = bench("start", "start threads 2 to=16M repeats=2");
    assert!(printed(&output).contains("16 MiB with windows in two groups"));
    assert!(positive(&rows[0]["median_ms"]), "{rows:?}");
    let (output, rows) = bench("scopes", "scopes threads 1 repeats=1");
    printed(&output);
    let segments: Vec<_> = rows.iter().map(|row| row["segments"].as_u64()).collect();
    assert_eq!(segments, [Some(1), Some(25), Some(100)]);
    assert!(
        rows.iter()
            .all(|row| positive(&row["scope_with_buffer_ns"]))
    );
}

#[test]
fn what_is_no_bench_is_told_how_to_ask() {
    let (output, rows) = bench("none", "collectives threads 2 size=1K");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), rows.len()), (Some(2), 0));
    assert!(told.contains("[from=BYTES]"), "{told}");
}
