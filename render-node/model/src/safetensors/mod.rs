//! Safetensors files, read under caps and without copies.
//!
//! The format: 8 bytes little-endian header length, a JSON header `{name: {dtype, shape, data_offsets}}` with an
//! optional `__metadata__` of strings, then the tensors' bytes. The `safetensors` crate reads it too, but accepts a
//! 98 MB header with 1.7 million tensors (seconds of CPU, a gigabyte of memory) and duplicate keys; files that users
//! send need a stricter reader, and models get the same one with wider caps.

mod dtype;
mod error;
mod header;

#[cfg(test)]
pub(crate) mod corpus;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use bytes::Bytes;
use memmap2::Mmap;

pub use dtype::Dtype;
pub use error::SafetensorsError;

/// What a file may cost before its tensors are looked at.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub file_bytes_max: u64,
    /// Checked before the header is parsed.
    pub header_bytes_max: u64,
    pub tensors_max: usize,
    /// Keys and values of `__metadata__` together.
    pub metadata_bytes_max: usize,
    pub dtypes: &'static [Dtype],
}

impl Limits {
    /// A file of a model folder, which an operator chose. Stored position ids are the only integers.
    pub const MODEL: Self = Self {
        file_bytes_max: 64 << 30,
        header_bytes_max: 16 << 20,
        tensors_max: 100_000,
        metadata_bytes_max: 1 << 20,
        dtypes: &[Dtype::F16, Dtype::Bf16, Dtype::F32, Dtype::I64],
    };

    /// An adapter that a user sent. Where an integer may stand is for [`crate::gate`] to say.
    pub const ADAPTER: Self = Self {
        file_bytes_max: 1 << 30,
        header_bytes_max: 1 << 20,
        tensors_max: 20_000,
        metadata_bytes_max: 64 << 10,
        dtypes: &[Dtype::F16, Dtype::Bf16, Dtype::F32, Dtype::I64],
    };
}

/// One tensor of a file. Clones share the file's bytes, and keep its map alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorView {
    pub dtype: Dtype,
    /// Row-major, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Little-endian elements. A header's length decides where they start: not necessarily aligned to the dtype.
    pub data: Bytes,
}

impl TensorView {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The elements as f32: exact for F16, BF16 and F32, rounded for I64.
    pub fn to_f32(&self) -> Vec<f32> {
        self.dtype.to_f32(&self.data)
    }

    /// The greatest magnitude of an element; 0 when there is none.
    pub fn max_abs(&self) -> f32 {
        let values = self.to_f32();
        values.into_iter().map(f32::abs).fold(0.0, f32::max)
    }

    /// Position of the first element that is NaN or infinite.
    pub fn first_not_finite(&self) -> Option<usize> {
        self.dtype.first_not_finite(&self.data)
    }
}

/// A whole file: every tensor by name, and its metadata.
#[derive(Debug, Clone)]
pub struct SafetensorsFile {
    pub tensors: BTreeMap<String, TensorView>,
    pub metadata: BTreeMap<String, String>,
}

impl SafetensorsFile {
    /// Reads a file's bytes; tensors are slices of them.
    ///
    /// Errors: whatever is not exactly one well-formed file within `limits`; see [`SafetensorsError`].
    pub fn parse(bytes: Bytes, limits: &Limits) -> Result<Self, SafetensorsError> {
        let header = header::parse(&bytes, limits)?;
        let data = bytes.slice(header.data_start..);
        let tensors = header
            .tensors
            .into_iter()
            .map(|(name, entry)| {
                let view = TensorView {
                    dtype: entry.dtype,
                    shape: entry.shape,
                    data: data.slice(entry.range),
                };
                (name, view)
            })
            .collect();
        Ok(Self {
            tensors,
            metadata: header.metadata,
        })
    }

    /// Maps a file, then reads it as [`Self::parse`] does. The condition of [`map_file`] holds.
    pub fn map(path: &Path, limits: &Limits) -> Result<Self, SafetensorsError> {
        Self::parse(map_file(path, limits)?, limits)
    }
}

/// Maps a file into memory instead of reading it: pages are loaded when they are touched, and shared by processes.
///
/// The file must not be changed or truncated while the bytes or a [`TensorView`] of them live; keep stored files read-only.
pub fn map_file(path: &Path, limits: &Limits) -> Result<Bytes, SafetensorsError> {
    let file = File::open(path).map_err(SafetensorsError::Read)?;
    let metadata = file.metadata().map_err(SafetensorsError::Read)?;
    if metadata.is_dir() {
        return Err(SafetensorsError::Read(io::ErrorKind::IsADirectory.into()));
    }
    let length = metadata.len();
    if length > limits.file_bytes_max {
        return Err(SafetensorsError::FileTooLarge {
            bytes: length,
            limit: limits.file_bytes_max,
        });
    }
    if length == 0 {
        // An empty map is an error of the system call.
        return Ok(Bytes::new());
    }
    Ok(Bytes::from_owner(map(&file)?))
}

#[allow(
    unsafe_code,
    reason = "mapping is unsafe because another process may change the file under the map"
)]
fn map(file: &File) -> Result<Mmap, SafetensorsError> {
    // SAFETY: the documented condition of `map_file`; nothing in the house writes to a stored model or adapter.
    unsafe { Mmap::map(file) }.map_err(SafetensorsError::Read)
}
