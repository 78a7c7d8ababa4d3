//! A whole model folder: may it be offered, and what is its name?

use std::io;
use std::path::{Path, PathBuf};

use crate::Sha256Digest;
use crate::config::{ConfigError, ModelConfig};
use crate::inventory::Component;
use crate::weights::{Weights, WeightsError};

/// Why a model folder cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error("{}: cannot be hashed: {source}", path.display())]
    Hash { path: PathBuf, source: io::Error },
}

/// A model folder that was found complete: configs supported, every tensor there with the right shape and type.
#[derive(Debug, Clone)]
pub struct ModelFolder {
    dir: PathBuf,
    pub config: ModelConfig,
    pub unet: Weights,
    pub vae: Weights,
    pub image_encoder: Weights,
}

/// One file that the engine reads.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ModelFile {
    /// Relative to the model folder, with `/`.
    pub path: String,
    pub sha256: Sha256Digest,
    pub bytes: u64,
}

/// The name of a model: its files, and one hash over them.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ModelIdentity {
    /// The sha256 of what `sha256sum` prints for the files in order of their paths, as seen from the model folder:
    /// one line `<sha256>  <path>\n` a file.
    pub sha256: Sha256Digest,
    pub files: Vec<ModelFile>,
}

impl ModelFolder {
    /// Reads configs and headers, and maps the weights. Costs milliseconds: no tensor's bytes are read.
    ///
    /// Errors name the file and the field, or list every tensor that does not fit.
    pub fn check(dir: &Path) -> Result<Self, FolderError> {
        let config = ModelConfig::read(dir)?;
        let open =
            |component: Component| Weights::open(dir, component, &component.inventory(&config));
        let unet = open(Component::Unet)?;
        let vae = open(Component::Vae)?;
        let image_encoder = open(Component::ImageEncoder)?;
        Ok(Self {
            dir: dir.to_owned(),
            config,
            unet,
            vae,
            image_encoder,
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Hashes every file that the engine reads, and no other: a licence or a picture in the folder changes nothing.
    ///
    /// Reads all bytes of the model, so seconds for a full-size one; memory stays constant.
    pub fn identify(&self) -> Result<ModelIdentity, FolderError> {
        let configs = self
            .config
            .to_files()
            .into_iter()
            .map(|(path, _)| PathBuf::from(path));
        let weights = [&self.unet, &self.vae, &self.image_encoder]
            .into_iter()
            .flat_map(Weights::files)
            .cloned();
        let mut paths: Vec<PathBuf> = configs.chain(weights).collect();
        paths.sort();

        let mut files = Vec::new();
        let mut lines = String::new();
        for relative in paths {
            let path = self.dir.join(&relative);
            let error = |source| FolderError::Hash {
                path: path.clone(),
                source,
            };
            let sha256 = Sha256Digest::of_file(&path).map_err(error)?;
            let bytes = path.metadata().map_err(error)?.len();
            let path = relative.to_string_lossy().into_owned();
            lines.push_str(&format!("{sha256}  {path}\n"));
            files.push(ModelFile {
                path,
                sha256,
                bytes,
            });
        }
        Ok(ModelIdentity {
            sha256: Sha256Digest::of(lines.as_bytes()),
            files,
        })
    }
}
