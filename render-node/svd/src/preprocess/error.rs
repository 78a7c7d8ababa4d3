use std::io;
use std::path::PathBuf;

use flowai_model::picture::PictureError;

/// Why a file is not a picture that a clip can start from.
#[derive(Debug, thiserror::Error)]
pub enum PreprocessError {
    #[error("{}: cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Gate(#[from] PictureError),
    #[error("pixels are {found} bytes; {width}x{height} RGB is {expected}")]
    PixelCount {
        width: u32,
        height: u32,
        found: usize,
        expected: usize,
    },
}
