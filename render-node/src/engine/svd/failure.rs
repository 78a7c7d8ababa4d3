//! What flowai-svd says is wrong, by the node's codes.

use flowai_actors::ids::Sha256;
use flowai_model::adapter::AdapterError;
use flowai_model::gate::GateError;
use flowai_model::safetensors::SafetensorsError;
use flowai_svd::lora::NotRead;
use flowai_svd::{EngineError as SvdError, PreprocessError};

use crate::engine::EngineError;
use crate::failure::{FailureCode, JobFailure};

impl From<SvdError> for EngineError {
    fn from(error: SvdError) -> Self {
        let code = match &error {
            SvdError::DeviceLost(reason) => return Self::Lost(reason.clone()),
            SvdError::Spec(_) => FailureCode::InvalidSpec,
            SvdError::Image(PreprocessError::Read { .. }) => FailureCode::DiskFailed,
            SvdError::Image(_) => FailureCode::InvalidImage,
            SvdError::Adapter(AdapterError::Gate(GateError::File(SafetensorsError::Read(_)))) => {
                FailureCode::DiskFailed
            }
            SvdError::Adapter(_) | SvdError::Lora(_) => FailureCode::AdapterIncompatible,
            SvdError::NotFinite { .. } => FailureCode::NotFinite,
            SvdError::OutOfMemory(_) => FailureCode::OutOfMemory,
            SvdError::Model(_)
            | SvdError::Weights(_)
            | SvdError::Device(_)
            | SvdError::Tokenizer(_) => FailureCode::ModelUnusable,
            SvdError::Torch(_) => FailureCode::LibtorchFailed,
            SvdError::Checkpoint(_) | SvdError::Finished { .. } | SvdError::Unfinished { .. } => {
                FailureCode::EngineFailed
            }
        };
        JobFailure::new(code, error).into()
    }
}

/// Says which adapter it is about: a job may have eight.
pub(crate) fn not_checked(sha256: Sha256, error: NotRead) -> EngineError {
    let error = match error {
        NotRead::Rotten(reason) => return EngineError::AdapterRotten { sha256, reason },
        NotRead::Unfit(error) => SvdError::from(error),
        NotRead::Engine(error) => error,
    };
    match error.into() {
        EngineError::Failed(JobFailure { code, detail, .. }) => {
            // Of the machine, for the adapter alone: it says nothing of the size of clips.
            let code = match code {
                FailureCode::OutOfMemory => FailureCode::EngineFailed,
                other => other,
            };
            JobFailure::new(code, format!("adapter {sha256}: {detail}")).into()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowai_model::picture::PictureError;

    #[test]
    fn causes_keep_their_kind() {
        let check = |error: SvdError, expected: FailureCode| match EngineError::from(error) {
            EngineError::Failed(failure) => assert_eq!(failure.code, expected),
            other => panic!("{other:?}"),
        };
        check(
            SvdError::OutOfMemory("CUDA out of memory".into()),
            FailureCode::OutOfMemory,
        );
        check(SvdError::NotFinite { step: 3 }, FailureCode::NotFinite);
        check(
            SvdError::Image(PictureError::NotAPicture.into()),
            FailureCode::InvalidImage,
        );
        let lost = EngineError::from(SvdError::DeviceLost("CUDA error".into()));
        assert!(matches!(lost, EngineError::Lost(_)));
    }
}
