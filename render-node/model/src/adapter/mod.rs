//! Adapters: LoRA files as low-rank changes of named modules.
//!
//! A key is looked up in a table of the model's modules and never rebuilt by rules, so it either names a module or is an
//! error. A file is taken whole or not at all: everything that does not fit is listed in one [`AdapterError`]
//! (invariant 10: a job is never rendered without its adapter).

mod error;
mod family;
mod key;
mod magnitude;
mod settings;
mod table;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use bytes::Bytes;

use crate::Sha256Digest;
use crate::gate;
use crate::safetensors::{Limits, SafetensorsFile, TensorView, map_file};
use key::{ParsedKey, Role};
use magnitude::MagnitudeForm;
use settings::{FileSettings, Settings};

pub use error::{AdapterError, AdapterProblem, AdapterProblems, Scheme};
pub use family::Family;
pub use key::AdapterFormat;
pub use magnitude::{Magnitude, MagnitudeAxis};
pub use table::{Module, ModuleTable, TEXT_ENCODER_PREFIX};

/// What PEFT's `save_pretrained` calls its two files.
const PEFT_WEIGHTS_FILE: &str = "adapter_model.safetensors";
const PEFT_CONFIG_FILE: &str = "adapter_config.json";

/// An adapter whose every tensor fits the model.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// Of the file's bytes. Where an `adapter_config.json` says how strong it is, of the hashes of both files: another alpha
    /// is another adapter.
    pub sha256: Sha256Digest,
    /// What changes the result, in order of module paths.
    pub modules: Vec<ModuleDelta>,
    /// Modules that the file changes and that change nothing: queries and keys of cross-attention, whose softmax runs over
    /// one key in Stable Video Diffusion.
    pub noop_modules: Vec<String>,
    pub report: AdapterReport,
}

/// A change of one module's weight: `scale * up @ down`, both flattened to matrices and the product viewed as the weight.
/// With a magnitude the changed weight is normalised and scaled after that.
#[derive(Debug, Clone)]
pub struct ModuleDelta {
    /// Path in the UNet, as in `down_blocks.0.attentions.0.proj_in`, or behind [`TEXT_ENCODER_PREFIX`] in a text encoder; the
    /// weight is `<module>.weight`.
    pub module: String,
    pub rank: usize,
    /// alpha / rank, or alpha / sqrt(rank) for rank-stabilised adapters. A job's weight for the adapter multiplies it.
    pub scale: f64,
    /// (rank, in, kernel..)
    pub down: TensorView,
    /// (out, rank, 1..)
    pub up: TensorView,
    pub magnitude: Option<Magnitude>,
    /// No number of `scale * up @ down` is greater.
    pub change_max: f64,
}

impl ModuleDelta {
    /// Shape of the weight that it changes, as the reference has it.
    pub fn weight_shape(&self) -> Vec<usize> {
        [&self.up.shape[..1], &self.down.shape[1..]].concat()
    }
}

/// What an adapter is, for its owner and for the manifest.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct AdapterReport {
    pub sha256: Sha256Digest,
    pub bytes: usize,
    pub family: Family,
    /// Naming conventions found among the keys; one, but for files that were merged.
    pub formats: BTreeSet<AdapterFormat>,
    /// How many modules have which rank, no-ops included.
    pub ranks: BTreeMap<usize, usize>,
    /// Modules that change the result.
    pub modules: usize,
    /// Modules that the file changes without effect.
    pub noop_modules: usize,
    /// Numbers in all halves and magnitudes together.
    pub parameters: usize,
}

impl Adapter {
    /// Maps a file and checks it as [`Self::read`] does. A file named as PEFT's `save_pretrained` names it takes its alpha
    /// from the `adapter_config.json` beside it.
    ///
    /// The file must not be changed while the adapter lives.
    pub fn open(path: &Path, table: &ModuleTable) -> Result<Self, AdapterError> {
        let config = match path.file_name() {
            Some(name) if name == PEFT_WEIGHTS_FILE => {
                read_if_there(&path.with_file_name(PEFT_CONFIG_FILE))?
            }
            _ => None,
        };
        let bytes = map_file(path, &Limits::ADAPTER).map_err(gate::GateError::from)?;
        Self::read(bytes, config.as_deref(), table)
    }

