use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// Why a part could not be started or stopped. None of these is worth retrying without doing what it says.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program is not installed.
    #[error("{program} was not found: install it (ops/setup/debian.sh does) and start again")]
    ProgramMissing { program: &'static str },

    /// Another process uses this data folder.
    #[error("data folder {} is in use by another process: stop it or choose another folder", .0.display())]
    FolderInUse(PathBuf),

    /// Everybody may write to this folder.
    #[error("data folder {} is open to everybody: choose a folder for the farm alone, such as one inside", .0.display())]
    FolderOfAll(PathBuf),

    /// PostgreSQL refuses to run as root, and the user it runs as instead may not enter the folder.
    #[error(
        "data folder {} cannot be entered by user {user}, which the servers run as because root may not: \
         choose a folder whose parents everybody may enter, such as /var/lib/flowai",
        folder.display()
    )]
    FolderUnreachable { folder: PathBuf, user: String },

    /// The data folder was made by another major version of PostgreSQL.
    #[error(
        "data folder {} was made by PostgreSQL {found}, installed is {installed}: \
         upgrade it with pg_upgrade or choose another folder",
        folder.display()
    )]
    PostgresVersion {
        folder: PathBuf,
        found: String,
        installed: String,
    },

    /// A secrets file exists but cannot be used; a new one would lock its owner out of the data.
    #[error("secrets file {} is damaged ({reason}): restore it from a backup; what lies beside it was made with it", path.display())]
    Secrets { path: PathBuf, reason: String },

    /// Others can read a secrets file.
    #[error(
        "secrets file {} can be read by others (its mode is {mode:o}): chmod 600 it, and if others may have read it, let nobody else use this machine",
        path.display()
    )]
    SecretsExposed { path: PathBuf, mode: u32 },

    /// A server ended before it was ready.
    #[error("{program} ended with {status} before it was ready: {log}")]
    Ended {
        program: String,
        status: ExitStatus,
        log: String,
    },

    /// A server did not get ready, or did not end, in time.
    #[error("{program} was not {wanted} within {deadline:?}: {log}")]
    Deadline {
        program: String,
        wanted: &'static str,
        deadline: Duration,
        log: String,
    },

    /// An address in the environment cannot be used.
    #[error("{name} is not usable: {reason}")]
    Address { name: &'static str, reason: String },

    /// The file system or the process table said no.
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
}

impl Error {
    /// For `map_err`: says what was being done when the system refused.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
