//! Goal: a folder of Stable Diffusion is offered only when it is whole, whatever its age, and its name depends on every byte
//! that the engine reads.
//! Method: write a random model, damage or rearrange it in one way, look again.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use flowai_model::inventory::stable_diffusion::StableDiffusionComponent;
use flowai_model::safetensors::Dtype;
use flowai_model::{
    AnyModelFolder, FolderError, KeyframePreset, Preset, StableDiffusionFolder, WeightsError,
    synthetic,
};
use safetensors::tensor::TensorView;
use tempfile::TempDir;

const TEXT_WEIGHTS: &str = "text_encoder/model.safetensors";

fn dummy_model() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = KeyframePreset::Dummy.config();
    synthetic::write_stable_diffusion(dir.path(), &config, 1, Dtype::F16).unwrap();
    dir
}

/// Rewrites the text encoder's weights with `name` for every name, and position ids beside them.
fn rename(dir: &Path, name: impl Fn(&str) -> String) {
    let path = dir.join(TEXT_WEIGHTS);
    let bytes = fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let ids = [0; 16];
    let ids = TensorView::new(safetensors::Dtype::I64, vec![1, 2], &ids).unwrap();
    let position_ids = (name("text_model.embeddings.position_ids"), ids);
    let tensors = file.iter().map(|(old, view)| (name(old), view));
    safetensors::serialize_to_file(tensors.chain([position_ids]), None, &path).unwrap();
}

#[test]
fn every_tensor_of_a_whole_folder_is_there() {
    let dir = dummy_model();
    let folder = StableDiffusionFolder::check(dir.path()).unwrap();
    assert_eq!(folder.config, KeyframePreset::Dummy.config());
    assert_eq!(folder.dir(), dir.path());
    for (part, weights) in [
        (StableDiffusionComponent::Unet, &folder.unet),
        (StableDiffusionComponent::Vae, &folder.vae),
        (StableDiffusionComponent::TextEncoder, &folder.text_encoder),
    ] {
        let inventory = part.inventory(&folder.config);
        assert_eq!(weights.iter().count(), inventory.len());
        for spec in inventory {
            assert_eq!(
                weights.get(&spec.name).unwrap().shape,
                spec.shape,
                "{}",
                spec.name
            );
        }
    }
}

#[test]
fn text_encoders_of_any_age_are_read() {
    let expected = || {
        let dir = dummy_model();
        let folder = StableDiffusionFolder::check(dir.path()).unwrap();
        let tensors = folder.text_encoder.iter();
        tensors
            .map(|(name, view)| (name.to_owned(), view.data.to_vec()))
            .collect::<Vec<_>>()
    };
    let namings: [fn(&str) -> String; 2] = [str::to_owned, |name| {
        name.trim_start_matches("text_model.").to_owned()
    }];
    for naming in namings {
        let dir = dummy_model();
        rename(dir.path(), naming);
        let folder = StableDiffusionFolder::check(dir.path()).unwrap();
        let tensors = folder.text_encoder.iter();
        let found: Vec<_> = tensors
            .map(|(name, view)| (name.to_owned(), view.data.to_vec()))
            .collect();
        assert!(found == expected());
    }
}

#[test]
fn a_missing_file_is_named() {
    for (file, _) in KeyframePreset::Dummy.config().to_files() {
        let dir = dummy_model();
        fs::remove_file(dir.path().join(file)).unwrap();
        let error = StableDiffusionFolder::check(dir.path()).unwrap_err();
        let is_named = error.to_string().contains(file);
        assert!(
            matches!(error, FolderError::Config(_)) && is_named,
            "{error}"
        );
    }
    for part in StableDiffusionComponent::ALL {
        let dir = dummy_model();
        let layout = part.layout();
        let file = format!("{}/{}.safetensors", layout.dir, layout.stem);
        fs::remove_file(dir.path().join(file)).unwrap();
        let error = StableDiffusionFolder::check(dir.path()).unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(error, FolderError::Weights(WeightsError::Missing { .. })),
            "{text}"
        );
        assert!(
            text.contains(layout.dir) && text.contains(layout.stem),
            "{text}"
        );
    }
}

#[test]
fn tensors_that_do_not_fit_are_listed() {
    let dir = dummy_model();
    rename(dir.path(), |name| {
        name.replace("final_layer_norm", "last_norm")
    });
    let text = StableDiffusionFolder::check(dir.path())
        .unwrap_err()
        .to_string();
    for part in [
        "text_encoder: weights do not fit",
        "text_model.final_layer_norm.weight is missing",
        "\"text_model.last_norm.bias\" is unknown",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn the_name_depends_on_every_file_that_is_read() {
    let dir = dummy_model();
    let identify = || {
        let folder = StableDiffusionFolder::check(dir.path()).unwrap();
        folder.identify().unwrap().sha256
    };
    let mut names = vec![identify()];
    // Each change leaves a model that is whole.
    let path = |file: &str| dir.path().join(file);
    for file in [
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
    ] {
        let text = fs::read_to_string(path(file)).unwrap();
        fs::write(path(file), format!("{text}\n")).unwrap();
        names.push(identify());
    }
    fs::write(path("tokenizer/special_tokens_map.json"), "{}").unwrap();
    names.push(identify());
    rename(dir.path(), str::to_owned);
    names.push(identify());
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);

    let before = identify();
    fs::write(path("README.md"), "licence").unwrap();
    assert_eq!(identify(), before);
}

#[test]
fn a_folder_is_what_its_index_says() {
    let keyframe = dummy_model();
    let video = tempfile::tempdir().unwrap();
    let config = Preset::Dummy.config();
    synthetic::write_model(video.path(), &config, 1, Dtype::F16).unwrap();
    let read = |dir: &TempDir| AnyModelFolder::check(dir.path());
    let is_keyframe = |dir| matches!(read(dir).unwrap(), AnyModelFolder::StableDiffusion(_));
    assert!(is_keyframe(&keyframe));
    assert!(!is_keyframe(&video));
    let folder = StableDiffusionFolder::check(keyframe.path()).unwrap();
    let identity = folder.identify().unwrap();
    assert_eq!(read(&keyframe).unwrap().identify().unwrap(), identity);

    let index = keyframe.path().join("model_index.json");
    fs::write(&index, r#"{"_class_name": "FluxPipeline"}"#).unwrap();
    let text = read(&keyframe).unwrap_err().to_string();
    for part in [
        "model_index.json",
        "FluxPipeline",
        "StableDiffusionPipeline",
        "StableVideoDiffusionPipeline",
    ] {
        assert!(text.contains(part), "{text}");
    }
}
