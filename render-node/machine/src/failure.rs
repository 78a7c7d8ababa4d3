//! Why a job was not rendered, in the words that its owner reads.

use std::fmt;

use flowai_actors::messages::{Outcome, Stage};

/// Longer texts are cut: a message must stay small, and nobody reads more.
const DETAIL_CHARS_MAX: usize = 4_000;

/// A job that cannot be rendered here. The node itself is well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct JobFailure {
    pub code: FailureCode,
    /// What is wrong and where, for the owner.
    pub detail: String,
    /// Which of the job's models was at work.
    pub stage: Stage,
}

/// What kind of failure: stable names for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureCode {
    /// A field of the spec is out of what the model can do, or the order contradicts itself.
    InvalidSpec,
    /// The picture is none, damaged or of an impossible size.
    InvalidImage,
    /// A file is no adapter, or not one for this model (invariant 10).
    AdapterIncompatible,
    /// The store holds other bytes than the order names.
    InputCorrupt,
    /// The result is not a finite number anywhere: the adapters are too strong or the model is broken.
    NotFinite,
    /// The leader does not take the files.
    UploadRefused,
    /// A file could not be fetched.
    InputUnavailable,
    /// The device or the machine has too little memory for this job now.
    OutOfMemory,
    /// The model's folder is not what it was when it was offered.
    ModelUnusable,
    /// The frames could not be made into a clip.
    EncodingFailed,
    /// The store did not take the files.
    UploadFailed,
    /// The node's own disk.
    DiskFailed,
    /// The library that computes refused an operation, on this machine and with this build of it.
    LibtorchFailed,
    /// Whatever else the engine says.
    EngineFailed,
}

impl FailureCode {
    pub const ALL: [Self; 14] = [
        Self::InvalidSpec,
        Self::InvalidImage,
        Self::AdapterIncompatible,
        Self::InputCorrupt,
        Self::NotFinite,
        Self::UploadRefused,
        Self::InputUnavailable,
        Self::OutOfMemory,
        Self::ModelUnusable,
        Self::EncodingFailed,
        Self::UploadFailed,
        Self::DiskFailed,
        Self::LibtorchFailed,
        Self::EngineFailed,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidSpec => "invalid_spec",
            Self::InvalidImage => "invalid_image",
            Self::AdapterIncompatible => "adapter_incompatible",
            Self::InputCorrupt => "input_corrupt",
            Self::NotFinite => "not_finite",
            Self::UploadRefused => "upload_refused",
            Self::InputUnavailable => "input_unavailable",
            Self::OutOfMemory => "out_of_memory",
            Self::ModelUnusable => "model_unusable",
            Self::EncodingFailed => "encoding_failed",
            Self::UploadFailed => "upload_failed",
            Self::DiskFailed => "disk_failed",
            Self::LibtorchFailed => "libtorch_failed",
            Self::EngineFailed => "engine_failed",
        }
    }

    /// Whether another node, or this one later, may succeed. What lies in the job itself does not pass.
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::InvalidSpec
            | Self::InvalidImage
            | Self::AdapterIncompatible
            | Self::InputCorrupt
            | Self::NotFinite
            | Self::UploadRefused => false,
            Self::InputUnavailable
            | Self::OutOfMemory
            | Self::ModelUnusable
            | Self::EncodingFailed
            | Self::UploadFailed
            | Self::DiskFailed
            | Self::LibtorchFailed
            | Self::EngineFailed => true,
        }
    }
}

impl fmt::Display for FailureCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl JobFailure {
    pub fn new(code: FailureCode, detail: impl fmt::Display) -> Self {
        let mut detail = detail.to_string();
        if let Some((end, _)) = detail.char_indices().nth(DETAIL_CHARS_MAX) {
            detail.truncate(end);
            detail.push('…');
        }
        Self {
            code,
            detail,
            stage: Stage::Clip,
        }
    }
}

impl From<JobFailure> for Outcome {
    fn from(failure: JobFailure) -> Self {
        Self::Failed {
            code: failure.code.as_str().to_owned(),
            detail: failure.detail,
            retryable: failure.code.is_retryable(),
            stage: failure.stage,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct() {
        let mut names = FailureCode::ALL.map(FailureCode::as_str).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FailureCode::ALL.len());
    }

    #[test]
    fn a_long_detail_is_cut_between_characters() {
        let failure = JobFailure::new(FailureCode::InvalidSpec, "ä".repeat(5_000));
        assert_eq!(failure.detail.chars().count(), DETAIL_CHARS_MAX + 1);
    }
}
