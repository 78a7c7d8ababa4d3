//! Files that hold secrets: for their owner alone, written whole or not at all.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a private file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    #[error("{}: {source}", path.display())]
    Io {
        path: std::path::PathBuf,
        source: io::Error,
    },
    #[error("{} can be read by others (mode {mode:o}); make it 0600", path.display())]
    Exposed { path: std::path::PathBuf, mode: u32 },
    #[error("{} is damaged ({reason}); remove it and sign in again", path.display())]
    Damaged {
        path: std::path::PathBuf,
        reason: String,
    },
}

/// Reads JSON; `None` when there is no such file.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, PrivateFileError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(path)(source)),
    };
    let mode = fs::metadata(path)
        .map_err(failed(path))?
        .permissions()
        .mode()
        & 0o777;
    if mode & 0o077 != 0 {
        return Err(PrivateFileError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    match serde_json::from_slice(&text) {
        Ok(value) => Ok(Some(value)),
        Err(error) => Err(PrivateFileError::Damaged {
            path: path.to_owned(),
            reason: error.to_string(),
        }),
    }
}

/// Writes JSON, mode 0600, and makes the folders above for its owner alone.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> Result<(), PrivateFileError> {
    let write = || -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
        }
        let text = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
        // Of this process alone: two that write at once leave the file of one of them, whole.
        let unfinished = path.with_extension(format!("{}.part", std::process::id()));
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)
    };
    write().map_err(failed(path))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> PrivateFileError + '_ {
    move |source| PrivateFileError::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_reads_back_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/secret.json");
        assert_eq!(read::<String>(&path).unwrap(), None);
        for text in ["first", "second"] {
            write(&path, &text).unwrap();
            assert_eq!(read::<String>(&path).unwrap().as_deref(), Some(text));
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn an_exposed_or_damaged_file_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret.json");
        write(&path, &"secret").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let refused = read::<String>(&path).unwrap_err().to_string();
        assert!(
            refused.contains("can be read by others (mode 644)"),
            "{refused}"
        );

        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "").unwrap();
        let refused = read::<String>(&path).unwrap_err().to_string();
        assert!(refused.contains("is damaged"), "{refused}");
    }
}
