//! The secrets of a data folder: made once at random, kept in a file that only its owner may read.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::Error;

/// The passwords of the database's roles: 64 hexadecimal digits each.
///
/// The owner runs migrations and nothing else. The migrations give the other two roles their passwords.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DatabasePasswords {
    pub owner: String,
    pub app: String,
    pub coordinator: String,
}

impl DatabasePasswords {
    pub(crate) fn random() -> Self {
        Self {
            owner: random_secret(),
            app: random_secret(),
            coordinator: random_secret(),
        }
    }
}

impl std::fmt::Debug for DatabasePasswords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatabasePasswords").finish_non_exhaustive()
    }
}

/// 256 random bits as 64 hexadecimal digits: safe in a URL, a config file and a header.
pub(crate) fn random_secret() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}

/// Reads the secrets at `path`, or makes and keeps new ones.
pub(crate) fn load_or_make<T>(path: &Path, make: impl FnOnce() -> T) -> Result<T, Error>
where
    T: DeserializeOwned + Serialize,
{
    match fs::read(path) {
        Ok(bytes) => {
            let damaged = |reason: String| Error::Secrets {
                path: path.to_owned(),
                reason,
            };
            let mode = fs::metadata(path)
                .map_err(Error::io("looking at the secrets"))?
                .permissions()
                .mode()
                & 0o777;
            if mode & 0o077 != 0 {
                let path = path.to_owned();
                return Err(Error::SecretsExposed { path, mode });
            }
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let secrets = make();
            write(
                path,
                &serde_json::to_vec_pretty(&secrets).map_err(|error| Error::Secrets {
                    path: path.to_owned(),
                    reason: error.to_string(),
                })?,
            )?;
            Ok(secrets)
        }
        Err(source) => Err(Error::Io {
            what: format!("reading {}", path.display()),
            source,
        }),
    }
}

/// Writes a file of mode 0600 whole or not at all, also when the power fails.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let part = path.with_extension("part");
    let written = || -> std::io::Result<()> {
        // Left behind by an interrupted write; its mode would not be changed by opening it again.
        match fs::remove_file(&part) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        path.parent()
            .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    written().map_err(Error::io(format!("writing {}", path.display())))
}
