//! Random models in folders, and how tests load them.

use std::path::{Path, PathBuf};

use flowai_model::config::{Activation, ModelConfig, UnetLevel};
use flowai_model::safetensors::Dtype as FileDtype;
use flowai_model::{ModelFolder, Preset, synthetic};
use flowai_svd::params::{Params, Precision};
use flowai_svd::{DeviceName, Dtype, Engine, LoadOptions};
use tch::{Device, Kind};
use tempfile::TempDir;

/// A model folder that goes away with the value.
pub(crate) struct Model {
    dir: TempDir,
    pub(crate) folder: ModelFolder,
}

impl Model {
    /// Every parameter is random, from its name and `seed`. From here on the test computes on one thread: more only get in
    /// each other's way in models this small.
    pub(crate) fn write(config: &ModelConfig, seed: u64) -> Self {
        tch::set_num_threads(1);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        synthetic::write_model(&path, config, seed, FileDtype::F32).unwrap();
        let folder = ModelFolder::check(&path).unwrap();
        Self { dir, folder }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("model")
    }

    /// A place for other files of the test.
    pub(crate) fn scratch(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn config(&self) -> &ModelConfig {
        &self.folder.config
    }

    pub(crate) fn engine(&self, dtype: Dtype) -> Engine {
        let options = LoadOptions {
            dtype,
            device: DeviceName::Cpu,
            threads: Some(1),
            identity: None,
        };
        Engine::load(&self.path(), options).unwrap()
    }

    pub(crate) fn unet_params(&self) -> Params {
        Params::load(&self.folder.unet, FP32, |_| true).unwrap()
    }

    pub(crate) fn vae_params(&self) -> Params {
        Params::load(&self.folder.vae, FP32, |_| true).unwrap()
    }

    pub(crate) fn image_encoder_params(&self) -> Params {
        Params::load(&self.folder.image_encoder, FP32, |_| true).unwrap()
    }
}

pub(super) const FP32: Precision = Precision {
    device: Device::Cpu,
    kind: Kind::Float,
    rounded_to: None,
};

/// Two levels, VAE with one layer a block, quick GELU at 32 px: diffusers' own pipeline test.
pub(crate) fn dummy() -> ModelConfig {
    Preset::Dummy.config()
}

/// What the dummies leave out: four levels of unlike widths and heads, VAE with two layers a block, so that its middle
/// attention runs, GELU at 224 px. 2 pixels a latent.
pub(crate) fn four_levels() -> ModelConfig {
    let level = |(channels, heads)| UnetLevel {
        channels,
        heads,
        layers: 2,
        cross_attention_dim: 32,
        transformer_layers: 1,
    };
    let mut config = Preset::Tiny.config();
    config.unet.levels = [(32, 2), (32, 4), (64, 8), (64, 8)].map(level).to_vec();
    config.unet.down_attention = vec![true, true, true, false];
    config.unet.up_attention = vec![false, true, true, true];
    config.vae.layers_per_block = 2;
    config
}

/// Two levels with other heads, layers and transformer layers at each; quick GELU at 224 px.
pub(crate) fn uneven_levels() -> ModelConfig {
    let mut config = Preset::Tiny.config();
    config.unet.levels[0].heads = 4;
    config.unet.levels[0].layers = 1;
    config.unet.levels[1].heads = 16;
    config.unet.levels[1].transformer_layers = 2;
    config.vae.layers_per_block = 2;
    config.image_encoder.hidden_act = Activation::QuickGelu;
    config
}
