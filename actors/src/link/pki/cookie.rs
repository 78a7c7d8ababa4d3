//! The second lock.

use std::path::Path;

use rand::Rng;

use super::PkiError;
use super::files::{parse, read_private};

/// The cluster's shared secret: 32 random bytes, the second lock behind the certificates.
#[derive(Clone)]
pub(super) struct Cookie(pub(super) [u8; 32]);

impl Cookie {
    pub(super) fn random() -> Self {
        Self(rand::rng().random())
    }

    pub(super) fn load(folder: &Path) -> Result<Self, PkiError> {
        let path = folder.join("cookie");
        let mut cookie = [0; 32];
        parse(
            &path,
            hex::decode_to_slice(read_private(&path)?.trim(), &mut cookie),
        )?;
        Ok(Self(cookie))
    }
}
