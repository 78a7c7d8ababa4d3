//! The keys that sign access tokens, media links and cursors: files of a folder, made when it is empty.
//!
//! `access-<name>.pk8` is an Ed25519 key (PKCS#8); the last by name signs, all verify, so that a new file rotates and an
//! old one is deleted when its tokens have died. `media.key` are 32 random bytes. Instances behind one address share the
//! folder.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use jsonwebtoken::{DecodingKey, EncodingKey};

const FIRST_ACCESS_KEY: &str = "access-1.pk8";
const MEDIA_KEY: &str = "media.key";
const MEDIA_KEY_BYTES: usize = 32;

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot use {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} can be read by others (mode {mode:o}); make it 0600", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{} is no Ed25519 key in PKCS#8; delete it to have a new one made", path.display())]
    NotAKey { path: PathBuf },
    /// Short, or one byte over and over.
    #[error("{} is too weak; delete it to have a new one made", path.display())]
    Weak { path: PathBuf },
    #[error("keys cannot be made: the system has no randomness")]
    Randomness,
}

/// All keys of an instance. Cheap to clone.
#[derive(Clone)]
pub struct Keys {
    inner: Arc<Inner>,
}

struct Inner {
    signing_id: String,
    signing: EncodingKey,
    /// By `kid`.
    verifying: HashMap<String, DecodingKey>,
    media: hmac::Key,
}

impl Keys {
    /// Loads the keys of `folder`, or makes them there.
    ///
    /// # Errors
    /// A file that others can read, is damaged, or is weak: the instance must not start.
    pub fn load_or_create(folder: &Path) -> Result<Self, KeyError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(at(folder))?;
        let media_path = folder.join(MEDIA_KEY);
        create_once(&media_path, &rand::random::<[u8; MEDIA_KEY_BYTES]>())?;
        let mut names = access_keys(folder)?;
        if names.is_empty() {
            let key = Ed25519KeyPair::generate()
                .and_then(|pair| pair.to_pkcs8v1())
                .map_err(|_| KeyError::Randomness)?;
            create_once(&folder.join(FIRST_ACCESS_KEY), key.as_ref())?;
            names = access_keys(folder)?;
        }
        let mut verifying = HashMap::new();
        let mut newest = None;
        for name in names {
            let path = folder.join(&name);
            let document = read_private(&path)?;
            let pair = Ed25519KeyPair::from_pkcs8(&document)
                .map_err(|_| KeyError::NotAKey { path: path.clone() })?;
            let id = name.trim_end_matches(".pk8").to_owned();
            let public = DecodingKey::from_ed_der(pair.public_key().as_ref());
            verifying.insert(id.clone(), public);
            newest = Some((id, EncodingKey::from_ed_der(&document)));
        }
        let (signing_id, signing) = newest.ok_or_else(|| KeyError::NotAKey {
            path: folder.join(FIRST_ACCESS_KEY),
        })?;
        let media = read_private(&media_path)?;
        let is_weak = media.len() < MEDIA_KEY_BYTES || media.windows(2).all(|two| two[0] == two[1]);
        if is_weak {
            return Err(KeyError::Weak { path: media_path });
        }
        Ok(Self {
            inner: Arc::new(Inner {
                signing_id,
                signing,
                verifying,
                media: hmac::Key::new(hmac::HMAC_SHA256, &media),
            }),
        })
    }

    /// The key for new access tokens, and its `kid`.
    pub(super) fn signing(&self) -> (&str, &EncodingKey) {
        (&self.inner.signing_id, &self.inner.signing)
    }

    /// The key that a token names.
    pub(super) fn verifying(&self, id: &str) -> Option<&DecodingKey> {
        self.inner.verifying.get(id)
    }

    /// Authenticates text that comes back from a client. `purpose` keeps one use from standing for another.
    pub fn seal(&self, purpose: &'static str, content: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.inner.media);
        context.update(purpose.as_bytes());
        context.update(&[0]);
        context.update(content);
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }

    /// Whether [`Self::seal`] made this tag. Takes the same time for every wrong one.
    pub fn is_sealed(&self, purpose: &'static str, content: &[u8], tag: &[u8]) -> bool {
        let sealed = self.seal(purpose, content);
        aws_lc_rs::constant_time::verify_slices_are_equal(&sealed, tag).is_ok()
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.inner.signing_id)
    }
}

/// The names of the access keys, in order.
fn access_keys(folder: &Path) -> Result<Vec<String>, KeyError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let name = entry.map_err(at(folder))?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("access-") && name.ends_with(".pk8") {
            names.push(name.into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Writes a file that is whole or absent, unless it is there: of two instances that start at once, the first one's stays.
fn create_once(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    if path.exists() {
        return Ok(());
    }
    let unfinished = path.with_extension(format!("new-{}", uuid::Uuid::now_v7()));
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        match fs::hard_link(&unfinished, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    };
    let written = write();
    let removed = fs::remove_file(&unfinished);
    written.map_err(at(path))?;
    removed.map_err(at(&unfinished))
}

fn read_private(path: &Path) -> Result<Vec<u8>, KeyError> {
    let mode = fs::metadata(path).map_err(at(path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    fs::read(path).map_err(at(path))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> KeyError + '_ {
    move |source| KeyError::File {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let first = Keys::load_or_create(folder.path()).unwrap();
        let again = Keys::load_or_create(folder.path()).unwrap();
        assert_eq!(first.seal("a", b"x"), again.seal("a", b"x"));
        assert_ne!(first.seal("a", b"x"), first.seal("b", b"x"));
        for name in [FIRST_ACCESS_KEY, MEDIA_KEY] {
            let mode = fs::metadata(folder.path().join(name)).unwrap();
            assert_eq!(mode.permissions().mode() & 0o777, 0o600, "{name}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_newer_key_signs_and_the_older_one_verifies() {
        let folder = tempfile::tempdir().unwrap();
        Keys::load_or_create(folder.path()).unwrap();
        let newer = Ed25519KeyPair::generate().unwrap().to_pkcs8v1().unwrap();
        create_once(&folder.path().join("access-2.pk8"), newer.as_ref()).unwrap();
        let keys = Keys::load_or_create(folder.path()).unwrap();
        assert_eq!(keys.signing().0, "access-2");
        assert!(keys.verifying("access-1").is_some());
        assert!(keys.verifying("../access-1").is_none());
    }

    #[test]
    fn weak_exposed_and_damaged_keys_are_refused() {
        let refused = |name: &str, bytes: &[u8], mode: u32| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(name);
            create_once(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            Keys::load_or_create(folder.path()).unwrap_err()
        };
        assert!(matches!(
            refused(MEDIA_KEY, &[0; 32], 0o600),
            KeyError::Weak { .. }
        ));
        assert!(matches!(
            refused(MEDIA_KEY, b"short", 0o600),
            KeyError::Weak { .. }
        ));
        assert!(matches!(
            refused(MEDIA_KEY, &[1; 40], 0o640),
            KeyError::Exposed { mode: 0o640, .. }
        ));
        assert!(matches!(
            refused(FIRST_ACCESS_KEY, b"nonsense", 0o600),
            KeyError::NotAKey { .. }
        ));
    }
}
