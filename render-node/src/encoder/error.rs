use std::io;
use std::path::PathBuf;

/// Why a clip was not written.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    #[error("{field} must be a multiple of {multiple} in {min}..={max} (got {got})")]
    Side {
        field: &'static str,
        got: u32,
        multiple: u32,
        min: u32,
        max: u32,
    },
    #[error("fps must be 1..={max} (got {got})")]
    Fps { got: u32, max: u32 },
    #[error("frames must be 1..={max} (got {got})")]
    Frames { got: u32, max: u32 },
    #[error("frame size must be {want_width}x{want_height} (got {got_width}x{got_height})")]
    FrameSize {
        want_width: u32,
        want_height: u32,
        got_width: u32,
        got_height: u32,
    },
    /// Fewer or more frames were pushed than the spec names; the clip would lie about its length.
    #[error("clip must have {want} frames (got {got})")]
    FrameCount { want: u32, got: u32 },
    #[error("output folder {} must exist and its name must be UTF-8", .0.display())]
    OutDir(PathBuf),
    #[error("{0} is missing from the installed ffmpeg libraries: install a build that has it")]
    CodecMissing(&'static str),
    #[error("ffmpeg failed to {action}: {source}")]
    Ffmpeg {
        action: &'static str,
        source: ffmpeg_next::Error,
    },
    #[error("sprite sheet was not written: {0}")]
    Spritesheet(#[from] image::ImageError),
    #[error("keyframe was not written: {0}")]
    Keyframe(image::ImageError),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("encoder thread cannot be started: {source}")]
    Thread { source: io::Error },
    /// The encoding thread has ended. [`super::Encoder::finish`] returns the cause.
    #[error("encoder has stopped; finish it to learn why")]
    Stopped,
    #[error("encoder thread panicked")]
    Panicked,
}

impl EncodeError {
    /// Whether it is the disk's and not the clip's.
    pub fn is_of_disk(&self) -> bool {
        match self {
            Self::Io { .. } => true,
            Self::Ffmpeg {
                source: ffmpeg_next::Error::Other { errno },
                ..
            } => matches!(
                io::Error::from_raw_os_error(*errno).kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            _ => false,
        }
    }
}

/// Names the step at which ffmpeg failed.
pub(super) trait Action<T> {
    fn action(self, action: &'static str) -> Result<T, EncodeError>;
}

impl<T> Action<T> for Result<T, ffmpeg_next::Error> {
    fn action(self, action: &'static str) -> Result<T, EncodeError> {
        self.map_err(|source| EncodeError::Ffmpeg { action, source })
    }
}
