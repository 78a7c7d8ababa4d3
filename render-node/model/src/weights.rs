//! The weight files of one component of a model folder: found, mapped, and compared with the inventory.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::inventory::{TensorSpec, WeightsLayout};
use crate::safetensors::{Dtype, Limits, SafetensorsError, SafetensorsFile, TensorView};

/// Indices of sharded models are some 200 kB.
const INDEX_BYTES_MAX: u64 = 16 << 20;

/// Problems that an error text spells out before it only counts them.
const PROBLEMS_SHOWN: usize = 32;

/// Why a component's weights cannot be used. Paths are relative to the model folder.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("{dir}: has no weights; looked for {looked_for}")]
    Missing { dir: String, looked_for: String },
    #[error("{file}: {source}")]
    File {
        file: String,
        source: SafetensorsError,
    },
    #[error("{file}: cannot be read: {source}")]
    ReadIndex {
        file: String,
        source: std::io::Error,
    },
    #[error("{file}: is no index of shards: {reason}")]
    Index { file: String, reason: String },
    #[error("{dir}: weights do not fit the config: {problems}")]
    Tensors {
        dir: String,
        problems: TensorProblems,
    },
}

/// Everything that is wrong with a component's tensors. The text names the first 32 and counts the rest.
#[derive(Debug, PartialEq, Eq)]
pub struct TensorProblems(pub Vec<TensorProblem>);

/// One tensor that is not as the inventory says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum TensorProblem {
    #[error("{name} is missing")]
    Missing { name: String },
    #[error("{name:?} is unknown")]
    Unknown { name: String },
    #[error("{name} is there twice")]
    Twice { name: String },
    #[error("{name} has shape {found:?}, must have {expected:?}")]
    Shape {
        name: String,
        found: Vec<usize>,
        expected: Vec<usize>,
    },
    #[error("{name} is {found}, must be F16, BF16 or F32")]
    Dtype { name: String, found: &'static str },
}

impl fmt::Display for TensorProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().take(PROBLEMS_SHOWN).enumerate() {
            write!(f, "{}{problem}", if i == 0 { "" } else { "; " })?;
        }
        match self.0.len().saturating_sub(PROBLEMS_SHOWN) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// The tensors of one component, by their names in the inventory.
///
/// Nothing is copied: tensors are slices of mapped files, and pages are read when they are touched.
#[derive(Debug, Clone)]
pub struct Weights {
    tensors: BTreeMap<String, TensorView>,
    files: Vec<PathBuf>,
}

impl Weights {
    /// Opens what `<model_dir>/<layout.dir>/` holds, the first of: `STEM.safetensors`, `STEM.fp16.safetensors`, shards named
    /// by `STEM.safetensors.index.json` or `STEM.safetensors.index.fp16.json`, with the stem of the reference
    /// ([`WeightsLayout::stem`]). Names of older files become today's.
    ///
    /// Errors: no file, a file that is not well formed, or one [`WeightsError::Tensors`] that lists every tensor of
    /// `inventory` that is missing or of another shape, and every other one that is there.
    pub fn open(
        model_dir: &Path,
        layout: WeightsLayout,
        inventory: &[TensorSpec],
    ) -> Result<Self, WeightsError> {
        let files = find(model_dir, layout)?;
        let mut tensors = BTreeMap::new();
        let mut problems = Vec::new();
        for file in &files {
            let map = SafetensorsFile::map(&model_dir.join(file), &Limits::MODEL);
            let map = map.map_err(|source| WeightsError::File {
                file: file.display().to_string(),
                source,
            })?;
            for (name, tensor) in map.tensors {
                let Some(name) = (layout.canonical_name)(&name).map(|name| name.into_owned())
                else {
                    continue;
                };
                if tensors.insert(name.clone(), tensor).is_some() {
                    problems.push(TensorProblem::Twice { name });
                }
            }
        }
        compare(&tensors, inventory, &mut problems);
        if !problems.is_empty() {
            let problems = TensorProblems(problems);
            return Err(WeightsError::Tensors {
                dir: layout.dir.to_owned(),
                problems,
            });
        }
        Ok(Self { tensors, files })
    }

