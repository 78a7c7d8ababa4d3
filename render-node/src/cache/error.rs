use std::io;
use std::path::PathBuf;

use flowai_actors::ids::Sha256;

use crate::http::HttpError;

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
    /// Whether fetching again may succeed, here or on another node.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::TooLarge { .. } => false,
            Self::Http { source, .. } => source.may_pass(),
            // A proxy that cut or garbled the body once may not do so again.
            Self::Length { .. } | Self::Content { .. } | Self::Disk { .. } => true,
        }
    }
}
