//! Goal: a random model folder is one to the reference too, and Rust and Python make the same bits from a name.
//! Method: write folders, load them with the reference pipeline, compare every parameter with the Python twin's.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod oracle;

use std::collections::BTreeMap;

use flowai_model::inventory::Component;
use flowai_model::inventory::stable_diffusion::StableDiffusionComponent;
use flowai_model::safetensors::Dtype;
use flowai_model::{
    KeyframePreset, ModelFolder, Preset, StableDiffusionFolder, Weights, synthetic,
};

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

/// Also files that transformers saved, whose names lack the prefix of published ones, are one model.
#[test]
fn keyframe_models_are_the_references_bit_for_bit() {
    for (preset, dtype, torch_dtype) in [
        (KeyframePreset::Dummy, Dtype::F32, "float32"),
        (KeyframePreset::Tiny, Dtype::F16, "float16"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (model, saved) = (dir.path().join("model"), dir.path().join("saved"));
        synthetic::write_stable_diffusion(&model, &preset.config(), 3, dtype).unwrap();
        let folder = StableDiffusionFolder::check(&model).unwrap();

        let arguments = [
            model.to_str().unwrap(),
            "3",
            torch_dtype,
            saved.to_str().unwrap(),
        ];
        let output = oracle::run("load_stable_diffusion.py", arguments);
        let compared: BTreeMap<String, usize> = serde_json::from_str(&output).unwrap();
        for part in StableDiffusionComponent::ALL {
            let count = part.inventory(&preset.config()).len();
            assert_eq!(compared.get(part.layout().dir), Some(&count), "{part:?}");
        }

        // Its vocabulary is one file then.
        assert!(!saved.join("tokenizer/vocab.json").exists());
        let saved = StableDiffusionFolder::check(&saved).unwrap();
        let (ours, theirs) = (&folder.config, &saved.config);
        assert_eq!(ours.tokenizer, theirs.tokenizer);
        assert_eq!(ours.text_encoder, theirs.text_encoder);
        assert_eq!((&ours.unet, &ours.vae), (&theirs.unet, &theirs.vae));
        for (ours, theirs) in [
            (&folder.unet, &saved.unet),
            (&folder.vae, &saved.vae),
            (&folder.text_encoder, &saved.text_encoder),
        ] {
            let content = |weights: &Weights| -> BTreeMap<String, Vec<u8>> {
                let tensors = weights.iter();
                tensors
                    .map(|(name, view)| (name.to_owned(), view.data.to_vec()))
                    .collect()
            };
            assert!(content(ours) == content(theirs));
        }
    }
}