    /// The tensor of an inventory name; every name of the inventory that `open` was given is there.
    pub fn get(&self, name: &str) -> Option<&TensorView> {
        self.tensors.get(name)
    }

    /// All tensors, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TensorView)> {
        self.tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The safetensors files that were mapped, relative to the model folder.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }
}

/// Adds what differs between `tensors` and `inventory`, in order of names.
fn compare(
    tensors: &BTreeMap<String, TensorView>,
    inventory: &[TensorSpec],
    problems: &mut Vec<TensorProblem>,
) {
    for spec in inventory {
        let name = spec.name.clone();
        match tensors.get(&name) {
            None => problems.push(TensorProblem::Missing { name }),
            Some(tensor) if tensor.shape != spec.shape => {
                let (found, expected) = (tensor.shape.clone(), spec.shape.clone());
                problems.push(TensorProblem::Shape {
                    name,
                    found,
                    expected,
                });
            }
            Some(tensor) if tensor.dtype == Dtype::I64 => {
                problems.push(TensorProblem::Dtype {
                    name,
                    found: tensor.dtype.name(),
                });
            }
            Some(_) => {}
        }
    }
    let known: BTreeSet<&str> = inventory.iter().map(|spec| spec.name.as_str()).collect();
    let unknown = tensors.keys().filter(|name| !known.contains(name.as_str()));
    problems.extend(unknown.map(|name| TensorProblem::Unknown { name: name.clone() }));
    problems.sort();
}

/// The weight files of a component, relative to the model folder.
fn find(model_dir: &Path, layout: WeightsLayout) -> Result<Vec<PathBuf>, WeightsError> {
    let dir = Path::new(layout.dir);
    let stem = layout.stem;
    let single = [
        format!("{stem}.safetensors"),
        format!("{stem}.fp16.safetensors"),
    ];
    let sharded = [
        format!("{stem}.safetensors.index.json"),
        format!("{stem}.safetensors.index.fp16.json"),
    ];

    let there = |name: &&String| model_dir.join(dir).join(name).is_file();
    if let Some(name) = single.iter().find(there) {
        return Ok(vec![dir.join(name)]);
    }
    if let Some(name) = sharded.iter().find(there) {
        return shards(model_dir, &dir.join(name));
    }
    let looked_for = single
        .iter()
        .chain(&sharded)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    Err(WeightsError::Missing {
        dir: layout.dir.to_owned(),
        looked_for,
    })
}

/// The shards that an index names, each once.
fn shards(model_dir: &Path, index: &Path) -> Result<Vec<PathBuf>, WeightsError> {
    let file = || index.display().to_string();
    let read = |source| WeightsError::ReadIndex {
        file: file(),
        source,
    };
    let refuse = |reason: String| WeightsError::Index {
        file: file(),
        reason,
    };

    let mut text = Vec::new();
    let handle = File::open(model_dir.join(index)).map_err(read)?;
    handle
        .take(INDEX_BYTES_MAX)
        .read_to_end(&mut text)
        .map_err(read)?;
    let index_json: ShardIndex =
        serde_json::from_slice(&text).map_err(|error| refuse(error.to_string()))?;
    let names: BTreeSet<String> = index_json.weight_map.into_values().collect();
    if names.is_empty() {
        return Err(refuse("weight_map is empty".to_owned()));
    }
    let parent = index.parent().unwrap_or(Path::new(""));
    names
        .into_iter()
        .map(|name| {
            // A shard lies beside its index: a path out of the folder is an attack, not a layout.
            let plain = Path::new(&name)
                .file_name()
                .is_some_and(|file| file == name.as_str());
            if plain && name.ends_with(".safetensors") {
                Ok(parent.join(name))
            } else {
                Err(refuse(format!(
                    "weight_map names {name:?}, which is no safetensors file beside it"
                )))
            }
        })
        .collect()
}

#[derive(serde::Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}