    /// Checks a file's bytes by the gate and resolves every key in the table. `peft_config` is the content of an
    /// `adapter_config.json`, for adapters that come as a folder.
    ///
    /// Errors: the gate's; settings that ask for something else than a LoRA; or one list of everything that does not fit.
    pub fn read(
        bytes: Bytes,
        peft_config: Option<&str>,
        table: &ModuleTable,
    ) -> Result<Self, AdapterError> {
        let sha256 = identity(&bytes, peft_config);
        Self::read_hashed(bytes, sha256, peft_config, table)
    }

    /// [`Self::read`] of bytes whose [`Self::sha256`] the caller has computed.
    pub fn read_hashed(
        bytes: Bytes,
        sha256: Sha256Digest,
        peft_config: Option<&str>,
        table: &ModuleTable,
    ) -> Result<Self, AdapterError> {
        let file = gate::check(bytes.clone())?;
        let settings = FileSettings::read(&file.metadata, peft_config)?;
        let mut problems = Vec::new();
        let halves = sort_into_modules(&file, table, &mut problems);

        let mut modules = Vec::new();
        let mut noop_modules = Vec::new();
        let mut formats = BTreeSet::new();
        for (module, halves) in halves {
            formats.extend(halves.formats.iter().copied());
            let Some(delta) = halves.complete(module, settings.of(&module.path), &mut problems)
            else {
                continue;
            };
            modules.push(delta);
        }
        if settings.is_empty() && formats.contains(&AdapterFormat::PeftFolder) {
            problems.push(AdapterProblem::AlphaUnknown);
        }
        if !problems.is_empty() {
            let family = family::foreign(&file, table.family());
            return Err(AdapterError::DoesNotFit {
                problems: AdapterProblems(problems),
                family,
            });
        }

        let mut ranks = BTreeMap::new();
        let mut parameters = 0;
        for delta in &modules {
            *ranks.entry(delta.rank).or_default() += 1;
            parameters += delta.down.elements() + delta.up.elements();
            let magnitude = delta.magnitude.as_ref();
            parameters += magnitude.map_or(0, |magnitude| magnitude.values.elements());
        }
        modules.retain(|delta| {
            let effective = !table.is_noop(&delta.module);
            if !effective {
                noop_modules.push(delta.module.clone());
            }
            effective
        });
        let report = AdapterReport {
            sha256,
            bytes: bytes.len(),
            family: table.family(),
            formats,
            ranks,
            modules: modules.len(),
            noop_modules: noop_modules.len(),
            parameters,
        };
        Ok(Self {
            sha256,
            modules,
            noop_modules,
            report,
        })
    }
}

/// See [`Adapter::sha256`].
fn identity(bytes: &[u8], peft_config: Option<&str>) -> Sha256Digest {
    let weights = Sha256Digest::of(bytes);
    match peft_config {
        None => weights,
        Some(config) => {
            let config = Sha256Digest::of(config.as_bytes());
            Sha256Digest::of(&[*weights.as_bytes(), *config.as_bytes()].concat())
        }
    }
}

/// What a file holds for one module so far: each tensor with its key.
#[derive(Default)]
struct Halves {
    down: Option<(String, TensorView)>,
    up: Option<(String, TensorView)>,
    alpha: Option<(String, TensorView)>,
    magnitude: Option<(String, TensorView)>,
    /// Of `magnitude`.
    magnitude_form: Option<MagnitudeForm>,
    formats: BTreeSet<AdapterFormat>,
}

