/// Why bytes are no acceptable safetensors file. Names come from the file and are quoted with escapes.
#[derive(Debug, thiserror::Error)]
pub enum SafetensorsError {
    #[error("cannot be read: {0}")]
    Read(#[source] std::io::Error),
    #[error("is {bytes} bytes long; the limit is {limit}")]
    FileTooLarge { bytes: u64, limit: u64 },
    #[error("is {bytes} bytes long, too short for a safetensors file")]
    TooShort { bytes: usize },
    #[error(
        "is a zip archive, as torch.save writes (.pt, .ckpt, .bin): it can run code when loaded and is never opened; convert it to safetensors"
    )]
    Zip,
    #[error(
        "is a pickle (.pt, .ckpt, .bin): it can run code when loaded and is never opened; convert it to safetensors"
    )]
    Pickle,
    #[error(
        "header would be {bytes} bytes long, the limit is {limit}: no safetensors file, or a bloated one"
    )]
    HeaderTooLong { bytes: u64, limit: u64 },
    #[error("header of {bytes} bytes is cut off: the file ends after {available}")]
    HeaderTruncated { bytes: u64, available: u64 },
    #[error("header does not begin with an object: no safetensors file")]
    NotAnObject,
    #[error("header is malformed: {0}")]
    Header(String),
    #[error("metadata has {bytes} bytes; the limit is {limit}")]
    MetadataTooLarge { bytes: usize, limit: usize },
    #[error("has {count} tensors; the limit is {limit}")]
    TooManyTensors { count: usize, limit: usize },
    #[error("key {0:?} is there twice")]
    DuplicateKey(String),
    #[error("tensor {name:?} is {dtype:?}; allowed are {allowed}")]
    Dtype {
        name: String,
        dtype: String,
        allowed: String,
    },
    #[error("a key is {bytes} bytes long; the limit is {limit}")]
    KeyTooLong { bytes: usize, limit: usize },
    #[error("tensor {name:?} has {rank} dimensions; the limit is {limit}")]
    TooManyDimensions {
        name: String,
        rank: usize,
        limit: usize,
    },
    #[error("shape of tensor {name:?} overflows")]
    ShapeOverflow { name: String },
    #[error(
        "tensor {name:?} needs {expected} bytes by its shape, but its offsets span {spanned:?}"
    )]
    SizeMismatch {
        name: String,
        expected: usize,
        spanned: Option<u64>,
    },
    #[error("tensors {first:?} and {second:?} overlap")]
    Overlap { first: String, second: String },
    #[error("{bytes} bytes before tensor {name:?} belong to no tensor")]
    Hole { name: String, bytes: u64 },
    #[error("tensor {name:?} ends at byte {end} of the data, but there are only {available}")]
    Truncated {
        name: String,
        end: u64,
        available: u64,
    },
    #[error("{bytes} bytes after the last tensor belong to no tensor")]
    TrailingBytes { bytes: u64 },
}
