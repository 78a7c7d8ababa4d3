//! The models of this machine: one folder each, checked whole and hashed before it is offered.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use flowai_actors::ids::{ModelId, Sha256};
use flowai_actors::limits::{FRAMES_MAX, SIDE_PX_MULTIPLE};
use flowai_actors::messages::{ModelFamily, ModelOffer, RefusedModel};
use flowai_actors::spec::SpecLimits;
use flowai_model::adapter::ModuleTable;
use flowai_model::config::stable_diffusion::{TextEncoderConfig, Unet2dConfig};
use flowai_model::config::{ConfigError, UnetConfig};
use flowai_model::{AnyModelFolder, FolderError, ModelIdentity};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// In the data folder; safe to delete, which costs hashing the models again.
const HASHES_FILE: &str = "model-hashes.json";
/// A folder of another model may miss thousands of tensors; a message must stay small.
const REASON_CHARS_MAX: usize = 2_000;
/// The same of many folders: a node whose registration is too large for the link is none.
const REFUSED_TOLD_MAX: usize = 32;

/// A model that may be offered.
#[derive(Debug, Clone)]
pub struct LocalModel {
    pub id: ModelId,
    pub dir: PathBuf,
    pub identity: ModelIdentity,
    pub offer: ModelOffer,
    /// The files as they were when they were hashed.
    stamps: Vec<FileStamp>,
}

impl LocalModel {
    /// The modules that an adapter for this model may change.
    ///
    /// # Errors
    /// The config that was checked at the start does not read any more, a bug.
    pub fn module_table(&self) -> Result<ModuleTable, ConfigError> {
        let ModelOffer {
            family,
            unet_config,
            text_encoder_config,
            ..
        } = &self.offer;
        Ok(match family {
            ModelFamily::Svd => {
                ModuleTable::of(&UnetConfig::from_json(UnetConfig::FILE, unet_config)?)
            }
            ModelFamily::Sd => {
                let text_encoder = text_encoder_config.as_ref().unwrap_or(&Value::Null);
                ModuleTable::of_stable_diffusion(
                    &Unet2dConfig::from_json(Unet2dConfig::FILE, unet_config)?,
                    &TextEncoderConfig::from_json(TextEncoderConfig::FILE, text_encoder)?,
                )
            }
        })
    }

    /// Whether the folder has the files of the scan, with the same sizes and times, so that the hash still names them.
    ///
    /// Errors: it is no whole model any more.
    pub(crate) fn is_unchanged(&self) -> Result<bool, Refusal> {
        let folder = AnyModelFolder::check(&self.dir)?;
        Ok(stamps(&self.dir, &folder)? == self.stamps)
    }
}

/// What lies in the models folder. Read once, at the start: model files are not changed under a running engine.
#[derive(Debug, Default)]
pub struct Models {
    offered: BTreeMap<ModelId, Arc<LocalModel>>,
    refused: Vec<RefusedModel>,
}

/// The models folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct ScanError {
    pub path: PathBuf,
    source: io::Error,
}

/// Why one folder is not offered, or used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("{file}: {source}")]
    File { file: String, source: io::Error },
    #[error("{0}")]
    Name(String),
}

impl Models {
    /// Checks and hashes every folder in `models_dir`. Hashes are kept in `data_dir` and taken from there as long as sizes
    /// and times of a model's files are the same.
    ///
    /// # Errors
    /// A folder that cannot be listed. One bad model is no error, see [`Models::refused`].
    pub fn scan(models_dir: &Path, data_dir: &Path) -> Result<Self, ScanError> {
        let failed = |source| ScanError {
            path: models_dir.to_owned(),
            source,
        };
        let mut entries = fs::read_dir(models_dir)
            .and_then(|entries| entries.collect::<io::Result<Vec<_>>>())
            .map_err(failed)?;
        entries.sort_by_key(fs::DirEntry::file_name);

        let hashes_path = data_dir.join(HASHES_FILE);
        let known = KnownHashes::read(&hashes_path);
        let mut hashes = KnownHashes::default();
        let mut models = Self::default();
        for entry in entries {
            let folder = entry.file_name().to_string_lossy().into_owned();
            let dir = entry.path();
            if folder.starts_with('.') || !dir.is_dir() {
                continue;
            }
            match check(&folder, &dir, &known) {
                Ok(model) => {
                    tracing::info!(model = folder, sha256 = %model.offer.sha256, "model is offered");
                    hashes.remember(&model);
                    models.offered.insert(model.id.clone(), Arc::new(model));
                }
                Err(refusal) => {
                    let reason: String =
                        refusal.to_string().chars().take(REASON_CHARS_MAX).collect();
                    tracing::warn!(folder, reason, "model is not offered");
                    if models.refused.len() < REFUSED_TOLD_MAX {
                        models.refused.push(RefusedModel { folder, reason });
                    }
                }
            }
        }
        if let Err(error) = hashes.write(&hashes_path) {
            tracing::warn!(path = %hashes_path.display(), %error, "model hashes are not kept; the next start hashes again");
        }
        Ok(models)
    }

    pub fn get(&self, id: &ModelId) -> Option<&Arc<LocalModel>> {
        self.offered.get(id)
    }

    pub fn offered(&self) -> impl Iterator<Item = &Arc<LocalModel>> {
        self.offered.values()
    }

