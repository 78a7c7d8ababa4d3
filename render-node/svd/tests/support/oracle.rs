//! Runs the programs of `oracle/` in the Python environment that `make setup` prepares.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tch::Tensor;

pub(crate) type Tensors = BTreeMap<String, Tensor>;

/// Runs `oracle/<program>` on a case and returns its tensors.
///
/// Panics, so that the test fails, when the oracle is not set up or does not answer.
pub(crate) fn ask(program: &str, case: &Value, inputs: &[(&str, &Tensor)]) -> Tensors {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    fs::write(file("case.json"), case.to_string()).unwrap();
    // A file without tensors has no place for a header in this writer.
    let nothing = Tensor::zeros([1], (tch::Kind::Float, tch::Device::Cpu));
    let inputs = if inputs.is_empty() {
        &[("none", &nothing)]
    } else {
        inputs
    };
    Tensor::write_safetensors(inputs, file("inputs.safetensors")).unwrap();

    let output = Command::new(python())
        .arg(here("oracle").join(program))
        .args([
            file("case.json"),
            file("inputs.safetensors"),
            file("outputs.safetensors"),
        ])
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .expect("the oracle's python must start");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} failed:\n{stderr}");
    let tensors = Tensor::read_safetensors(file("outputs.safetensors")).unwrap();
    tensors.into_iter().collect()
}

pub(crate) fn python() -> PathBuf {
    let python = here("../../.oracle/bin/python");
    assert!(
        python.exists(),
        "the Python oracle is missing: run `make setup`"
    );
    python
}

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
