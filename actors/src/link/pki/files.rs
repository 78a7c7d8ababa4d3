//! Files that are whole or absent, and private where they must be.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::PkiError;

pub(super) fn parse<T, E: std::fmt::Display>(
    path: &Path,
    parsed: Result<T, E>,
) -> Result<T, PkiError> {
    parsed.map_err(|error| PkiError::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> PkiError + '_ {
    move |source| PkiError::File {
        path: path.to_owned(),
        source,
    }
}

pub(super) fn read_text(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(at(path))
}

pub(super) fn read_private(path: &Path) -> Result<String, PkiError> {
    let mode = fs::metadata(path).map_err(at(path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(PkiError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    read_text(path)
}

pub(super) fn create_folder(folder: &Path) -> Result<(), PkiError> {
    fs::create_dir_all(folder).map_err(at(folder))
}

/// Writes a file that is whole or absent and never was readable by more than `mode` allows.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    let unfinished = path.with_extension("new");
    fs::remove_file(&unfinished)
        .or_else(ignore_missing)
        .map_err(at(&unfinished))?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&unfinished)
        .map_err(at(&unfinished))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(at(&unfinished))?;
    fs::rename(&unfinished, path).map_err(at(path))
}

pub(super) fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound {
        Ok(())
    } else {
        Err(error)
    }
}
