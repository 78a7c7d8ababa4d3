//! The files of one clip: named here, hashed when complete, deleted when not.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flowai_actors::ids::Sha256;
use flowai_actors::messages::ArtefactFile;
use flowai_model::Sha256Digest;

use super::error::EncodeError;

/// One finished file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedFile {
    pub path: PathBuf,
    pub sha256: Sha256,
    pub bytes: u64,
}

/// Where the four files of a clip go. Deletes what was written of them unless [`OutputFiles::keep`] is called.
pub(super) struct OutputFiles {
    pub(super) clip: PathBuf,
    pub(super) poster: PathBuf,
    pub(super) preview: PathBuf,
    pub(super) spritesheet: PathBuf,
    keep: bool,
}

impl OutputFiles {
    /// # Errors
    /// [`EncodeError::OutDir`] when the folder is absent or its name is not UTF-8, which libavformat needs.
    pub(super) fn inside(out_dir: &Path) -> Result<Self, EncodeError> {
        if !out_dir.is_dir() || out_dir.to_str().is_none() {
            return Err(EncodeError::OutDir(out_dir.to_owned()));
        }
        Ok(Self {
            clip: out_dir.join(ArtefactFile::Clip.file_name()),
            poster: out_dir.join(ArtefactFile::Poster.file_name()),
            preview: out_dir.join(ArtefactFile::Preview.file_name()),
            spritesheet: out_dir.join(ArtefactFile::Spritesheet.file_name()),
            keep: false,
        })
    }

    pub(super) fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for OutputFiles {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        for path in [&self.clip, &self.poster, &self.preview, &self.spritesheet] {
            match fs::remove_file(path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "partial file was not deleted")
                }
            }
        }
    }
}

/// Writes a file whose bytes are all in memory.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<EncodedFile, EncodeError> {
    fs::File::create(path)
        .and_then(|mut file| file.write_all(content))
        .map_err(|source| io(path, source))?;
    Ok(EncodedFile {
        path: path.to_owned(),
        sha256: named(Sha256Digest::of(content)),
        bytes: content.len() as u64,
    })
}

/// Hashes a file that a muxer wrote, from the disk: faststart rewrites it after the last frame.
pub(super) fn hash(path: &Path) -> Result<EncodedFile, EncodeError> {
    let failed = |source| io(path, source);
    let sha256 = Sha256Digest::of_file(path).map_err(failed)?;
    Ok(EncodedFile {
        path: path.to_owned(),
        sha256: named(sha256),
        bytes: fs::metadata(path).map_err(failed)?.len(),
    })
}

fn named(digest: Sha256Digest) -> Sha256 {
    Sha256::from_bytes(*digest.as_bytes())
}

fn io(path: &Path, source: std::io::Error) -> EncodeError {
    EncodeError::Io {
        path: path.to_owned(),
        source,
    }
}
