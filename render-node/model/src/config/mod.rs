//! The config files of a model folder in diffusers' layout, checked and normalised.
//!
//! Absent fields take the defaults of diffusers 0.42 and transformers 5; fields that may be one value or a list are one
//! value a level afterwards; what the engine cannot honour is a [`ConfigError`] that names file and field.

mod error;
mod fields;
mod image_encoder;
mod model_index;
mod preprocessor;
mod scheduler;
pub mod stable_diffusion;
mod unet;
mod vae;

#[cfg(test)]
mod tests;

use std::path::Path;

use serde_json::Value;

pub use error::ConfigError;
pub use image_encoder::{Activation, ImageEncoderConfig};
pub use model_index::{ModelIndex, Pipeline};
pub use preprocessor::PreprocessorConfig;
pub use scheduler::{SchedulerConfig, TimestepSpacing};
pub use unet::{NORM_GROUPS, UnetConfig, UnetLevel};
pub use vae::VaeConfig;

/// Everything a model folder says about itself, checked file by file and against each other.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    pub unet: UnetConfig,
    pub vae: VaeConfig,
    pub image_encoder: ImageEncoderConfig,
    pub scheduler: SchedulerConfig,
    pub preprocessor: PreprocessorConfig,
}

impl ModelConfig {
    /// Reads the config files below `dir`. Weights are not looked at.
    ///
    /// Errors: a file that is missing, over 1 MiB or not JSON; a class, value or combination the engine does not support.
    pub fn read(dir: &Path) -> Result<Self, ConfigError> {
        let read =
            |file: &'static str| -> Result<Value, ConfigError> { fields::read_json(dir, file) };
        ModelIndex::from_json(ModelIndex::FILE, &read(ModelIndex::FILE)?)?;
        let config = Self {
            unet: UnetConfig::from_json(UnetConfig::FILE, &read(UnetConfig::FILE)?)?,
            vae: VaeConfig::from_json(VaeConfig::FILE, &read(VaeConfig::FILE)?)?,
            image_encoder: ImageEncoderConfig::from_json(
                ImageEncoderConfig::FILE,
                &read(ImageEncoderConfig::FILE)?,
            )?,
            scheduler: SchedulerConfig::from_json(
                SchedulerConfig::FILE,
                &read(SchedulerConfig::FILE)?,
            )?,
            preprocessor: PreprocessorConfig::from_json(
                PreprocessorConfig::FILE,
                &read(PreprocessorConfig::FILE)?,
            )?,
        };
        config.check_parts_fit()?;
        Ok(config)
    }

    /// Pixels per latent along each axis: `2^(VAE levels - 1)`, 8 for SVD.
    pub fn vae_scale_factor(&self) -> usize {
        1 << (self.vae.block_out_channels.len() - 1)
    }

    /// The config files as (path inside the folder, content), in the form that diffusers and transformers load.
    pub fn to_files(&self) -> Vec<(&'static str, Value)> {
        vec![
            (ModelIndex::FILE, ModelIndex::to_json()),
            (UnetConfig::FILE, self.unet.to_json()),
            (VaeConfig::FILE, self.vae.to_json()),
            (ImageEncoderConfig::FILE, self.image_encoder.to_json()),
            (SchedulerConfig::FILE, self.scheduler.to_json()),
            (
                PreprocessorConfig::FILE,
                self.preprocessor.to_json(self.image_encoder.image_size),
            ),
        ]
    }

    fn check_parts_fit(&self) -> Result<(), ConfigError> {
        let refuse =
            |field: &str, reason: String| Err(ConfigError::field(UnetConfig::FILE, field, reason));
        let latent = self.vae.latent_channels;
        if self.unet.in_channels != 2 * latent {
            let got = self.unet.in_channels;
            return refuse(
                "in_channels",
                format!(
                    "must be twice the VAE's latent_channels ({latent}): noise and image latents (got {got})"
                ),
            );
        }
        if self.unet.out_channels != latent {
            let got = self.unet.out_channels;
            return refuse(
                "out_channels",
                format!("must equal the VAE's latent_channels {latent} (got {got})"),
            );
        }
        let projection = self.image_encoder.projection_dim;
        for level in &self.unet.levels {
            let got = level.cross_attention_dim;
            if got != projection {
                return refuse(
                    "cross_attention_dim",
                    format!(
                        "must equal the image encoder's projection_dim {projection} (got {got})"
                    ),
                );
            }
        }
        Ok(())
    }
}
