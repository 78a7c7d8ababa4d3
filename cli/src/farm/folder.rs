//! What lies where in a farm's data folder.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::FarmError;

/// A farm's data folder. The parts keep theirs in `postgres/`, `redis/` and `s3/`; the rest is named here.
#[derive(Debug, Clone)]
pub struct DataFolder {
    root: PathBuf,
}

impl DataFolder {
    /// The folder, made where it is missing. It may be somebody else's: nothing in it is touched before it is held.
    pub(crate) fn at(root: &Path) -> Result<Self, FarmError> {
        make(root)?;
        let root = root
            .canonicalize()
            .map_err(FarmError::io(format!("finding {}", root.display())))?;
        Ok(Self { root })
    }

    /// Makes what is missing in it. Everything that holds a secret is for its owner alone.
    pub(crate) fn furnish(&self) -> Result<(), FarmError> {
        for name in ["ca", "keys", "logs", "models", "ready", "state", "tls"] {
            let path = self.root.join(name);
            make(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(0o700)).map_err(FarmError::io(
                format!("closing {} to others", path.display()),
            ))?;
        }
        Ok(())
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The farm's certificate authority.
    pub(crate) fn ca(&self) -> PathBuf {
        self.root.join("ca")
    }

    /// What the api signs access tokens and media links with.
    pub(crate) fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    /// Models, one folder each, unless the farm is told to take them from elsewhere.
    pub fn models(&self) -> PathBuf {
        self.root.join("models")
    }

    /// The account that `flowai up` makes for whoever started the farm.
    pub fn owner(&self) -> PathBuf {
        self.root.join("owner.json")
    }

    /// Logs, a file a program.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub(crate) fn log(&self, program: &str) -> PathBuf {
        self.logs().join(format!("{program}.log"))
    }

    /// The identity on the link of a program.
    pub fn tls(&self, program: &str) -> PathBuf {
        self.root.join("tls").join(program)
    }

    pub(crate) fn state(&self, program: &str) -> PathBuf {
        self.root.join("state").join(program)
    }

    pub(crate) fn ready_file(&self, program: &str) -> PathBuf {
        self.root.join("ready").join(format!("{program}.json"))
    }
}

fn make(path: &Path) -> Result<(), FarmError> {
    fs::create_dir_all(path).map_err(FarmError::io(format!("making {}", path.display())))
}
