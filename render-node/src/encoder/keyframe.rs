//! The picture that a clip begins with, where it was made from words.

use std::io::Cursor;
use std::path::Path;

use flowai_actors::messages::ArtefactFile;
use image::{ImageFormat, RgbImage};

use super::error::EncodeError;
use super::files::{self, EncodedFile};

/// Writes a PNG into `out_dir`. Equal pictures give equal bytes, and there is nothing in them but pixels.
///
/// # Errors
/// What the disk says.
pub fn keyframe(picture: &RgbImage, out_dir: &Path) -> Result<EncodedFile, EncodeError> {
    let mut png = Cursor::new(Vec::new());
    picture
        .write_to(&mut png, ImageFormat::Png)
        .map_err(EncodeError::Keyframe)?;
    let path = out_dir.join(ArtefactFile::Keyframe.file_name());
    files::write(&path, png.get_ref())
}
