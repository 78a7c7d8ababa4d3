//! The configs that an offer carries, as far as adapters and defaults follow from them.

use flowai_actors::messages::ModelOffer;
use flowai_model::config::stable_diffusion::{TextEncoderConfig, Unet2dConfig};
use flowai_model::config::{ConfigError, UnetConfig};

use crate::error::ApiError;

/// Of a model that makes clips.
///
/// # Errors
/// `ImpossibleJob`: the config is none that this build reads.
pub(crate) fn unet_config(offer: &ModelOffer) -> Result<UnetConfig, ApiError> {
    let unet = UnetConfig::from_json(UnetConfig::FILE, &offer.unet_config);
    unet.map_err(|error| unreadable(offer, &error))
}

/// Of a model that makes keyframes: of its UNet and its text encoder.
///
/// # Errors
/// `ImpossibleJob`: as [`unet_config`].
pub(crate) fn keyframe_configs(
    offer: &ModelOffer,
) -> Result<(Unet2dConfig, TextEncoderConfig), ApiError> {
    let unet = Unet2dConfig::from_json(Unet2dConfig::FILE, &offer.unet_config);
    let text = offer.text_encoder_config.as_ref().unwrap_or_default();
    let text = TextEncoderConfig::from_json(TextEncoderConfig::FILE, text);
    match (unet, text) {
        (Ok(unet), Ok(text)) => Ok((unet, text)),
        (Err(error), _) | (_, Err(error)) => Err(unreadable(offer, &error)),
    }
}

fn unreadable(offer: &ModelOffer, error: &ConfigError) -> ApiError {
    tracing::error!(%error, model = %offer.id, "a node offers a model whose config this build does not read");
    ApiError::ImpossibleJob(format!(
        "model {} comes from a node of another version",
        offer.id
    ))
}
