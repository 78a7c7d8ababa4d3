//! Random keyframe models in folders, whole keyframes stage by stage, and prompts.

use std::path::{Path, PathBuf};

use flowai_model::adapter::{AdapterFormat, ModuleTable};
use flowai_model::config::Activation;
use flowai_model::config::stable_diffusion::{
    Prediction, SpecialToken, StableDiffusionConfig, Unet2dLevel,
};
use flowai_model::safetensors::Dtype as FileDtype;
use flowai_model::synthetic::AdapterSpec;
use flowai_model::{KeyframePreset, StableDiffusionFolder, Weights, synthetic};
use flowai_svd::params::Params;
use flowai_svd::{
    DeviceName, Dtype, KeyframeConditioning, KeyframeSpec, Keyframer, LoadOptions, Prompt,
};
use serde_json::{Value, json};
use tch::{Device, Tensor};
use tempfile::TempDir;

use super::compare::{Difference, difference};
use super::models::FP32;
use super::oracle::Tensors;

/// A model folder that goes away with the value.
pub(crate) struct KeyframeModel {
    dir: TempDir,
    pub(crate) folder: StableDiffusionFolder,
}

impl KeyframeModel {
    /// As [`super::models::Model::write`].
    pub(crate) fn write(config: &StableDiffusionConfig, seed: u64) -> Self {
        tch::set_num_threads(1);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        synthetic::write_stable_diffusion(&path, config, seed, FileDtype::F32).unwrap();
        let folder = StableDiffusionFolder::check(&path).unwrap();
        Self { dir, folder }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("model")
    }

