use std::fmt;
use std::str::FromStr;

use crate::config::Activation;
use crate::config::stable_diffusion::{
    AutoencoderConfig, BetaSchedule, NoiseScheduleConfig, Prediction, SpecialToken,
    StableDiffusionConfig, TextEncoderConfig, TokenizerConfig, Unet2dConfig, Unet2dLevel,
    Vocabulary,
};
use crate::synthetic;

/// Sizes of keyframe models that need no file, as [`crate::Preset`] for video models. All read
/// [`synthetic::vocabulary`], so the published architectures come without their words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyframePreset {
    /// The components of diffusers' own pipeline test: 4 and 8 channels in 2 groups, heads of one channel. 2 pixels a latent.
    Dummy,
    /// Two levels in 32 groups with several heads, 2 pixels a latent.
    Tiny,
    /// Stable Diffusion 1.5, 1.07 G parameters in all.
    StableDiffusion15,
    /// Stable Diffusion 2.1 at 768 pixels: linear projections, 23 layers of GELU in the text encoder, velocity.
    StableDiffusion21,
}

/// No preset has the name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("preset must be keyframe-dummy, keyframe-tiny, sd-1.5 or sd-2.1 (got {0:?})")]
pub struct UnknownKeyframePreset(String);

impl KeyframePreset {
    pub const ALL: [Self; 4] = [
        Self::Dummy,
        Self::Tiny,
        Self::StableDiffusion15,
        Self::StableDiffusion21,
    ];

    pub fn config(self) -> StableDiffusionConfig {
        match self {
            Self::Dummy => StableDiffusionConfig {
                unet: Unet2dConfig {
                    levels: levels(&[(4, 8), (8, 8)], 1),
                    cross_attention_dim: 8,
                    norm_num_groups: 2,
                    ..unet(&[(4, 8), (8, 8)], 8, 32)
                },
                vae: AutoencoderConfig {
                    norm_num_groups: 2,
                    ..vae(&[4, 8], 1, 32)
                },
                text_encoder: TextEncoderConfig {
                    vocab_size: 1000,
                    ..text_encoder(8, 16, 2, 2)
                },
                tokenizer: tokenizer("<|endoftext|>"),
                noise_schedule: noise_schedule(Prediction::Epsilon),
            },
            Self::Tiny => StableDiffusionConfig {
                unet: Unet2dConfig {
                    levels: levels(&[(32, 2), (64, 4)], 1),
                    ..unet(&[(32, 2), (64, 4)], 32, 32)
                },
                vae: vae(&[32, 64], 1, 64),
                text_encoder: TextEncoderConfig {
                    vocab_size: 1000,
                    ..text_encoder(32, 37, 5, 4)
                },
                tokenizer: tokenizer("<|endoftext|>"),
                noise_schedule: noise_schedule(Prediction::Epsilon),
            },
            Self::StableDiffusion15 => StableDiffusionConfig {
                unet: unet(&[(320, 8), (640, 8), (1280, 8), (1280, 8)], 768, 64),
                vae: vae(&[128, 256, 512, 512], 2, 512),
                text_encoder: text_encoder(768, 3072, 12, 12),
                tokenizer: tokenizer("<|endoftext|>"),
                noise_schedule: noise_schedule(Prediction::Epsilon),
            },
            Self::StableDiffusion21 => StableDiffusionConfig {
                unet: Unet2dConfig {
                    use_linear_projection: true,
                    ..unet(&[(320, 5), (640, 10), (1280, 20), (1280, 20)], 1024, 96)
                },
                vae: vae(&[128, 256, 512, 512], 2, 768),
                text_encoder: TextEncoderConfig {
                    hidden_act: Activation::Gelu,
                    ..text_encoder(1024, 4096, 23, 16)
                },
                tokenizer: tokenizer("!"),
                noise_schedule: noise_schedule(Prediction::Velocity),
            },
        }
    }
}

impl KeyframePreset {
    const fn name(self) -> &'static str {
        match self {
            Self::Dummy => "keyframe-dummy",
            Self::Tiny => "keyframe-tiny",
            Self::StableDiffusion15 => "sd-1.5",
            Self::StableDiffusion21 => "sd-2.1",
        }
    }
}

impl fmt::Display for KeyframePreset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KeyframePreset {
    type Err = UnknownKeyframePreset;

