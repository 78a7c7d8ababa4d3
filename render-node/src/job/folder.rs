//! A folder for each job's files, gone when the job is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::cache::Disk;

/// Room for what a job writes: its clip and pictures, and its checkpoints until they are uploaded.
const JOB_BYTES: u64 = 512 << 20;

/// Makes the folders of jobs inside one folder, which this process owns. Cheap to clone.
#[derive(Debug, Clone)]
pub struct JobFolders {
    dir: PathBuf,
    disk: Disk,
}

/// One job's folder.
#[derive(Debug)]
pub(super) struct JobFolder {
    path: PathBuf,
}

impl JobFolders {
    /// Makes `dir`, which lies on `disk`, and clears what a crash left in it.
    ///
    /// # Errors
    /// It cannot be made or cleared.
    pub fn open(disk: &Disk, dir: &Path) -> io::Result<Self> {
        match fs::remove_dir_all(dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        fs::create_dir_all(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            disk: disk.clone(),
        })
    }

    /// A folder with room for a job's files, if files of the caches may go for it.
    pub(super) fn make(&self) -> io::Result<JobFolder> {
        self.disk.keep_free(&self.dir, JOB_BYTES);
        let path = self.dir.join(Uuid::new_v4().to_string());
        fs::create_dir(&path)?;
        Ok(JobFolder { path })
    }
}

impl JobFolder {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for JobFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "job's folder was not deleted");
        }
    }
}
