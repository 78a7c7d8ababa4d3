use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use safetensors::View;

use super::tensor;
use crate::config::stable_diffusion::StableDiffusionConfig;
use crate::config::{ModelConfig, ModelIndex};
use crate::inventory::stable_diffusion::StableDiffusionComponent;
use crate::inventory::{Component, TensorSpec, WeightsLayout};
use crate::safetensors::Dtype;

/// Why a random model was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteModelError {
    #[error("{}: a model is there already; choose another folder", dir.display())]
    Exists { dir: PathBuf },
    #[error("{}: cannot be written: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{}: cannot be written: {source}", path.display())]
    Safetensors {
        path: PathBuf,
        source: safetensors::SafeTensorError,
    },
    #[error("weights are F16, BF16 or F32 (got {0})")]
    Dtype(Dtype),
}

/// Writes a whole model folder in diffusers' layout with random weights: a pure function of config, seed and dtype.
///
/// The parameter `p` of component `c` has the values of [`tensor`]`("c.p", shape, seed)`, rounded to `dtype`. Weights are
/// made one tensor at a time, so memory stays at the size of the largest. `model_index.json` is written last: a folder that
/// was left half-written is no model.
///
/// Errors: a folder that holds a model (a running engine may have its files mapped), an I/O error.
pub fn write_model(
    dir: &Path,
    config: &ModelConfig,
    seed: u64,
    dtype: Dtype,
) -> Result<(), WriteModelError> {
    let components =
        Component::ALL.map(|component| (component.layout(), component.inventory(config)));
    let files = config.to_files().into_iter();
    let files = files.map(|(path, json)| (path, format!("{json:#}\n")));
    write_folder(dir, components.into(), files.collect(), seed, dtype)
}

/// [`write_model`] for a folder of Stable Diffusion, the vocabulary of `config` included.
pub fn write_stable_diffusion(
    dir: &Path,
    config: &StableDiffusionConfig,
    seed: u64,
    dtype: Dtype,
) -> Result<(), WriteModelError> {
    let components =
        StableDiffusionComponent::ALL.map(|part| (part.layout(), part.inventory(config)));
    write_folder(dir, components.into(), config.to_files(), seed, dtype)
}

fn write_folder(
    dir: &Path,
    components: Vec<(WeightsLayout, Vec<TensorSpec>)>,
    files: Vec<(&'static str, String)>,
    seed: u64,
    dtype: Dtype,
) -> Result<(), WriteModelError> {
    storage(dtype)?;
    if dir.join(ModelIndex::FILE).exists() {
        return Err(WriteModelError::Exists {
            dir: dir.to_owned(),
        });
    }
    for (layout, inventory) in components {
        write_weights(dir, layout, inventory, seed, dtype)?;
    }
    let (index, others): (Vec<_>, Vec<_>) = files
        .into_iter()
        .partition(|(path, _)| *path == ModelIndex::FILE);
    for (path, text) in others.into_iter().chain(index) {
        let path = dir.join(path);
        make_parent(&path)?;
        fs::write(&path, text).map_err(|source| WriteModelError::Write { path, source })?;
    }
    Ok(())
}

/// Writes these tensors of one component, with the values that [`write_model`] gives them, where a model folder has them.
pub fn write_weights(
    dir: &Path,
    layout: WeightsLayout,
    tensors: Vec<TensorSpec>,
    seed: u64,
    dtype: Dtype,
) -> Result<(), WriteModelError> {
    let storage = storage(dtype)?;
    let synthetic = |TensorSpec { name, shape }| {
        let tensor = SyntheticTensor {
            stream: format!("{}.{name}", layout.dir),
            shape,
            seed,
            dtype,
            storage,
        };
        (name, tensor)
    };
    let tensors: Vec<(String, SyntheticTensor)> = tensors.into_iter().map(synthetic).collect();
    let path = dir
        .join(layout.dir)
        .join(format!("{}.safetensors", layout.stem));
    make_parent(&path)?;
    // transformers refuses a file that does not name its framework.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(tensors, Some(metadata), &path)
        .map_err(|source| WriteModelError::Safetensors { path, source })
}

fn make_parent(path: &Path) -> Result<(), WriteModelError> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    fs::create_dir_all(parent).map_err(|source| WriteModelError::Write {
        path: parent.to_owned(),
        source,
    })
}

fn storage(dtype: Dtype) -> Result<safetensors::Dtype, WriteModelError> {
    match dtype {
        Dtype::F16 => Ok(safetensors::Dtype::F16),
        Dtype::Bf16 => Ok(safetensors::Dtype::BF16),
        Dtype::F32 => Ok(safetensors::Dtype::F32),
        Dtype::I64 => Err(WriteModelError::Dtype(dtype)),
    }
}

/// A tensor that is made when its turn to be written comes.
struct SyntheticTensor {
    stream: String,
    shape: Vec<usize>,
    seed: u64,
    dtype: Dtype,
    storage: safetensors::Dtype,
}

impl View for SyntheticTensor {
    fn dtype(&self) -> safetensors::Dtype {
        self.storage
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = tensor(&self.stream, &self.shape, self.seed);
        Cow::Owned(self.dtype.to_bytes(&values))
    }

    fn data_len(&self) -> usize {
        self.dtype.size() * self.shape.iter().product::<usize>()
    }
}
