//! Model sizes that need no file: for tests, the demo, benchmarks, and for counting the real one.

use std::fmt;
use std::str::FromStr;

use crate::config::{
    Activation, ImageEncoderConfig, ModelConfig, PreprocessorConfig, SchedulerConfig,
    TimestepSpacing, UnetConfig, UnetLevel, VaeConfig,
};

/// A named set of configs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// The components of diffusers' own pipeline test. Its image encoder reads 32 px: tensors only, no image files.
    Dummy,
    /// UNet and VAE of `Dummy` with an image encoder for 224 px, so that image files work. 2 pixels a latent.
    Tiny,
    /// UNet of `Tiny` and a VAE of four levels, 8 pixels a latent as in the real ones: clips large enough to look at within
    /// seconds of a CPU.
    Small,
    /// Four levels, 64 to 256 channels, 8 pixels a latent: large enough that arithmetic outweighs call overhead.
    Middle,
    /// The architecture of Stable Video Diffusion XT, 2.3 G parameters in all.
    FullSvd,
}

/// No preset has the name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("preset must be dummy, tiny, small, middle or full-svd (got {0:?})")]
pub struct UnknownPreset(String);

impl Preset {
    pub const ALL: [Self; 5] = [
        Self::Dummy,
        Self::Tiny,
        Self::Small,
        Self::Middle,
        Self::FullSvd,
    ];

    pub fn config(self) -> ModelConfig {
        match self {
            Self::Dummy => model(small_unet(), small_vae(), dummy_image_encoder()),
            Self::Tiny => model(small_unet(), small_vae(), tiny_image_encoder()),
            Self::Small => model(
                small_unet(),
                vae(&[32, 32, 64, 64], 1, 256),
                tiny_image_encoder(),
            ),
            Self::Middle => model(middle_unet(), middle_vae(), tiny_image_encoder()),
            Self::FullSvd => model(svd_unet(), svd_vae(), svd_image_encoder()),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Dummy => "dummy",
            Self::Tiny => "tiny",
            Self::Small => "small",
            Self::Middle => "middle",
            Self::FullSvd => "full-svd",
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Preset {
    type Err = UnknownPreset;

    fn from_str(name: &str) -> Result<Self, UnknownPreset> {
        Self::ALL
            .into_iter()
            .find(|preset| preset.name() == name)
            .ok_or_else(|| UnknownPreset(name.to_owned()))
    }
}

fn model(unet: UnetConfig, vae: VaeConfig, image_encoder: ImageEncoderConfig) -> ModelConfig {
    let scheduler = SchedulerConfig {
        sigma_min: 0.002,
        sigma_max: 700.0,
        timestep_spacing: TimestepSpacing::Leading,
    };
    ModelConfig {
        unet,
        vae,
        image_encoder,
        scheduler,
        preprocessor: PreprocessorConfig::CLIP,
    }
}

/// Levels from (channels, heads), two layers and one transformer layer each, and attention in all but the coarsest.
fn unet(levels: &[(usize, usize)], cross_attention_dim: usize, time_ids: usize) -> UnetConfig {
    let coarsest = levels.len() - 1;
    UnetConfig {
        in_channels: 8,
        out_channels: 4,
        sample_size: Some(32),
        num_frames: 25,
        addition_time_embed_dim: time_ids,
        projection_class_embeddings_input_dim: 3 * time_ids,
        levels: levels
            .iter()
            .map(|&(channels, heads)| UnetLevel {
                channels,
                layers: 2,
                heads,
                cross_attention_dim,
                transformer_layers: 1,
            })
            .collect(),
        down_attention: (0..levels.len()).map(|i| i != coarsest).collect(),
        up_attention: (0..levels.len()).map(|i| i != 0).collect(),
    }
}

fn small_unet() -> UnetConfig {
    unet(&[(32, 8), (64, 8)], 32, 32)
}

fn middle_unet() -> UnetConfig {
    unet(&[(64, 1), (128, 2), (256, 4), (256, 4)], 32, 64)
}

fn svd_unet() -> UnetConfig {
    let levels = [(320, 5), (640, 10), (1280, 20), (1280, 20)];
    UnetConfig {
        sample_size: Some(96),
        ..unet(&levels, 1024, 256)
    }
}

fn vae(block_out_channels: &[usize], layers_per_block: usize, sample_size: usize) -> VaeConfig {
    VaeConfig {
        in_channels: 3,
        out_channels: 3,
        latent_channels: 4,
        block_out_channels: block_out_channels.to_vec(),
        layers_per_block,
        sample_size,
        scaling_factor: 0.18215,
        force_upcast: true,
    }
}

fn small_vae() -> VaeConfig {
    vae(&[32, 64], 1, 32)
}

fn middle_vae() -> VaeConfig {
    vae(&[32, 64, 128, 128], 2, 256)
}

fn svd_vae() -> VaeConfig {
    vae(&[128, 256, 512, 512], 2, 768)
}

fn dummy_image_encoder() -> ImageEncoderConfig {
    ImageEncoderConfig {
        hidden_size: 32,
        intermediate_size: 37,
        projection_dim: 32,
        num_hidden_layers: 5,
        num_attention_heads: 4,
        num_channels: 3,
        image_size: 32,
        patch_size: 1,
        hidden_act: Activation::QuickGelu,
        layer_norm_eps: 1e-5,
    }
}

fn tiny_image_encoder() -> ImageEncoderConfig {
    ImageEncoderConfig {
        image_size: 224,
        patch_size: 14,
        hidden_act: Activation::Gelu,
        ..dummy_image_encoder()
    }
}

fn svd_image_encoder() -> ImageEncoderConfig {
    ImageEncoderConfig {
        hidden_size: 1280,
        intermediate_size: 5120,
        projection_dim: 1024,
        num_hidden_layers: 32,
        num_attention_heads: 16,
        num_channels: 3,
        image_size: 224,
        patch_size: 14,
        hidden_act: Activation::Gelu,
        layer_norm_eps: 1e-5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Component;

    #[test]
    fn presets_read_back_from_their_files() {
        for preset in Preset::ALL {
            let dir = tempfile::tempdir().unwrap();
            for (path, json) in preset.config().to_files() {
                let path = dir.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, json.to_string()).unwrap();
            }
            assert_eq!(
                ModelConfig::read(dir.path()).unwrap(),
                preset.config(),
                "{preset}"
            );
            assert_eq!(preset.to_string().parse(), Ok(preset));
        }
    }

    #[test]
    fn full_svd_counts_the_published_tensors_and_parameters() {
        let check = |component: Component, tensors: usize, parameters: usize| {
            let inventory = component.inventory(&Preset::FullSvd.config());
            assert_eq!(inventory.len(), tensors, "{component:?}");
            assert_eq!(
                inventory
                    .iter()
                    .map(|tensor| tensor.elements())
                    .sum::<usize>(),
                parameters,
                "{component:?}"
            );
        };
        check(Component::Unet, 1428, 1_524_623_082);
        check(Component::Vae, 374, 97_742_847);
        check(Component::ImageEncoder, 520, 632_076_800);
    }
}
