//! Refresh tokens: a family that stays with its sign-in, and a secret that is replaced at each use, so that every token that
//! was ever given out, however old, is known as its sign-in's.

use flowai_store::accounts::{RefreshHashes, TokenHash};

use super::hash_of;

/// Hexadecimal characters of either part: 256 bits.
const PART_CHARS: usize = 64;

/// Never printed: it is a credential.
pub(super) struct RefreshToken {
    family: String,
    secret: String,
}

impl RefreshToken {
    pub(super) fn generate() -> Self {
        Self {
            family: random_part(),
            secret: random_part(),
        }
    }

    /// `None`: this is none that was ever given out.
    pub(super) fn read(text: &str) -> Option<Self> {
        let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex || text.len() != 2 * PART_CHARS {
            return None;
        }
        let (family, secret) = text.split_at(PART_CHARS);
        Some(Self {
            family: family.to_owned(),
            secret: secret.to_owned(),
        })
    }

    /// The one that takes its place.
    pub(super) fn successor(&self) -> Self {
        Self {
            family: self.family.clone(),
            secret: random_part(),
        }
    }

    pub(super) fn hashes(&self) -> RefreshHashes {
        RefreshHashes {
            family: hash_of(&self.family),
            secret: self.secret_hash(),
        }
    }

    pub(super) fn secret_hash(&self) -> TokenHash {
        hash_of(&self.secret)
    }

    /// What of it may be counted: the same for every token of its sign-in.
    pub(super) fn family(&self) -> &str {
        &self.family
    }

    pub(super) fn reveal(&self) -> String {
        format!("{}{}", self.family, self.secret)
    }
}

fn random_part() -> String {
    hex::encode(rand::random::<[u8; PART_CHARS / 2]>())
}
