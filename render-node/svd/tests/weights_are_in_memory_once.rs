//! Goal: a model takes its size in memory and not twice that, whether its files hold the wanted precision or another one.
//! Method: the program's own figure of its peak, with a model of 300 MB as f32, less the peak with a model of next to nothing:
//! what is left are weights and the little that a job of 64x64 pixels adds.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::Path;

use flowai_model::safetensors::Dtype as FileDtype;
use flowai_model::{Preset, synthetic};
use serde_json::{Value, json};
use support::inputs;
use support::program::Animate;

/// Between once and, in the best of the wrong cases, once and a half: files of half the precision that stay in memory.
const TIMES_MAX: f64 = 1.3;

/// The most memory the program ever had, and the size of the model's files.
fn peak_and_size(dir: &Path, preset: Preset, dtype: FileDtype) -> (f64, f64) {
    let model = dir.join(format!("{preset} {dtype:?}"));
    synthetic::write_model(&model, &preset.config(), 0, dtype).unwrap();
    let image = inputs::write_picture(dir, 64, 64);
    let animate = Animate {
        model: &model,
        image: &image,
        dir,
    };
    let spec = json!({ "height": 64, "width": 64, "frames": 1, "steps": 1, "threads": 1 });
    let output = animate.output(&spec, &["--out", "frames"]);
    let said = String::from_utf8(output.stderr).unwrap();
    let figures: Value = serde_json::from_str(said.lines().next_back().unwrap()).unwrap();
    let peak = figures["peak_memory_bytes"].as_f64().unwrap();

    let folders = ["unet", "vae", "image_encoder"].map(|folder| model.join(folder));
    let files = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap());
    let sizes = files.map(|file| file.unwrap().metadata().unwrap().len() as f64);
    (peak, sizes.sum())
}

#[test]
fn weights_are_in_memory_once() {
    let dir = tempfile::tempdir().unwrap();
    let (peak_of_little, little) = peak_and_size(dir.path(), Preset::Tiny, FileDtype::F32);
    // In memory the weights are f32 always.
    for (dtype, growth) in [(FileDtype::F32, 1.0), (FileDtype::F16, 2.0)] {
        let (peak, size) = peak_and_size(dir.path(), Preset::Middle, dtype);
        let weights = size * growth - little;
        let times = (peak - peak_of_little) / weights;
        println!("{dtype:?}: weights {weights:.3e}, in memory {times:.2} times");
        assert!(weights > 200e6, "too small to tell: {weights}");
        assert!(times < TIMES_MAX, "{dtype:?}: {times:.2} times the weights");
    }
}
