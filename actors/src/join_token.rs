//! The token that admits machines to the farm: shown once, typed on the new machine.

use std::fmt;
use std::str::FromStr;

use rand::Rng as _;
use sha2::{Digest as _, Sha256 as Hasher};
use uuid::Uuid;

use crate::ids::Sha256;

const PREFIX: &str = "fjt_";
const ID_BYTES: usize = 16;
const SECRET_BYTES: usize = 32;
const CA_BYTES: usize = 32;
const BYTES: usize = ID_BYTES + SECRET_BYTES + CA_BYTES;

/// A text is no join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a join token is {PREFIX} and {} characters of 0-9 and a-f, as `flowai token create` shows it", 2 * BYTES)]
pub struct InvalidJoinToken;

/// `fjt_`, then in hex: the token's id, its secret of 256 bits, and the sha256 of the farm's CA certificate, by which the
/// machine knows whose answer it takes.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    id: Uuid,
    secret: [u8; SECRET_BYTES],
    ca_sha256: Sha256,
}

impl JoinToken {
    /// A new token of the farm with this CA certificate.
    pub fn generate(ca_sha256: Sha256) -> Self {
        Self {
            id: Uuid::now_v7(),
            secret: rand::rng().random(),
            ca_sha256,
        }
    }

    pub fn id(&self) -> Uuid {
        self.id
    }

    /// What is stored in place of the secret.
    pub fn secret_sha256(&self) -> Sha256 {
        sha256(&self.secret)
    }

    /// Of the CA certificate in DER.
    pub fn ca_sha256(&self) -> Sha256 {
        self.ca_sha256
    }

    /// As it is typed. The only way to the secret.
    pub fn reveal(&self) -> String {
        let id = hex::encode(self.id.as_bytes());
        format!("{PREFIX}{id}{}{}", hex::encode(self.secret), self.ca_sha256)
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256::from_bytes(Hasher::digest(bytes).into())
}

impl FromStr for JoinToken {
    type Err = InvalidJoinToken;

    fn from_str(text: &str) -> Result<Self, InvalidJoinToken> {
        let digits = text.strip_prefix(PREFIX).ok_or(InvalidJoinToken)?;
        let mut bytes = [0; BYTES];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| InvalidJoinToken)?;
        let (id, rest) = bytes.split_at(ID_BYTES);
        let (secret, ca) = rest.split_at(SECRET_BYTES);
        Ok(Self {
            id: Uuid::from_slice(id).map_err(|_| InvalidJoinToken)?,
            secret: secret.try_into().map_err(|_| InvalidJoinToken)?,
            ca_sha256: Sha256::from_bytes(ca.try_into().map_err(|_| InvalidJoinToken)?),
        })
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_shown_and_never_printed() {
        let token = JoinToken::generate(Sha256::from_bytes([7; 32]));
        let shown = token.reveal();
        assert_eq!(shown.parse::<JoinToken>(), Ok(token.clone()));
        assert_eq!(shown.len(), 4 + 160);
        let secret = hex::encode(token.secret);
        assert!(!format!("{token:?}").contains(&secret));
        assert_ne!(
            token.secret_sha256(),
            JoinToken::generate(token.ca_sha256).secret_sha256()
        );
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let shown = JoinToken::generate(Sha256::from_bytes([7; 32])).reveal();
        for bad in [
            "",
            "fjt_",
            &shown[4..],
            &shown[..shown.len() - 1],
            &format!("{shown}00"),
            &shown.replace("fjt_", "flk_"),
            &format!("fjt_{}", "g".repeat(160)),
        ] {
            assert_eq!(bad.parse::<JoinToken>(), Err(InvalidJoinToken), "{bad}");
        }
    }
}
