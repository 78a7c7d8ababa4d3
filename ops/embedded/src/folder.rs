//! Data folders: where they are, who may enter them, and that one process at a time uses one.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::Error;
use crate::run_as::RunAs;

/// Where a farm keeps its data when nobody says otherwise: `/var/lib/flowai` for root, because the servers run as
/// another user then and must be able to reach it, else `$XDG_DATA_HOME/flowai` or `~/.local/share/flowai`.
pub fn default_data_dir() -> PathBuf {
    if geteuid().is_root() {
        return PathBuf::from("/var/lib/flowai");
    }
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(home)
        .unwrap_or_else(std::env::temp_dir)
        .join("flowai")
}

/// One part's folder, held by this process for as long as the value lives.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// The kernel gives the lock back when the process ends, however it ends.
    lock: File,
}

impl Drop for Folder {
    /// Closing the file is not enough: a child that another thread starts at this moment has it open until it executes its
    /// program, and the lock with it.
    fn drop(&mut self) {
        if let Err(error) = self.lock.unlock() {
            tracing::debug!(%error, path = %self.path.display(), "a data folder stays locked until this process ends");
        }
    }
}

impl Folder {
    /// Makes `path` and its parents where they are missing, mode 0700 and the caller's own, and locks it. One that everybody may write to is
    /// somebody else's.
    pub(crate) fn hold(path: &Path) -> Result<Self, Error> {
        let mut private = DirBuilder::new();
        private.recursive(true).mode(0o700);
        private
            .create(path)
            .map_err(Error::io(format!("making {}", path.display())))?;
        let path = path
            .canonicalize()
            .map_err(Error::io(format!("finding {}", path.display())))?;
        let found = fs::metadata(&path).map_err(Error::io("looking at the data folder"))?;
        // Its mode is about to change: nobody could use a folder for temporary files any more.
        if found.permissions().mode() & 0o002 != 0 {
            return Err(Error::FolderOfAll(path));
        }
        set_mode(&path, 0o700)?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(Error::io(format!("opening {}", lock_path.display())))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, lock }),
            Err(TryLockError::WouldBlock) => Err(Error::FolderInUse(path)),
            Err(TryLockError::Error(source)) => Err(Error::Io {
                what: format!("locking {}", lock_path.display()),
                source,
            }),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Lets the servers' user pass through to what it owns inside; names inside stay unlisted to others.
    pub(crate) fn let_through(&self, run_as: &RunAs) -> Result<(), Error> {
        if run_as.ids().is_some() {
            set_mode(&self.path, 0o711)?;
        }
        run_as.check_reachable(&self.path)
    }

    /// Makes `name` inside, mode 0700, owned by the servers' user.
    pub(crate) fn make_for(&self, run_as: &RunAs, name: &str) -> Result<PathBuf, Error> {
        let path = self.path.join(name);
        make_private(&path, run_as)?;
        Ok(path)
    }
}

/// A folder for unix sockets, mode 0700. A socket's path may have 107 bytes, and a data folder's may be longer than that
/// leaves room for: then the sockets lie in a folder of their own under the system's temporary folder.
#[derive(Debug)]
pub(crate) struct SocketFolder {
    path: PathBuf,
}

/// The longest folder in which `.s.PGSQL.65535` still fits, with room to spare.
const SOCKET_FOLDER_LENGTH_MAX: usize = 85;

impl SocketFolder {
    pub(crate) fn make(folder: &Folder, run_as: &RunAs) -> Result<Self, Error> {
        let inside = folder.path().join("run");
        let path = if inside.as_os_str().len() <= SOCKET_FOLDER_LENGTH_MAX {
            inside
        } else {
            std::env::temp_dir().join(format!("flowai-{}", hex::encode(rand::random::<[u8; 8]>())))
        };
        make_private(&path, run_as)?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes what servers that were killed left here, by how its names begin.
    pub(crate) fn clear(&self, prefix: &str) -> Result<(), Error> {
        let failed = |error| Error::io(format!("clearing {}", self.path.display()))(error);
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                match fs::remove_file(entry.path()) {
                    // Its server ended just now.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    removed => removed.map_err(failed)?,
                }
            }
        }
        Ok(())
    }
}

impl Drop for SocketFolder {
    fn drop(&mut self) {
        // Only what is left of a server that could not clean up; a failure leaves an empty folder behind, nothing more.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn make_private(path: &Path, run_as: &RunAs) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(Error::io(format!("making {}", path.display())))?;
    set_mode(path, 0o700)?;
    run_as.own(path)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(Error::io(format!("setting the mode of {}", path.display())))
}
