use std::io;
use std::path::PathBuf;

use flowai_actors::ids::Sha256;

use crate::http::{Again, HttpError};

/// Why a file is not at hand.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{sha256} is {bytes} bytes, at most {max} are allowed")]
    TooLarge {
        sha256: Sha256,
        bytes: u64,
        max: u64,
    },
    #[error("{sha256}: {source}")]
    Http { sha256: Sha256, source: HttpError },
    #[error("{sha256} should have {announced} bytes, {received} came")]
    Length {
        sha256: Sha256,
        announced: u64,
        received: u64,
    },
    #[error("{wanted} was fetched, but its bytes are {received}")]
    Content { wanted: Sha256, received: Sha256 },
    #[error("{}: {source}", path.display())]
    Disk { path: PathBuf, source: io::Error },
}

impl FetchError {
    /// Whether the disk has no room for it.
    pub(super) fn is_for_room(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Disk { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }

    pub(super) fn again(&self) -> Again {
        match self {
            Self::TooLarge { .. } => Again::Never,
            Self::Disk { .. } if self.is_for_room() => Again::Never,
            Self::Http { source, .. } => source.again(),
            // A proxy that cut or garbled the body once may not do so again.
            Self::Length { .. } | Self::Content { .. } | Self::Disk { .. } => Again::AFewTimes,
        }
    }
}
