use crate::client::ClientError;
use crate::exit::Exit;
use crate::farm::FarmError;
use crate::join::JoinError;
use crate::private_file::PrivateFileError;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Farm(#[from] FarmError),
    #[error(transparent)]
    PrivateFile(#[from] PrivateFileError),
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error("{0}")]
    Usage(String),
    #[error("job {id} {status}: {detail}")]
    JobFailed {
        id: String,
        status: &'static str,
        detail: String,
    },
    #[error("job {id} was cancelled")]
    JobCancelled { id: String },
    #[error("job {id} did not end in time; it goes on: flowai watch {id}, or flowai cancel {id}")]
    TimedOut { id: String },
    #[error("interrupted; job {id} goes on: flowai watch {id}, or flowai cancel {id}")]
    JobGoesOn { id: String },
    #[error("{} of {many} jobs brought no clip:\n{}", .without_clip.len(), lines(.without_clip))]
    BatchFailed {
        /// Why, of each.
        without_clip: Vec<Self>,
        many: usize,
    },
    #[error("{why}\n{} jobs of the batch were left alone; flowai watch ID --out FILE gets a clip:\n{}{}", .left.len(), .left.join("\n"), also(.without_clip))]
    BatchLeft {
        why: Box<Self>,
        /// Of each its id and the name of its clip.
        left: Vec<String>,
        /// Why, of those that had brought none by then.
        without_clip: Vec<Self>,
    },
    #[error("{name}: {why}")]
    OfBatch { name: String, why: Box<Self> },
    #[error("{why}; flowai watch {id} --out FILE gets the clip")]
    NotSaved { id: String, why: Box<Self> },
    #[error("interrupted")]
    Interrupted,
    #[error("{what}: {source}")]
    Io {
        what: String,
        source: std::io::Error,
    },
    #[error("{0}")]
    Failed(String),
}

impl CommandError {
    pub fn exit(&self) -> Exit {
        match self {
            Self::Client(error) | Self::Join(JoinError::Client(error)) => error.exit(),
            Self::Join(
                JoinError::Readable(_)
                | JoinError::Token(_)
                | JoinError::DataPath(_)
                | JoinError::Joined { .. },
            ) => Exit::Usage,
            Self::Join(
                JoinError::OtherFarm { .. }
                | JoinError::Coordinator(_)
                | JoinError::Pki(_)
                | JoinError::Io { .. },
            ) => Exit::Failure,
            Self::Farm(FarmError::Option { .. }) | Self::Usage(_) => Exit::Usage,
            Self::Farm(_) | Self::PrivateFile(_) | Self::Io { .. } | Self::Failed(_) => {
                Exit::Failure
            }
            Self::JobFailed { .. } => Exit::JobFailed,
            Self::BatchFailed { without_clip, .. } => {
                let cancelled = |why: &Self| why.exit() == Exit::JobCancelled;
                match without_clip.iter().all(cancelled) {
                    true => Exit::JobCancelled,
                    false => Exit::JobFailed,
                }
            }
            Self::BatchLeft { why, .. }
            | Self::OfBatch { why, .. }
            | Self::NotSaved { why, .. } => why.exit(),
            Self::JobCancelled { .. } => Exit::JobCancelled,
            Self::TimedOut { .. } => Exit::TimedOut,
            Self::JobGoesOn { .. } | Self::Interrupted => Exit::Interrupted,
        }
    }

    /// For `map_err`: says what was being done when the system refused.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

fn lines(errors: &[CommandError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

fn also(errors: &[CommandError]) -> String {
    match errors {
        [] => String::new(),
        errors => format!("\nbefore that brought no clip:\n{}", lines(errors)),
    }
}