fn sort_into_modules<'t>(
    file: &SafetensorsFile,
    table: &'t ModuleTable,
    problems: &mut Vec<AdapterProblem>,
) -> BTreeMap<&'t Module, Halves> {
    let mut modules: BTreeMap<&Module, Halves> = BTreeMap::new();
    for (key, tensor) in &file.tensors {
        let (path, role, format) = match key::parse(key) {
            ParsedKey::Lora { path, role, format } => (path, role, format),
            ParsedKey::Unimplemented(scheme) => {
                problems.push(AdapterProblem::Unimplemented {
                    key: key.clone(),
                    scheme,
                });
                continue;
            }
            ParsedKey::Unknown => {
                problems.push(AdapterProblem::UnknownKey { key: key.clone() });
                continue;
            }
        };
        let Some(module) = table.find(&path) else {
            problems.push(AdapterProblem::UnknownKey { key: key.clone() });
            continue;
        };
        let halves = modules.entry(module).or_default();
        halves.formats.extend(format);
        let place = match role {
            Role::Down => &mut halves.down,
            Role::Up => &mut halves.up,
            Role::Alpha => &mut halves.alpha,
            Role::Magnitude(form) => {
                halves.magnitude_form = Some(form);
                &mut halves.magnitude
            }
        };
        match place {
            None => *place = Some((key.clone(), tensor.clone())),
            Some((first, _)) => {
                let (first, second) = (first.clone(), key.clone());
                problems.push(AdapterProblem::SamePart { first, second });
            }
        }
    }
    modules
}

impl Halves {
    /// The module's change, or `None` after adding what is wrong with it.
    fn complete(
        self,
        module: &Module,
        settings: Option<&Settings>,
        problems: &mut Vec<AdapterProblem>,
    ) -> Option<ModuleDelta> {
        let (down, up) = match (self.down, self.up) {
            (Some(down), Some(up)) => (down, up),
            (Some((key, _)), None) | (None, Some((key, _))) => {
                problems.push(AdapterProblem::OtherHalfMissing { key });
                return None;
            }
            (None, None) => {
                let keys = [self.alpha, self.magnitude].into_iter().flatten();
                problems.extend(keys.map(|(key, _)| AdapterProblem::OtherHalfMissing { key }));
                return None;
            }
        };
        let before = problems.len();
        let rank = module.check_shapes(&down, &up, problems);
        let alpha = self
            .alpha
            .and_then(|(key, tensor)| match tensor.to_f32().as_slice() {
                [alpha] => Some(f64::from(*alpha)),
                _ => {
                    let (found, expected) = (tensor.shape, "one number".to_owned());
                    problems.push(AdapterProblem::Shape {
                        key,
                        found,
                        expected,
                    });
                    None
                }
            });
        let magnitude = self
            .magnitude_form
            .zip(self.magnitude)
            .and_then(|(form, magnitude)| module.magnitude(form, magnitude, problems));
        if problems.len() > before {
            return None;
        }
        let says = settings.and_then(|settings| settings.use_dora);
        if let Some(says) = says.filter(|says| *says != magnitude.is_some()) {
            let module = module.path.clone();
            problems.push(AdapterProblem::DoraDisagrees { module, says });
            return None;
        }
        let rank = rank?;
        let scale = match settings {
            Some(settings) => settings.scale(&module.path, rank, alpha),
            None => alpha.map_or(1.0, |alpha| alpha / rank as f64),
        };
        let change_max =
            scale.abs() * rank as f64 * f64::from(up.1.max_abs()) * f64::from(down.1.max_abs());
        Some(ModuleDelta {
            module: module.path.clone(),
            rank,
            scale,
            change_max,
            down: down.1,
            up: up.1,
            magnitude,
        })
    }
}

/// A small text file's content, or `None` when there is none.
fn read_if_there(path: &Path) -> Result<Option<String>, AdapterError> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() <= settings::CONFIG_BYTES_MAX => {}
        Ok(_) => {
            return Err(AdapterError::settings(
                PEFT_CONFIG_FILE,
                "is over 1 MiB long",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(AdapterError::settings(PEFT_CONFIG_FILE, error.to_string())),
    }
    let text = std::fs::read_to_string(path);
    text.map(Some)
        .map_err(|error| AdapterError::settings(PEFT_CONFIG_FILE, error.to_string()))
}
