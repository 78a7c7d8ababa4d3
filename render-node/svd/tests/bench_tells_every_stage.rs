//! Goal: one command says where a clip's time goes on a device, and leaves a case that others can be timed on.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use serde_json::Value;

#[test]
fn bench_tells_every_stage() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Command::new(env!("CARGO_BIN_EXE_flowai-svd"));
    bench.arg("bench").arg("--dir").arg(folder.path());
    bench.args([
        "--preset", "tiny", "--frames", "8", "--width", "64", "--height", "64",
    ]);
    bench.args(["--steps", "3", "--threads", "1"]);
    let run = bench.output().unwrap();
    let (table, figures) = (
        String::from_utf8(run.stdout).unwrap(),
        String::from_utf8(run.stderr).unwrap(),
    );
    assert!(run.status.success(), "{figures}");
    for stage in [
        "| load |",
        "| CLIP |",
        "| VAE encode |",
        "| step with guidance |",
        "| preview |",
        "| decode, 8 frames at a time |",
        "| taken up again, equal bits | yes |",
        "\n  switch ",
    ] {
        assert!(table.contains(stage), "{stage:?} is not in {table}");
    }
    let figures: Value = serde_json::from_str(figures.lines().next().unwrap()).unwrap();
    assert_eq!(figures["steps_s"].as_array().unwrap().len(), 3);
    assert!(figures["steps_s"][0].as_f64().unwrap() > 0.0);
    for file in ["model/model_index.json", "first.png", "spec.json"] {
        assert!(folder.path().join(file).is_file(), "{file}");
    }
}
