use flowai_model::adapter::AdapterError;
use flowai_model::{FolderError, WeightsError};
use tch::TchError;

use crate::checkpoint::CheckpointError;
use crate::lora::LoraError;
use crate::preprocess::PreprocessError;
use crate::spec::SpecError;

/// Why the engine could not do what it was asked. The engine itself stays usable, except after
/// [`EngineError::DeviceLost`].
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The model folder is not one the engine can offer.
    #[error("model: {0}")]
    Model(FolderError),
    #[error("model: {0}")]
    Weights(WeightsError),
    /// The device was named wrongly, or is not on this machine.
    #[error("device: {0}")]
    Device(String),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("image: {0}")]
    Image(PreprocessError),
    #[error("checkpoint: {0}")]
    Checkpoint(CheckpointError),
    /// A file is no adapter for this model; every key that does not fit is named.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    #[error("adapters: {0}")]
    Lora(#[from] LoraError),
    /// A vocabulary that the tokenizer refuses, although its folder was found complete.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A run has no steps left; decode it.
    #[error("run: all {steps} steps are done; decode it instead of stepping")]
    Finished { steps: usize },
    /// The frames were asked of a run that is still noisy.
    #[error("run: step {done} of {steps} is done; only a finished run can be decoded")]
    Unfinished { done: usize, steps: usize },
    /// The latents after a step, or frames after the last one, are not finite: the weights or the adapters are to blame,
    /// or a precision with too little range for them.
    #[error(
        "run: latents or frames are not finite after step {step}; the model or an adapter is broken, or needs another dtype"
    )]
    NotFinite { step: usize },
    /// The device has too little free memory. A smaller job, or a smaller decode chunk (another picture), may fit.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// A fault that poisons the device's context: the process must end and be started again.
    #[error("device is lost, restart the process: {0}")]
    DeviceLost(String),
    /// Whatever else libtorch refuses; a bug of the engine.
    #[error("libtorch: {0}")]
    Torch(TchError),
}

pub type Result<T> = std::result::Result<T, EngineError>;

// By hand and not by `#[from]`: that would make the cause a source as well, and a report of all sources say it twice.
macro_rules! wraps {
    ($($variant:ident($cause:ty)),*) => {$(
        impl From<$cause> for EngineError {
            fn from(cause: $cause) -> Self {
                Self::$variant(cause)
            }
        }
    )*};
}

wraps!(
    Model(FolderError),
    Weights(WeightsError),
    Image(PreprocessError),
    Checkpoint(CheckpointError)
);

impl From<TchError> for EngineError {
    /// libtorch tells its errors apart only by their text.
    fn from(error: TchError) -> Self {
        let text = error.to_string();
        match Fault::of(&text) {
            Fault::OutOfMemory => Self::OutOfMemory(first_line(&text)),
            Fault::DeviceLost => Self::DeviceLost(first_line(&text)),
            Fault::Other => Self::Torch(error),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    OutOfMemory,
    DeviceLost,
    Other,
}

impl Fault {
    /// The texts are those of `c10/cuda/CUDAException.cpp`, `aten/src/ATen/cuda/Exceptions.h` and the allocators of libtorch 2.11.
    fn of(text: &str) -> Self {
        let says_one = |words: &[&str]| words.iter().any(|words| text.contains(words));
        // First: libraries of CUDA report it as an error of CUDA.
        let out_of_memory = [
            "out of memory",
            "can't allocate memory",
            "not enough memory",
            "STATUS_ALLOC_FAILED",
        ];
        let device_lost = [
            "CUDA error",
            "CUDA driver error",
            "device-side assert",
            "STATUS_EXECUTION_FAILED",
            "STATUS_INTERNAL_ERROR",
        ];
        // oneDNN, where there is no room for a convolution's code or its scratch. An operation that it has no code for is one
        // without a descriptor.
        let of_one_dnn = "could not create a primitive";
        let has_no_room =
            text.contains(of_one_dnn) && !text.contains("could not create a primitive descriptor");
        if says_one(&out_of_memory) || has_no_room {
            Self::OutOfMemory
        } else if says_one(&device_lost) {
            Self::DeviceLost
        } else {
            Self::Other
        }
    }
}

/// The rest of a libtorch message is a C++ backtrace.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::Fault::{DeviceLost, Other, OutOfMemory};
    use super::*;

    #[test]
    fn faults_are_told_apart_by_what_libtorch_says() {
        for (text, fault) in [
            (
                "CUDA out of memory. Tried to allocate 2.00 GiB",
                OutOfMemory,
            ),
            ("CUDA error: out of memory", OutOfMemory),
            (
                "[enforce fail] DefaultCPUAllocator: can't allocate memory",
                OutOfMemory,
            ),
            (
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
                OutOfMemory,
            ),
            ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", OutOfMemory),
            ("could not create a primitive", OutOfMemory),
            (
                "could not create a primitive descriptor for the concat primitive",
                Other,
            ),
            (
                "CUDA error: an illegal memory access was encountered",
                DeviceLost,
            ),
            ("CUDA error: device-side assert triggered", DeviceLost),
            ("CUDA driver error: unknown error", DeviceLost),
            (
                "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`",
                DeviceLost,
            ),
            ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", DeviceLost),
            (
                "cuDNN Frontend error: CUDNN_STATUS_INTERNAL_ERROR",
                DeviceLost,
            ),
            (
                "The size of tensor a (3) must match the size of tensor b (4)",
                Other,
            ),
            ("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED", Other),
        ] {
            assert_eq!(Fault::of(text), fault, "{text}");
        }
    }
}
