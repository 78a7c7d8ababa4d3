//! The maps from latents to colours, fitted once a model and kept on disk by its hash.

use std::fs;
use std::io;
use std::path::PathBuf;

use flowai_model::ModelIdentity;
use flowai_svd::{Engine, PreviewMap};

/// A folder of maps; safe to delete, which costs fitting them again.
#[derive(Debug, Clone)]
pub struct PreviewMaps {
    folder: PathBuf,
}

impl PreviewMaps {
    /// # Errors
    /// The folder cannot be made.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// The map of the engine's model; `None`, which costs nothing but the previews, when it cannot be fitted.
    pub fn of(&self, model: &ModelIdentity, engine: &Engine) -> Option<PreviewMap> {
        let path = self.folder.join(format!("{}.json", model.sha256));
        let kept = fs::read(&path)
            .ok()
            .and_then(|json| serde_json::from_slice::<PreviewMap>(&json).ok())
            .filter(|map| map.fits(&engine.config().vae));
        if kept.is_some() {
            return kept;
        }
        let map = match engine.fit_preview() {
            Ok(map) => map,
            Err(error) => {
                tracing::warn!(%error, "no previews: their map cannot be fitted");
                return None;
            }
        };
        let written = serde_json::to_vec(&map)
            .map_err(io::Error::from)
            .and_then(|json| fs::write(&path, json));
        if let Err(error) = written {
            tracing::warn!(%error, path = %path.display(), "a preview map is not kept");
        }
        Some(map)
    }
}