    /// A place for other files of the test.
    pub(crate) fn scratch(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn config(&self) -> &StableDiffusionConfig {
        &self.folder.config
    }

    pub(crate) fn keyframer(&self, dtype: Dtype) -> Keyframer {
        let options = LoadOptions {
            dtype,
            device: DeviceName::Cpu,
            threads: Some(1),
            identity: None,
        };
        Keyframer::load(&self.path(), options).unwrap()
    }
}

/// An adapter file of its own name; for a PEFT folder, in a folder of its own.
pub(crate) fn write_adapter(model: &KeyframeModel, name: &str, spec: &AdapterSpec) -> PathBuf {
    let config = model.config();
    let table = ModuleTable::of_stable_diffusion(&config.unet, &config.text_encoder);
    let path = match spec.format {
        AdapterFormat::PeftFolder => {
            let folder = model.scratch().join(name);
            std::fs::create_dir(&folder).unwrap();
            folder.join("adapter_model.safetensors")
        }
        _ => model.scratch().join(format!("{name}.safetensors")),
    };
    synthetic::write_adapter(&path, &table, spec).unwrap();
    path
}

/// All parameters of a component in fp32.
pub(crate) fn params(weights: &Weights) -> Params {
    Params::load(weights, FP32, |_| true).unwrap()
}

/// diffusers' own pipeline test: two levels of 4 and 8 channels in 2 groups, heads of one channel.
pub(crate) fn dummy() -> StableDiffusionConfig {
    KeyframePreset::Dummy.config()
}

/// The form of Stable Diffusion 1.x: four levels in 32 groups with heads of several channels, two layers each, convolutions
/// into transformers, quick GELU, noise. 2 pixels a latent.
pub(crate) fn first_generation() -> StableDiffusionConfig {
    let level = |(channels, heads)| Unet2dLevel {
        channels,
        layers: 2,
        heads,
        transformer_layers: 1,
    };
    let mut config = KeyframePreset::Tiny.config();
    config.unet.levels = [(32, 2), (64, 4), (96, 8), (96, 8)].map(level).to_vec();
    config.unet.down_attention = vec![true, true, true, false];
    config.unet.up_attention = vec![false, true, true, true];
    config.vae.layers_per_block = 2;
    config
}

/// The form of Stable Diffusion 2.x: linear layers into transformers, GELU, another padding, velocity; and levels that differ
/// in layers, heads and transformer layers, in 16 groups.
pub(crate) fn second_generation() -> StableDiffusionConfig {
    let mut config = KeyframePreset::Tiny.config();
    config.unet.levels = [(32, 1, 4, 1), (64, 3, 2, 2), (96, 2, 6, 1)]
        .map(
            |(channels, layers, heads, transformer_layers)| Unet2dLevel {
                channels,
                layers,
                heads,
                transformer_layers,
            },
        )
        .to_vec();
    config.unet.down_attention = vec![true, true, false];
    config.unet.up_attention = vec![true, false, true];
    config.unet.use_linear_projection = true;
    config.unet.norm_num_groups = 16;
    config.unet.norm_eps = 1e-3;
    config.vae.block_out_channels = vec![32, 64, 64];
    config.vae.layers_per_block = 2;
    config.vae.scaling_factor = 0.3;
    config.text_encoder.hidden_act = Activation::Gelu;
    config.text_encoder.num_hidden_layers = 3;
    config.tokenizer.pad_token = SpecialToken::plain("!");
    config.noise_schedule.prediction = Prediction::Velocity;
    config.noise_schedule.set_alpha_to_one = true;
    config
}

/// diffusers' own prompt.
pub(crate) const PROMPT: &str = "A painting of a squirrel eating a burger";

pub(crate) fn prompt(negative: &str) -> Prompt {
    Prompt {
        text: PROMPT.to_owned(),
        negative: negative.to_owned(),
    }
}

/// A job for `oracle/keyframe_pipeline.py`.
pub(crate) fn job(
    name: &str,
    model: &Path,
    (dtype, noise_dtype): (&str, &str),
    spec: &KeyframeSpec,
    prompt: &Prompt,
) -> Value {
    json!({
        "name": name,
        "model": model,
        "dtype": dtype,
        "noise_dtype": noise_dtype,
        "prompt": prompt.text,
        "negative_prompt": prompt.negative,
        "spec": spec,
    })
}

pub(crate) fn render(keyframer: &Keyframer, spec: &KeyframeSpec, prompt: &Prompt) -> Tensors {
    finish(keyframer, keyframer.prepare(spec, prompt).unwrap())
}

/// Denoises and decodes; the conditioning's own stages are kept too.
pub(crate) fn finish(keyframer: &Keyframer, conditioning: KeyframeConditioning) -> Tensors {
    let mut stages = Tensors::new();
    let mut keep = |name: String, tensor: &Tensor| {
        stages.insert(name, tensor.to_device(Device::Cpu).copy());
    };
    keep("text_embeds".to_owned(), &conditioning.text_embeds);
    if let Some(negative) = &conditioning.negative_embeds {
        keep("negative_embeds".to_owned(), negative);
    }
    let mut run = keyframer.start(&conditioning).unwrap();
    while !run.is_finished() {
        let step = run.step().unwrap().step;
        keep(format!("latents_{}", step - 1), run.latents());
    }
    let (height, width) = (run.spec().height, run.spec().width);
    let frame = run.decode().unwrap();
    assert_eq!((frame.first, frame.count()), (0, 1));
    let shape = [1, 3, height, width].map(i64::from);
    let frame = Tensor::from_slice(&frame.to_f32().unwrap()).view(shape);
    keep("frame".to_owned(), &frame);
    stages
}

/// The tolerances of clips: 1e-3 (mean 1e-4) for the picture, 1e-4 relative for everything before.
pub(crate) fn compare(job: &str, found: &Tensors, expected: &Tensors) {
    let prefix = format!("{job}.");
    let stages: Vec<&str> = expected
        .keys()
        .filter_map(|key| key.strip_prefix(&prefix))
        .collect();
    assert_eq!(stages, found.keys().collect::<Vec<_>>(), "{job}: stages");
    for stage in stages {
        let name = format!("{job}, {stage}");
        let difference = difference(&name, &found[stage], &expected[&format!("{prefix}{stage}")]);
        let Difference {
            max_abs,
            mean_abs,
            relative_l2,
        } = difference;
        let is_close = match stage {
            "frame" => max_abs <= 1e-3 && mean_abs <= 1e-4,
            _ => relative_l2 <= 1e-4,
        };
        assert!(is_close, "{name}: {difference:?}");
    }
}
