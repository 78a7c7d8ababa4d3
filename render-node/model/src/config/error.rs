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

/// What a file says is quoted, and a megabyte of it helps nobody.
const REASON_CHARS_MAX: usize = 400;

impl ConfigError {
    pub(crate) fn field(file: &str, field: &str, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        if let Some((end, _)) = reason.char_indices().nth(REASON_CHARS_MAX) {
            reason.truncate(end);
            reason.push('…');
        }
        Self::Field {
            file: file.to_owned(),
            field: field.to_owned(),
            reason,
        }
    }
}
