//! A whole model folder: may it be offered, and what is its name?

use std::io;
use std::path::{Path, PathBuf};

use crate::Sha256Digest;
use crate::config::stable_diffusion::StableDiffusionConfig;
use crate::config::{ConfigError, ModelConfig, Pipeline};
use crate::inventory::Component;
use crate::inventory::stable_diffusion::StableDiffusionComponent;
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

/// A folder of Stable Video Diffusion that was found complete: configs supported, every tensor there with the right shape and type.
#[derive(Debug, Clone)]
pub struct ModelFolder {
    dir: PathBuf,
    pub config: ModelConfig,
    pub unet: Weights,
    pub vae: Weights,
    pub image_encoder: Weights,
}

/// A folder of Stable Diffusion that was found complete, as [`ModelFolder`].
#[derive(Debug, Clone)]
pub struct StableDiffusionFolder {
    dir: PathBuf,
    pub config: StableDiffusionConfig,
    pub unet: Weights,
    pub vae: Weights,
    pub text_encoder: Weights,
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
        let open = |component: Component| {
            Weights::open(dir, component.layout(), &component.inventory(&config))
        };
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

    /// Every file that the engine reads, relative to the folder, in order of their paths.
    pub fn files(&self) -> Vec<PathBuf> {
        let configs = self.config.to_files().into_iter().map(|(path, _)| path);
        files(configs, [&self.unet, &self.vae, &self.image_encoder])
    }

    /// Hashes every file that the engine reads, and no other: a licence or a picture in the folder changes nothing.
    ///
    /// Reads all bytes of the model, so seconds for a full-size one; memory stays constant.
    pub fn identify(&self) -> Result<ModelIdentity, FolderError> {
        identify(&self.dir, &self.files())
    }
}

impl StableDiffusionFolder {
    /// As [`ModelFolder::check`]; the vocabulary is read too, which takes some ten milliseconds.
    pub fn check(dir: &Path) -> Result<Self, FolderError> {
        let config = StableDiffusionConfig::read(dir)?;
        let open = |part: StableDiffusionComponent| {
            Weights::open(dir, part.layout(), &part.inventory(&config))
        };
        let unet = open(StableDiffusionComponent::Unet)?;
        let vae = open(StableDiffusionComponent::Vae)?;
        let text_encoder = open(StableDiffusionComponent::TextEncoder)?;
        Ok(Self {
            dir: dir.to_owned(),
            config,
            unet,
            vae,
            text_encoder,
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// As [`ModelFolder::files`].
    pub fn files(&self) -> Vec<PathBuf> {
        let configs = self.config.files_read(&self.dir).into_iter();
        files(configs, [&self.unet, &self.vae, &self.text_encoder])
    }

    /// As [`ModelFolder::identify`].
    pub fn identify(&self) -> Result<ModelIdentity, FolderError> {
        identify(&self.dir, &self.files())
    }
}

/// A folder of either kind.
#[derive(Debug, Clone)]
pub enum AnyModelFolder {
    StableVideoDiffusion(Box<ModelFolder>),
    StableDiffusion(Box<StableDiffusionFolder>),
}

impl AnyModelFolder {
    /// As [`ModelFolder::check`] or [`StableDiffusionFolder::check`], as the folder's `model_index.json` says.
    ///
    /// Errors: also a folder of another pipeline, which names both.
    pub fn check(dir: &Path) -> Result<Self, FolderError> {
        Ok(match Pipeline::read(dir)? {
            Pipeline::StableVideoDiffusion => {
                Self::StableVideoDiffusion(Box::new(ModelFolder::check(dir)?))
            }
            Pipeline::StableDiffusion => {
                Self::StableDiffusion(Box::new(StableDiffusionFolder::check(dir)?))
            }
        })
    }

    /// As [`ModelFolder::files`].
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::StableVideoDiffusion(folder) => folder.files(),
            Self::StableDiffusion(folder) => folder.files(),
        }
    }

    /// As [`ModelFolder::identify`].
    pub fn identify(&self) -> Result<ModelIdentity, FolderError> {
        match self {
            Self::StableVideoDiffusion(folder) => folder.identify(),
            Self::StableDiffusion(folder) => folder.identify(),
        }
    }

    /// Pixels per latent along each axis.
    pub fn vae_scale_factor(&self) -> usize {
        match self {
            Self::StableVideoDiffusion(folder) => folder.config.vae_scale_factor(),
            Self::StableDiffusion(folder) => folder.config.vae_scale_factor(),
        }
    }
}

/// These config files and the files of these weights, in order.
fn files<'a>(
    configs: impl Iterator<Item = &'static str>,
    weights: impl IntoIterator<Item = &'a Weights>,
) -> Vec<PathBuf> {
    let weights = weights.into_iter().flat_map(Weights::files).cloned();
    let mut paths: Vec<PathBuf> = configs.map(PathBuf::from).chain(weights).collect();
    paths.sort();
    paths
}

/// Hashes these files, which are in order.
fn identify(dir: &Path, paths: &[PathBuf]) -> Result<ModelIdentity, FolderError> {
    let mut files = Vec::new();
    let mut lines = String::new();
    for relative in paths {
        let path = dir.join(relative);
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
