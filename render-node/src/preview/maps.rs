//! The maps from latents to colours, fitted once a model and kept on disk by its hash.

use std::fs;
use std::io;
use std::path::PathBuf;

use flowai_model::ModelIdentity;
use flowai_svd::{Engine, EngineError, PreviewMap};

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

    /// The map of the engine's model.
    ///
    /// # Errors
    /// It cannot be fitted. That costs nothing but the previews, unless the device is lost.
    pub fn of(&self, model: &ModelIdentity, engine: &Engine) -> Result<PreviewMap, EngineError> {
        let path = self.folder.join(format!("{}.json", model.sha256));
        let kept = fs::read(&path)
            .ok()
            .and_then(|json| serde_json::from_slice::<PreviewMap>(&json).ok())
            .filter(|map| map.fits(&engine.config().vae));
        if let Some(map) = kept {
            return Ok(map);
        }
        let map = engine.fit_preview()?;
        let written = serde_json::to_vec(&map)
            .map_err(io::Error::from)
            .and_then(|json| fs::write(&path, json));
        if let Err(error) = written {
            tracing::warn!(%error, path = %path.display(), "a preview map is not kept");
        }
        Ok(map)
    }
}
