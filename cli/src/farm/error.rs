use std::io;
use std::path::PathBuf;

/// Why a farm does not start or stop.
#[derive(Debug, thiserror::Error)]
pub enum FarmError {
    #[error("{field} {detail}")]
    Option {
        field: &'static str,
        detail: &'static str,
    },
    #[error("{program} was not found in {}; build it there: cargo build -p {program}", folder.display())]
    ProgramMissing {
        program: &'static str,
        folder: PathBuf,
    },
    /// A part or program did not start; the error holds its last words.
    #[error(transparent)]
    Process(#[from] flowai_embedded::Error),
    #[error("the database cannot be prepared")]
    Database(#[from] flowai_store::database::DatabaseError),
    #[error("the farm's certificates cannot be made")]
    Certificates(#[from] flowai_actors::link::pki::PkiError),
    #[error("the first model cannot be made")]
    Model(#[from] flowai_model::synthetic::WriteModelError),
    /// A program said that it is ready without saying where.
    #[error(
        "{program} wrote no listening address into its ready file; are all programs of one build?"
    )]
    NoAddress { program: String },
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
}

impl FarmError {
    /// For `map_err`: says what was being done when the system refused.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
