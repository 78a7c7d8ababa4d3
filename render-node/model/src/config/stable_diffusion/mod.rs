//! The config files of a folder of Stable Diffusion 1.x or 2.x: a picture from a prompt.

mod noise_schedule;
mod special_token;
mod text_encoder;
mod tokenizer;
mod unet;
mod vae;
mod vocabulary;

#[cfg(test)]
mod tests;

use std::path::Path;

use serde_json::Value;

use super::ConfigError;
use super::fields::{self, Fields};
use super::model_index::{Components, ModelIndex, check_index, index_json};

pub use noise_schedule::{BetaSchedule, NoiseScheduleConfig, Prediction};
pub use special_token::SpecialToken;
pub use text_encoder::TextEncoderConfig;
pub use tokenizer::TokenizerConfig;
pub use unet::{Unet2dConfig, Unet2dLevel};
pub use vae::AutoencoderConfig;
pub use vocabulary::Vocabulary;

pub(super) const CLASS: &str = "StableDiffusionPipeline";

/// Safety checker and feature extractor are not listed: whether a picture may be shown is not the engine's to say.
const COMPONENTS: &Components = &[
    ("unet", "diffusers", &["UNet2DConditionModel"]),
    ("vae", "diffusers", &["AutoencoderKL"]),
    // Only where the folder's noise schedule lies, which all of them write alike: the sampler is the job's choice.
    (
        "scheduler",
        "diffusers",
        &[
            "DDIMScheduler",
            "DDPMScheduler",
            "DEISMultistepScheduler",
            "DPMSolverMultistepScheduler",
            "DPMSolverSinglestepScheduler",
            "EulerAncestralDiscreteScheduler",
            "EulerDiscreteScheduler",
            "HeunDiscreteScheduler",
            "KDPM2AncestralDiscreteScheduler",
            "KDPM2DiscreteScheduler",
            "LMSDiscreteScheduler",
            "PNDMScheduler",
            "UniPCMultistepScheduler",
        ],
    ),
    ("text_encoder", "transformers", &["CLIPTextModel"]),
    (
        "tokenizer",
        "transformers",
        &["CLIPTokenizer", "CLIPTokenizerFast"],
    ),
];

/// Everything a folder says about itself, checked file by file and against each other.
#[derive(Debug, Clone, PartialEq)]
pub struct StableDiffusionConfig {
    pub unet: Unet2dConfig,
    pub vae: AutoencoderConfig,
    pub text_encoder: TextEncoderConfig,
    pub tokenizer: TokenizerConfig,
    pub noise_schedule: NoiseScheduleConfig,
}

impl StableDiffusionConfig {
    /// Reads the config files and the vocabulary below `dir`. Weights are not looked at.
    ///
    /// Errors: a file that is missing, too long or not in its format; a class, value or combination the engine does not
    /// support.
    pub fn read(dir: &Path) -> Result<Self, ConfigError> {
        let read =
            |file: &'static str| -> Result<Value, ConfigError> { fields::read_json(dir, file) };
        let index = read(ModelIndex::FILE)?;
        check_index(&Fields::new(ModelIndex::FILE, &index)?, CLASS, COMPONENTS)?;
        let config = Self {
            unet: Unet2dConfig::from_json(Unet2dConfig::FILE, &read(Unet2dConfig::FILE)?)?,
            vae: AutoencoderConfig::from_json(
                AutoencoderConfig::FILE,
                &read(AutoencoderConfig::FILE)?,
            )?,
            text_encoder: TextEncoderConfig::from_json(
                TextEncoderConfig::FILE,
                &read(TextEncoderConfig::FILE)?,
            )?,
            noise_schedule: NoiseScheduleConfig::from_json(
                NoiseScheduleConfig::FILE,
                &read(NoiseScheduleConfig::FILE)?,
            )?,
            tokenizer: TokenizerConfig::read(dir)?,
        };
        config.check_parts_fit()?;
        Ok(config)
    }

    /// Pixels per latent along each axis: `2^(VAE levels - 1)`, 8 for the published models.
    pub fn vae_scale_factor(&self) -> usize {
        1 << (self.vae.block_out_channels.len() - 1)
    }

    /// The files of the folder but its weights, as (path inside the folder, content), in the form that diffusers and
    /// transformers load.
    pub fn to_files(&self) -> Vec<(&'static str, String)> {
        let json = |value: Value| format!("{value:#}\n");
        let mut files = vec![
            (ModelIndex::FILE, json(index_json(CLASS, COMPONENTS))),
            (Unet2dConfig::FILE, json(self.unet.to_json())),
            (AutoencoderConfig::FILE, json(self.vae.to_json())),
            (TextEncoderConfig::FILE, json(self.text_encoder.to_json())),
            (
                NoiseScheduleConfig::FILE,
                json(self.noise_schedule.to_json()),
            ),
        ];
        files.extend(self.tokenizer.to_files());
        files
    }

    /// The files that were read of `dir`, of whose content an engine is a function.
    pub(crate) fn files_read(&self, dir: &Path) -> Vec<&'static str> {
        let written = self.to_files().into_iter().map(|(path, _)| path);
        let read_where_there = [
            TokenizerConfig::SPECIAL_TOKENS_FILE,
            vocabulary::TOKENIZER_FILE,
        ];
        let files = written.chain(read_where_there);
        files.filter(|file| dir.join(file).exists()).collect()
    }

    fn check_parts_fit(&self) -> Result<(), ConfigError> {
        let refuse =
            |file: &str, field: &str, reason: String| Err(ConfigError::field(file, field, reason));
        let latent = self.vae.latent_channels;
        for (field, got) in [
            ("in_channels", self.unet.in_channels),
            ("out_channels", self.unet.out_channels),
        ] {
            if got != latent {
                let reason = format!("must equal the VAE's latent_channels {latent} (got {got})");
                return refuse(Unet2dConfig::FILE, field, reason);
            }
        }
        let (got, hidden) = (self.unet.cross_attention_dim, self.text_encoder.hidden_size);
        if got != hidden {
            let reason = format!("must equal the text encoder's hidden_size {hidden} (got {got})");
            return refuse(Unet2dConfig::FILE, "cross_attention_dim", reason);
        }
        let (length, positions) = (
            self.tokenizer.model_max_length,
            self.text_encoder.max_position_embeddings,
        );
        if length > positions {
            let reason = format!(
                "must be at most the text encoder's max_position_embeddings {positions} (got {length})"
            );
            return refuse(TokenizerConfig::FILE, "model_max_length", reason);
        }
        let vocab_size = self.text_encoder.vocab_size;
        if let Some((token, id)) = self.tokenizer.vocabulary.first_beyond(vocab_size) {
            let reason = format!(
                "{token:?} must be under the text encoder's vocab_size {vocab_size} (got {id})"
            );
            return refuse(TokenizerConfig::FILE, "vocabulary", reason);
        }
        Ok(())
    }
}