    fn from_str(name: &str) -> Result<Self, UnknownKeyframePreset> {
        Self::ALL
            .into_iter()
            .find(|preset| preset.name() == name)
            .ok_or_else(|| UnknownKeyframePreset(name.to_owned()))
    }
}

/// Levels from (channels, heads).
fn levels(sizes: &[(usize, usize)], layers: usize) -> Vec<Unet2dLevel> {
    let level = |&(channels, heads)| Unet2dLevel {
        channels,
        layers,
        heads,
        transformer_layers: 1,
    };
    sizes.iter().map(level).collect()
}

/// Two layers a level. Attention in all levels but the coarsest; with two levels, as in diffusers' test, in all but the finest.
fn unet(sizes: &[(usize, usize)], cross_attention_dim: usize, sample_size: usize) -> Unet2dConfig {
    let count = sizes.len();
    let plain = if count == 2 { 0 } else { count - 1 };
    let down_attention: Vec<bool> = (0..count).map(|level| level != plain).collect();
    Unet2dConfig {
        in_channels: 4,
        out_channels: 4,
        sample_size: Some(sample_size),
        levels: levels(sizes, 2),
        up_attention: down_attention.iter().rev().copied().collect(),
        down_attention,
        cross_attention_dim,
        norm_num_groups: 32,
        norm_eps: 1e-5,
        use_linear_projection: false,
    }
}

fn vae(
    block_out_channels: &[usize],
    layers_per_block: usize,
    sample_size: usize,
) -> AutoencoderConfig {
    AutoencoderConfig {
        in_channels: 3,
        out_channels: 3,
        latent_channels: 4,
        block_out_channels: block_out_channels.to_vec(),
        layers_per_block,
        norm_num_groups: 32,
        sample_size,
        scaling_factor: 0.18215,
    }
}

fn text_encoder(
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
) -> TextEncoderConfig {
    TextEncoderConfig {
        vocab_size: 49_408,
        hidden_size: hidden,
        intermediate_size: intermediate,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        max_position_embeddings: 77,
        hidden_act: Activation::QuickGelu,
        layer_norm_eps: 1e-5,
    }
}

fn tokenizer(pad_token: &str) -> TokenizerConfig {
    let vocabulary: Vocabulary = synthetic::vocabulary();
    TokenizerConfig {
        model_max_length: 77,
        bos_token: SpecialToken::plain("<|startoftext|>"),
        eos_token: SpecialToken::plain("<|endoftext|>"),
        unk_token: SpecialToken::plain("<|endoftext|>"),
        pad_token: SpecialToken::plain(pad_token),
        vocabulary,
    }
}

fn noise_schedule(prediction: Prediction) -> NoiseScheduleConfig {
    NoiseScheduleConfig {
        num_train_timesteps: 1000,
        beta_start: 0.00085,
        beta_end: 0.012,
        beta_schedule: BetaSchedule::ScaledLinear,
        prediction,
        set_alpha_to_one: false,
        timestep_spacing: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::stable_diffusion::StableDiffusionComponent;

    #[test]
    fn presets_read_back_from_their_files() {
        for preset in KeyframePreset::ALL {
            let dir = tempfile::tempdir().unwrap();
            for (path, text) in preset.config().to_files() {
                let path = dir.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            let read = StableDiffusionConfig::read(dir.path()).unwrap();
            assert_eq!(read, preset.config(), "{preset}");
            assert_eq!(preset.to_string().parse(), Ok(preset));
        }
    }

    #[test]
    fn stable_diffusion_counts_the_published_tensors_and_parameters() {
        let check = |preset: KeyframePreset, part, tensors: usize, parameters: usize| {
            let inventory = StableDiffusionComponent::inventory(part, &preset.config());
            let elements: usize = inventory.iter().map(|tensor| tensor.elements()).sum();
            assert_eq!(
                (inventory.len(), elements),
                (tensors, parameters),
                "{preset:?}, {part:?}"
            );
        };
        use KeyframePreset::{StableDiffusion15, StableDiffusion21};
        use StableDiffusionComponent::{TextEncoder, Unet, Vae};
        check(StableDiffusion15, Unet, 686, 859_520_964);
        check(StableDiffusion15, Vae, 248, 83_653_863);
        check(StableDiffusion15, TextEncoder, 196, 123_060_480);
        check(StableDiffusion21, Unet, 686, 865_910_724);
        check(StableDiffusion21, Vae, 248, 83_653_863);
        check(StableDiffusion21, TextEncoder, 372, 340_387_840);
    }
}
