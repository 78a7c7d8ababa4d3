//! What a clip was made from, stored and served with it (INV-11).

use serde::{Deserialize, Serialize};

use crate::ids::{Attempt, Epoch, Generation, JobId, NodeId, Sha256};
use crate::spec::RenderSpec;

/// Enough to make the same clip again on the same device class, and to tell when one is not the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this layout; readers refuse a greater one.
    pub manifest_version: u32,
    pub job: JobId,
    pub attempt: Attempt,
    pub epoch: Epoch,
    pub node: NodeId,
    pub generation: Generation,
    pub spec: RenderSpec,
    /// Over the model folder's sorted (relative path, sha256 of the file).
    pub model_sha256: Sha256,
    /// What was really fused, in the order of fusing.
    pub adapters: Vec<FusedAdapter>,
    /// What the keyframe was made with, if the spec asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyframe: Option<KeyframeMade>,
    /// Of a clip that several attempts made: the checkpoints on its way, the first one first. On one device class the clip is
    /// that of a render that was not interrupted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resumed: Vec<Resumed>,
    pub engine: EngineInfo,
    /// Equal device classes give equal bits.
    pub device_class: String,
    pub clip_sha256: Sha256,
    pub clip_bytes: u64,
    pub timings_ms: StageTimings,
}

impl Manifest {
    pub const VERSION: u32 = 2;
}

/// A checkpoint that an attempt was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    /// The attempt that left it.
    pub attempt: Attempt,
    /// The step after which the render went on; 0 where it began anew.
    pub step: u32,
    /// Why it began anew: the checkpoint was of another device class or engine, or could not be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anew: Option<String>,
}

/// A picture that was made from words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyframeMade {
    /// As [`Manifest::model_sha256`], of the keyframe model.
    pub model_sha256: Sha256,
    pub adapters: Vec<FusedAdapter>,
    /// Of the delivered PNG.
    pub sha256: Sha256,
    pub bytes: u64,
    /// Tokens that did not fit and were cut off the ends of the prompt and the negative one.
    pub tokens_cut: [u32; 2],
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FusedAdapter {
    pub sha256: Sha256,
    pub weight: f32,
    /// Modules whose weights it changed.
    pub modules: u32,
    /// Modules it names on which an adapter has no effect in this architecture.
    pub noop_modules: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineInfo {
    /// `svd`, or `stand-in` for the engine of fault tests, which renders no model.
    pub name: String,
    pub version: String,
    pub libtorch: Option<String>,
    pub encoder: String,
    /// `float32`, `bfloat16` or `float16`.
    pub dtype: String,
    /// The dtype in which noise was drawn: another one is another clip for the same seed.
    pub noise_dtype: String,
}

/// Wall time of each stage on the node, milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StageTimings {
    pub fetch: f64,
    pub fuse: f64,
    pub prepare: f64,
    /// From the words to the picture, its model's loading and fusing included; 0 where the picture was given.
    #[serde(default)]
    pub keyframe: f64,
    pub denoise: f64,
    /// Of painting previews within it, and of encoding them beside it.
    #[serde(default)]
    pub previews: f64,
    /// Decoding, with the encoding that ran beside it.
    pub decode: f64,
    /// What of the encoding was left after the last frame was decoded.
    pub encode_tail: f64,
    pub upload: f64,
}
