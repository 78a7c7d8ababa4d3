use std::io;
use std::path::PathBuf;

use image::{ImageError, ImageFormat};

/// Why a file is not a picture that a clip can start from.
#[derive(Debug, thiserror::Error)]
pub enum PreprocessError {
    #[error("{}: cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("file is larger than {max} bytes; send a smaller picture")]
    FileTooLarge { max: u64 },
    #[error("is no PNG, JPEG or WebP picture")]
    NotAPicture,
    #[error(
        "is {width}x{height}; a picture may have sides of {side_min}..={side_max} pixels and at most {pixels_max} pixels"
    )]
    Size {
        width: u32,
        height: u32,
        side_min: u32,
        side_max: u32,
        pixels_max: u64,
    },
    #[error("{format:?} picture is damaged: {source}")]
    Damaged {
        format: ImageFormat,
        source: ImageError,
    },
    #[error("pixels are {found} bytes; {width}x{height} RGB is {expected}")]
    PixelCount {
        width: u32,
        height: u32,
        found: usize,
        expected: usize,
    },
}
