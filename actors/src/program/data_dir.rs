//! A program's own folder: one process at a time, and the count of its starts.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::ids::Generation;

const LOCK_FILE: &str = "lock";
const GENERATION_FILE: &str = "generation";

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is used by another process; give each program a folder of its own", .0.display())]
    InUse(PathBuf),
    /// Guessing would let an old process pass for the newer one.
    #[error("{} must hold the number of this program's starts (got {got:?}); write a number greater than any before", path.display())]
    Generation { path: PathBuf, got: String },
}

/// The folder, held by this process until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the folder if it is not there, for nobody else to look into, and takes it for this process.
    ///
    /// # Errors
    /// [`DataDirError::InUse`], or what the system says.
    pub fn hold(path: &Path) -> Result<Self, DataDirError> {
        let lock_path = path.join(LOCK_FILE);
        let failed = |source| DataDirError::Io {
            path: lock_path.clone(),
            source,
        };
        let mut folder = DirBuilder::new();
        folder.recursive(true).mode(0o700);
        folder.create(path).map_err(failed)?;
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        let lock = options.open(&lock_path).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(DataDirError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Counts one more start and gives its number. On disk before it is used: a generation is never told twice.
    ///
    /// # Errors
    /// The count cannot be read, is no number, or cannot be written.
    pub fn next_generation(&self) -> Result<Generation, DataDirError> {
        let path = self.path.join(GENERATION_FILE);
        let failed = |source| DataDirError::Io {
            path: path.clone(),
            source,
        };
        let last = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|_| DataDirError::Generation {
                path: path.clone(),
                got: text.chars().take(32).collect(),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(failed(error)),
        };
        let generation = Generation::new(last).next();
        self.replace(&path, &format!("{generation}\n"))
            .map_err(failed)?;
        Ok(generation)
    }

    /// Whole or not at all, also when the power goes.
    fn replace(&self, path: &Path, text: &str) -> io::Result<()> {
        let part = path.with_extension("part");
        let mut file = File::create(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        File::open(&self.path)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        for expected in 1..=3 {
            let data_dir = DataDir::hold(&path).unwrap();
            let generation = data_dir.next_generation().unwrap();
            assert_eq!(generation, Generation::new(expected));
        }
    }

    #[test]
    fn a_folder_has_one_owner() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataDir::hold(folder.path()).unwrap();
        let second = DataDir::hold(folder.path());
        assert!(matches!(second, Err(DataDirError::InUse(_))));
        drop(first);
        DataDir::hold(folder.path()).unwrap();
    }

    #[test]
    fn a_damaged_count_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(GENERATION_FILE), "seven").unwrap();
        let data_dir = DataDir::hold(folder.path()).unwrap();
        let error = data_dir.next_generation().unwrap_err().to_string();
        assert!(error.contains("seven"), "{error}");
    }
}
