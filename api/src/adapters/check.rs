//! Whether an adapter fits a model: read from its file once, remembered as the hash of the modules it was read against.

use flowai_actors::messages::{ModelFamily, ModelOffer};
use flowai_model::adapter::{AdapterReport, Family, ModuleTable};
use flowai_store::adapters::Adapter;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::ApiError;
use crate::models::{keyframe_configs, unet_config};

/// What of the stored report says which models an adapter fits.
const UNET_HASH: &str = "unet_config_sha256";
/// Only for a model that has one whose layers an adapter may change.
const TEXT_ENCODER_HASH: &str = "text_encoder_config_sha256";
/// Of the modules and their shapes. Adapters of before have those of whole configs alone.
const MODULES_HASH: &str = "modules_sha256";
const MODEL: &str = "model";

/// The table of modules that an adapter's keys may name.
pub(super) fn module_table(offer: &ModelOffer) -> Result<ModuleTable, ApiError> {
    Ok(match offer.family {
        ModelFamily::Svd => ModuleTable::of(&unet_config(offer)?),
        ModelFamily::Sd => {
            let (unet, text_encoder) = keyframe_configs(offer)?;
            ModuleTable::of_stable_diffusion(&unet, &text_encoder)
        }
    })
}

/// The report as it is stored.
pub(super) fn stored_report(report: &AdapterReport, offer: &ModelOffer) -> Result<Value, ApiError> {
    let mut stored = serde_json::to_value(report).map_err(|_| ApiError::Internal)?;
    stored[MODEL] = json!(offer.id);
    stored[MODULES_HASH] = json!(module_table(offer)?.sha256().to_string());
    for (name, hash) in config_hashes(offer)? {
        stored[name] = json!(hash);
    }
    Ok(stored)
}

/// A family's name as it is stored with an adapter.
pub(super) fn family_name(family: Family) -> Result<String, ApiError> {
    match serde_json::to_value(family) {
        Ok(Value::String(name)) => Ok(name),
        Ok(_) | Err(_) => Err(ApiError::Internal),
    }
}

/// Whether an adapter that fitted one model fits this one: the modules of both are equal, which equal configs say without a look.
///
/// # Errors
/// `AdapterIncompatible`, which names the list that it belongs to when it is for the other stage of a video.
pub(crate) fn checked_against(adapter: &Adapter, offer: &ModelOffer) -> Result<(), ApiError> {
    let text = |name: &str| adapter.report.get(name).and_then(Value::as_str);
    let of_configs = config_hashes(offer)?;
    let are_equal = of_configs
        .iter()
        .all(|(name, hash)| text(name) == Some(hash.as_str()));
    if are_equal || text(MODULES_HASH) == Some(module_table(offer)?.sha256().to_string().as_str()) {
        return Ok(());
    }
    let (other, place) = match offer.family {
        ModelFamily::Svd => (
            Family::StableDiffusion,
            "give it in keyframe.adapters of a video that is made from a prompt",
        ),
        ModelFamily::Sd => (Family::StableVideoDiffusion, "give it in adapters"),
    };
    let is_for_other_stage = adapter.family == family_name(other)?;
    let advice = match is_for_other_stage {
        true => place,
        false => "make an adapter of its upload for that model",
    };
    Err(ApiError::AdapterIncompatible(format!(
        "adapter {} ({}) was made for model {}, whose layers are not those of model {}; {advice}",
        adapter.id,
        adapter.name,
        text(MODEL).unwrap_or("another"),
        offer.id
    )))
}

/// Over the parsed configs.
fn config_hashes(offer: &ModelOffer) -> Result<Vec<(&'static str, String)>, ApiError> {
    let hash = |config: Value| hex::encode(Sha256::digest(config.to_string()));
    Ok(match offer.family {
        ModelFamily::Svd => vec![(UNET_HASH, hash(unet_config(offer)?.to_json()))],
        ModelFamily::Sd => {
            let (unet, text_encoder) = keyframe_configs(offer)?;
            vec![
                (UNET_HASH, hash(unet.to_json())),
                (TEXT_ENCODER_HASH, hash(text_encoder.to_json())),
            ]
        }
    })
}
