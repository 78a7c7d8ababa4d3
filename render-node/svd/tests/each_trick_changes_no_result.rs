//! Goal: a trick that is called exact gives what the reference's computation gives, at every place where it is used.
//! Method: `flowai-svd ablate` computes each in both ways on one model and tells the largest difference.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::process::Command;

use flowai_model::Preset;
use serde_json::{Value, json};
use support::models::Model;

/// Of the largest value: layers may differ by 1e-5, whole models by ten times as much.
const DIFFERENCE_MAX: f64 = 1e-5;

#[test]
fn on_maps_of_odd_sizes() {
    let model = Model::write(&Preset::Tiny.config(), 71);
    let dir = model.scratch();
    let spec = json!({ "height": 24, "width": 40, "frames": 3, "threads": 1 });
    fs::write(dir.join("spec.json"), spec.to_string()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_flowai-svd"))
        .current_dir(dir)
        .args([
            "ablate",
            "--spec",
            "spec.json",
            "--rounds",
            "1",
            "--out",
            "figures.json",
            "--model",
        ])
        .arg(model.path())
        .output()
        .expect("the program must start");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");

    let report: Value =
        serde_json::from_slice(&fs::read(dir.join("figures.json")).unwrap()).unwrap();
    let wins = report["wins"].as_array().unwrap();
    assert_eq!(wins.len(), 10);
    for win in wins {
        let difference = win["difference"].as_f64().unwrap();
        assert!(difference < DIFFERENCE_MAX, "{win}");
        assert!(win["places"].as_u64().unwrap() > 0, "{win}");
        for side in ["plain", "ours"] {
            assert_eq!(win[side]["cpu_ms"].as_array().unwrap().len(), 1, "{win}");
        }
    }
}
