//! A run at a step boundary, as bytes: one safetensors file from which another process goes on to the same clip.

use bytes::Bytes;
use flowai_model::Sha256Digest;
use flowai_model::safetensors::{Dtype as FileDtype, Limits, SafetensorsError, SafetensorsFile};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::device::Dtype;
use crate::engine::AdapterUse;
use crate::error::Result;
use crate::spec::Spec;
use crate::tensor_file::{self, StoredTensor};

/// Version of the file's layout and meaning.
const FORMAT: u32 = 1;
const METADATA_KEY: &str = "flowai_checkpoint";

/// A full-size checkpoint is 4 MB.
const LIMITS: Limits = Limits {
    file_bytes_max: 1 << 30,
    header_bytes_max: 1 << 20,
    tensors_max: 16,
    metadata_bytes_max: 1 << 20,
    dtypes: &[FileDtype::F16, FileDtype::Bf16, FileDtype::F32],
};

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("is no safetensors file: {0}")]
    File(#[from] SafetensorsError),
    #[error("is damaged or of another program: {0}")]
    Content(String),
    #[error("has format {found}, this engine reads {FORMAT}")]
    Format { found: u32 },
    /// Going on would give a clip that is neither the one nor the other.
    #[error("was made with another {what}: {made} there, {here} here")]
    Differs {
        what: &'static str,
        made: String,
        here: String,
    },
    #[error("cannot be written: {0}")]
    Write(String),
}

/// Everything but the tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointHeader {
    format: u32,
    /// Version of this crate.
    pub engine: String,
    /// The model's identity.
    pub model: Sha256Digest,
    pub adapters: Vec<AdapterUse>,
    pub spec: Spec,
    /// Precision of weights, latents and of the draw of the noise.
    pub dtype: Dtype,
    /// Bits are equal only on equal devices.
    pub device_class: String,
    /// Steps that are done; the next one has this index.
    pub step: usize,
    /// Bits of the f32 noise levels.
    pub sigmas: Vec<u32>,
}

/// What a run needs to go on.
#[derive(Debug)]
pub struct Checkpoint {
    pub header: CheckpointHeader,
    /// (1, F, L, h, w), in the precision the loop carries.
    pub(crate) latents: Tensor,
    /// (1, L, h, w), after the noise was added to the picture.
    pub(crate) image_latents: Tensor,
    /// (1, D)
    pub(crate) image_embeds: Tensor,
}

impl CheckpointHeader {
    pub(crate) fn new(
        model: Sha256Digest,
        adapters: Vec<AdapterUse>,
        spec: Spec,
        dtype: Dtype,
        device_class: String,
        step: usize,
        sigmas: &[f32],
    ) -> Self {
        Self {
            format: FORMAT,
            engine: env!("CARGO_PKG_VERSION").to_owned(),
            model,
            adapters,
            spec,
            dtype,
            device_class,
            step,
            sigmas: sigmas.iter().map(|sigma| sigma.to_bits()).collect(),
        }
    }

    /// Whether a run of this checkpoint can go on where `here` says what there is, at the same step.
    ///
    /// Errors: the first thing that differs, by name.
    pub(crate) fn require_same(&self, here: &Self) -> std::result::Result<(), CheckpointError> {
        let same = |what, made: &dyn ToString, here: &dyn ToString| {
            let (made, here) = (made.to_string(), here.to_string());
            match made == here {
                true => Ok(()),
                false => Err(CheckpointError::Differs { what, made, here }),
            }
        };
        same("model", &self.model, &here.model)?;
        same(
            "set of adapters",
            &describe(&self.adapters),
            &describe(&here.adapters),
        )?;
        self.require_same_spec(&here.spec)?;
        same("dtype", &self.dtype, &here.dtype)?;
        same("device class", &self.device_class, &here.device_class)?;
        same("engine version", &self.engine, &here.engine)?;
        if self.sigmas != here.sigmas {
            return Err(CheckpointError::Content(
                "its sigmas are not those of its spec".to_owned(),
            ));
        }
        Ok(())
    }

    /// Errors: the fields that differ from the spec of a job that wants to go on from here.
    pub fn require_same_spec(&self, spec: &Spec) -> std::result::Result<(), CheckpointError> {
        let fields = self.spec.differences(spec);
        if fields.is_empty() {
            return Ok(());
        }
        let values = |spec: &Spec| {
            let all = serde_json::to_value(spec).unwrap_or_default();
            let named = fields.iter().map(|name| format!("{name} {}", all[name]));
            named.collect::<Vec<_>>().join(", ")
        };
        Err(CheckpointError::Differs {
            what: "spec",
            made: values(&self.spec),
            here: values(spec),
        })
    }
}

impl Checkpoint {
    /// The file. Equal runs at equal steps give equal bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let write = |error: &dyn ToString| CheckpointError::Write(error.to_string());
        let header = serde_json::to_string(&self.header).map_err(|error| write(&error))?;
        let tensors = [
            ("latents", StoredTensor::new(&self.latents)?),
            ("image_latents", StoredTensor::new(&self.image_latents)?),
            ("image_embeds", StoredTensor::new(&self.image_embeds)?),
        ];
        let bytes = tensor_file::serialize(&tensors, Some((METADATA_KEY, header)));
        Ok(bytes.map_err(|error| write(&error))?)
    }

    /// Reads what [`Checkpoint::to_bytes`] wrote. Whether it fits an engine is asked by `Engine::resume`.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        let file =
            SafetensorsFile::parse(Bytes::from(bytes), &LIMITS).map_err(CheckpointError::from)?;
        let header = header(&file)?;
        let tensor = |name: &str| {
            let view = file.tensors.get(name);
            let view = view.ok_or_else(|| CheckpointError::Content(format!("has no {name}")))?;
            tensor_file::read(view)
        };
        Ok(Self {
            header,
            latents: tensor("latents")?,
            image_latents: tensor("image_latents")?,
            image_embeds: tensor("image_embeds")?,
        })
    }
}

fn header(file: &SafetensorsFile) -> std::result::Result<CheckpointHeader, CheckpointError> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let content = |error: serde_json::Error| CheckpointError::Content(error.to_string());
    let text = file.metadata.get(METADATA_KEY).ok_or_else(|| {
        CheckpointError::Content(format!("has no {METADATA_KEY} in its metadata"))
    })?;
    let found = serde_json::from_str::<Version>(text)
        .map_err(content)?
        .format;
    if found != FORMAT {
        return Err(CheckpointError::Format { found });
    }
    serde_json::from_str(text).map_err(content)
}

fn describe(adapters: &[AdapterUse]) -> String {
    if adapters.is_empty() {
        return "none".to_owned();
    }
    let each = adapters
        .iter()
        .map(|a| format!("{}={}", a.sha256, a.weight));
    each.collect::<Vec<_>>().join(", ")
}
