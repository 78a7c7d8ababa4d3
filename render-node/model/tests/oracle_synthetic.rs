//! Goal: a random model folder is one to the reference too, and Rust and Python make the same bits from a name.
//! Method: write folders, load them with the reference pipeline, compare every parameter with the Python twin's.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod oracle;

use std::collections::BTreeMap;

use flowai_model::inventory::Component;
use flowai_model::safetensors::Dtype;
use flowai_model::{ModelFolder, Preset, synthetic};

fn check(preset: Preset, seed: u64, dtype: Dtype, torch_dtype: &str) {
    let dir = tempfile::tempdir().unwrap();
    synthetic::write_model(dir.path(), &preset.config(), seed, dtype).unwrap();
    ModelFolder::check(dir.path()).unwrap();

    let arguments = [
        dir.path().to_str().unwrap().to_owned(),
        seed.to_string(),
        torch_dtype.to_owned(),
    ];
    let compared: BTreeMap<String, usize> =
        serde_json::from_str(&oracle::run("load_model.py", arguments)).unwrap();
    for component in Component::ALL {
        let inventory = component.inventory(&preset.config());
        assert_eq!(
            compared.get(component.dir()),
            Some(&inventory.len()),
            "{preset} {component:?}"
        );
    }
}

#[test]
fn dummy_model_is_the_references_bit_for_bit() {
    check(Preset::Dummy, 0, Dtype::F32, "float32");
}

#[test]
fn tiny_model_in_halves_is_the_references_bit_for_bit() {
    check(
        Preset::Tiny,
        1_234_567_890_123_456_789,
        Dtype::F16,
        "float16",
    );
}

#[test]
fn middle_model_in_bfloat16_is_the_references_bit_for_bit() {
    check(Preset::Middle, u64::MAX, Dtype::Bf16, "bfloat16");
}
