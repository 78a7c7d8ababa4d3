use std::path::PathBuf;

/// Why a config file cannot be used. `file` is the path inside the model folder.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{file}: is {bytes} bytes long, must be at most {limit}")]
    TooLarge {
        file: String,
        bytes: u64,
        limit: u64,
    },
    #[error("{file}: is not JSON: {source}")]
    Json {
        file: String,
        source: serde_json::Error,
    },
    #[error("{file}: must be a JSON object")]
    NotAnObject { file: String },
    #[error("{file}: {field}: {reason}")]
    Field {
        file: String,
        field: String,
        reason: String,
    },
}

impl ConfigError {
    pub(crate) fn field(file: &str, field: &str, reason: impl Into<String>) -> Self {
        Self::Field {
            file: file.to_owned(),
            field: field.to_owned(),
            reason: reason.into(),
        }
    }
}