    /// Folders that are not offered, and why: the first [`REFUSED_TOLD_MAX`], the log has all.
    pub fn refused(&self) -> &[RefusedModel] {
        &self.refused
    }
}

fn check(name: &str, dir: &Path, known: &KnownHashes) -> Result<LocalModel, Refusal> {
    let id: ModelId = name
        .parse()
        .map_err(|error| Refusal::Name(format!("folder name: {error}")))?;
    let folder = AnyModelFolder::check(dir)?;
    let stamps = stamps(dir, &folder)?;
    let identity = match known.identity(name, dir, &stamps) {
        Some(identity) => identity.clone(),
        None => folder.identify()?,
    };
    let offer = offer(&id, dir, &folder, &identity)?;
    Ok(LocalModel {
        id,
        dir: dir.to_owned(),
        identity,
        offer,
        stamps,
    })
}

fn offer(
    id: &ModelId,
    dir: &Path,
    folder: &AnyModelFolder,
    identity: &ModelIdentity,
) -> Result<ModelOffer, Refusal> {
    let (family, frames_max, text_encoder) = match folder {
        AnyModelFolder::StableVideoDiffusion(_) => (ModelFamily::Svd, FRAMES_MAX, None),
        AnyModelFolder::StableDiffusion(_) => (ModelFamily::Sd, 1, Some(TextEncoderConfig::FILE)),
    };
    let vae = u32::try_from(folder.vae_scale_factor()).unwrap_or(u32::MAX);
    Ok(ModelOffer {
        id: id.clone(),
        sha256: Sha256::from_bytes(*identity.sha256.as_bytes()),
        family,
        // At the same place in both layouts.
        unet_config: read_json(dir, UnetConfig::FILE)?,
        text_encoder_config: text_encoder.map(|file| read_json(dir, file)).transpose()?,
        limits: SpecLimits {
            // Both are powers of two, so the greater is a multiple of the other. The UNet asks for no multiple of its own:
            // its upsamplers take the size of the level they join.
            side_multiple: vae.max(SIDE_PX_MULTIPLE),
            frames_max,
        },
    })
}

fn read_json(dir: &Path, file: &str) -> Result<Value, Refusal> {
    let failed = |source| Refusal::File {
        file: file.to_owned(),
        source,
    };
    let text = fs::read(dir.join(file)).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|error| failed(error.into()))
}

/// One file as it was when it was hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FileStamp {
    path: PathBuf,
    bytes: u64,
    /// Nanoseconds since 1970; negative for a file that claims to be older.
    modified_ns: i64,
}

/// Every file that the hash covers: those that the engine reads.
fn stamps(dir: &Path, folder: &AnyModelFolder) -> Result<Vec<FileStamp>, Refusal> {
    let stamp = |path: PathBuf| {
        stamp(dir, &path).map_err(|source| Refusal::File {
            file: path.display().to_string(),
            source,
        })
    };
    folder.files().into_iter().map(stamp).collect()
}

fn stamp(dir: &Path, path: &Path) -> io::Result<FileStamp> {
    let metadata = fs::metadata(dir.join(path))?;
    let modified = metadata.modified()?;
    let nanoseconds = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    let modified_ns = match modified.duration_since(UNIX_EPOCH) {
        Ok(since) => nanoseconds(since),
        Err(before) => -nanoseconds(before.duration()),
    };
    Ok(FileStamp {
        path: path.to_owned(),
        bytes: metadata.len(),
        modified_ns,
    })
}

/// Identities that were computed before, by folder name.
#[derive(Debug, Default, Serialize, Deserialize)]
struct KnownHashes(BTreeMap<String, KnownModel>);

#[derive(Debug, Serialize, Deserialize)]
struct KnownModel {
    dir: PathBuf,
    files: Vec<FileStamp>,
    identity: ModelIdentity,
}

impl KnownHashes {
    /// What cannot be read is not known: it costs hashing again.
    fn read(path: &Path) -> Self {
        let Ok(text) = fs::read(path) else {
            return Self::default();
        };
        serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "model hashes are not readable; hashing again");
            Self::default()
        })
    }

    fn identity(&self, name: &str, dir: &Path, files: &[FileStamp]) -> Option<&ModelIdentity> {
        let known = self.0.get(name)?;
        (known.dir == dir && known.files == files).then_some(&known.identity)
    }

    fn remember(&mut self, model: &LocalModel) {
        let known = KnownModel {
            dir: model.dir.clone(),
            files: model.stamps.clone(),
            identity: model.identity.clone(),
        };
        self.0.insert(model.id.to_string(), known);
    }

    /// Whole or not at all: a half-written file would not be read, but a rename is as simple.
    fn write(&self, path: &Path) -> io::Result<()> {
        let part = path.with_extension("part");
        fs::write(&part, serde_json::to_vec(self)?)?;
        fs::rename(&part, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_refused_folders_has_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let models_dir = folder.path().join("models");
        for n in 0..2 * REFUSED_TOLD_MAX {
            fs::create_dir_all(models_dir.join(format!("model-{n:03}"))).unwrap();
        }
        let models = Models::scan(&models_dir, folder.path()).unwrap();
        assert_eq!(models.refused().len(), REFUSED_TOLD_MAX);
        assert_eq!(models.refused()[0].folder, "model-000");
    }
}
