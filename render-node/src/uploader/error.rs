use std::io;
use std::path::PathBuf;

use crate::http::{Again, HttpError};

/// Why a file does not lie where it should.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The store does not take the URL: expired, or signed for other bytes. Ask for new targets.
    #[error("{what}: object store refused the upload with status {status}; ask for a new target")]
    Refused { what: &'static str, status: u16 },
    /// The store is down or breaks off, for longer than one URL is used.
    #[error("{what}: {source}")]
    Http {
        what: &'static str,
        source: HttpError,
    },
    #[error("target has a header that HTTP does not allow: {0}")]
    Header(String),
    #[error("{}: {source}", path.display())]
    Disk { path: PathBuf, source: io::Error },
}

impl UploadError {
    pub(super) fn again(&self) -> Again {
        match self {
            Self::Http { source, .. } => source.again(),
            Self::Refused { .. } | Self::Header(_) | Self::Disk { .. } => Again::Never,
        }
    }
}
