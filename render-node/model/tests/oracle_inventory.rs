//! Goal: the inventory names exactly the tensors that the reference builds from the same configs.
//! Method: write configs, let diffusers and transformers build the modules without memory, compare names and shapes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod oracle;

use std::collections::BTreeMap;
use std::path::Path;

use flowai_model::config::stable_diffusion::{StableDiffusionConfig, Unet2dLevel};
use flowai_model::config::{ModelConfig, UnetLevel};
use flowai_model::inventory::Component;
use flowai_model::inventory::stable_diffusion::StableDiffusionComponent;
use flowai_model::{KeyframePreset, Preset};

type Shapes = BTreeMap<String, Vec<usize>>;

/// Three levels that differ in everything that may differ between levels.
fn uneven_levels() -> ModelConfig {
    let mut config = Preset::Dummy.config();
    config.unet.levels = [(32, 1, 2, 1), (64, 3, 4, 2), (96, 2, 8, 1)]
        .map(|(channels, layers, heads, transformer_layers)| UnetLevel {
            channels,
            layers,
            heads,
            cross_attention_dim: 32,
            transformer_layers,
        })
        .to_vec();
    config.unet.down_attention = vec![false, true, true];
    config.unet.up_attention = vec![true, false, true];
    config.vae.block_out_channels = vec![32, 96, 64];
    config.vae.layers_per_block = 3;
    config
}

/// No resampling at all.
fn one_level() -> ModelConfig {
    let mut config = Preset::Dummy.config();
    config.unet.levels.truncate(1);
    config.unet.down_attention = vec![true];
    config.unet.up_attention = vec![true];
    config.vae.block_out_channels = vec![32];
    config
}

fn write(config: &ModelConfig, dir: &Path) {
    for (path, json) in config.to_files() {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, json.to_string()).unwrap();
    }
}

#[test]
fn inventory_is_the_state_dict_of_the_reference() {
    let mut configs: Vec<(String, ModelConfig)> = Preset::ALL
        .map(|preset| (preset.to_string(), preset.config()))
        .to_vec();
    configs.push(("uneven".into(), uneven_levels()));
    configs.push(("one-level".into(), one_level()));

    let root = tempfile::tempdir().unwrap();
    let dirs: Vec<_> = configs
        .iter()
        .map(|(name, _)| root.path().join(name))
        .collect();
    for ((_, config), dir) in configs.iter().zip(&dirs) {
        write(config, dir);
    }
    let output = oracle::run("inventory.py", &dirs);
    let theirs: Vec<BTreeMap<String, Shapes>> = serde_json::from_str(&output).unwrap();
    assert_eq!(theirs.len(), configs.len());

    for ((name, config), mut theirs) in configs.iter().zip(theirs) {
        for component in Component::ALL {
            let inventory = component.inventory(config);
            let ours: Shapes = inventory
                .iter()
                .map(|tensor| (tensor.name.clone(), tensor.shape.clone()))
                .collect();
            assert_eq!(
                ours.len(),
                inventory.len(),
                "{name}: {component:?} names a tensor twice"
            );
            assert_eq!(
                Some(ours),
                theirs.remove(component.dir()),
                "{name}: {component:?}"
            );
        }
    }
}

/// As [`uneven_levels`], in everything that Stable Diffusion may vary.
fn uneven_keyframe_levels() -> StableDiffusionConfig {
    let mut config = KeyframePreset::Tiny.config();
    config.unet.levels = [(32, 1, 2, 1), (64, 3, 4, 2), (96, 2, 8, 3)]
        .map(
            |(channels, layers, heads, transformer_layers)| Unet2dLevel {
                channels,
                layers,
                heads,
                transformer_layers,
            },
        )
        .to_vec();
    config.unet.down_attention = vec![false, true, true];
    config.unet.up_attention = vec![true, false, true];
    config.unet.use_linear_projection = true;
    config.unet.norm_num_groups = 16;
    config.vae.block_out_channels = vec![32, 96, 64];
    config.vae.layers_per_block = 3;
    config
}

/// transformers leaves out what published files begin a text encoder's names with.
const TEXT_PREFIX: &str = "text_model.";

#[test]
fn inventory_of_keyframe_models_is_the_state_dict_of_the_reference() {
    let mut configs: Vec<(String, StableDiffusionConfig)> = KeyframePreset::ALL
        .map(|preset| (format!("{preset:?}"), preset.config()))
        .to_vec();
    configs.push(("uneven".into(), uneven_keyframe_levels()));

    let root = tempfile::tempdir().unwrap();
    let dirs: Vec<_> = configs
        .iter()
        .map(|(name, _)| root.path().join(name))
        .collect();
    for ((_, config), dir) in configs.iter().zip(&dirs) {
        for (path, text) in config.to_files() {
            let path = dir.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }
    let output = oracle::run("inventory_stable_diffusion.py", &dirs);
    let theirs: Vec<BTreeMap<String, Shapes>> = serde_json::from_str(&output).unwrap();
    assert_eq!(theirs.len(), configs.len());

    for ((name, config), mut theirs) in configs.iter().zip(theirs) {
        for part in StableDiffusionComponent::ALL {
            let inventory = part.inventory(config);
            let ours: Shapes = inventory
                .iter()
                .map(|tensor| {
                    let name = tensor.name.strip_prefix(TEXT_PREFIX);
                    (
                        name.unwrap_or(&tensor.name).to_owned(),
                        tensor.shape.clone(),
                    )
                })
                .collect();
            assert_eq!(
                ours.len(),
                inventory.len(),
                "{name}: {part:?} names a tensor twice"
            );
            assert_eq!(
                Some(ours),
                theirs.remove(part.layout().dir),
                "{name}: {part:?}"
            );
        }
    }
}
