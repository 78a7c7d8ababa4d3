//! Whether an adapter fits a model: read from its file once, remembered as the hash of the config it was read against.

use flowai_actors::messages::ModelOffer;
use flowai_model::adapter::{AdapterReport, ModuleTable};
use flowai_store::adapters::Adapter;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::ApiError;
use crate::models::unet_config;

/// What of the stored report says which models an adapter fits.
const CONFIG_HASH: &str = "unet_config_sha256";
const MODEL: &str = "model";

/// The table of modules that an adapter's keys may name.
pub(super) fn module_table(offer: &ModelOffer) -> Result<ModuleTable, ApiError> {
    Ok(ModuleTable::of(&unet_config(offer)?))
}

/// The report as it is stored.
pub(super) fn stored_report(report: &AdapterReport, offer: &ModelOffer) -> Result<Value, ApiError> {
    let mut stored = serde_json::to_value(report).map_err(|_| ApiError::Internal)?;
    stored[MODEL] = json!(offer.id);
    stored[CONFIG_HASH] = json!(config_hash(offer)?);
    Ok(stored)
}

/// Whether an adapter that fitted one model fits this one: the modules of both follow from equal configs.
///
/// # Errors
/// `AdapterIncompatible`.
pub(crate) fn checked_against(adapter: &Adapter, offer: &ModelOffer) -> Result<(), ApiError> {
    let text = |name: &str| adapter.report.get(name).and_then(Value::as_str);
    if text(CONFIG_HASH) == Some(config_hash(offer)?.as_str()) {
        return Ok(());
    }
    Err(ApiError::AdapterIncompatible(format!(
        "adapter {} ({}) was made for model {}, whose layers are not those of model {}; make an adapter of its upload for that model",
        adapter.id,
        adapter.name,
        text(MODEL).unwrap_or("another"),
        offer.id
    )))
}

/// Over the parsed config, so that what does not change a layer does not count.
fn config_hash(offer: &ModelOffer) -> Result<String, ApiError> {
    let config = unet_config(offer)?.to_json().to_string();
    Ok(hex::encode(Sha256::digest(config)))
}
