//! Identifiers and units as types, so that no function takes a bare `Uuid` or `i64` whose meaning lies in its name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that is not an identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} must be {expected} (got {got:?})")]
pub struct InvalidId {
    pub kind: &'static str,
    pub expected: &'static str,
    pub got: String,
}

macro_rules! uuid_id {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id: UUID version 7, so that ids sort by the time they were made.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            pub const fn as_uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::parse_str(text).map(Self).map_err(|_| InvalidId {
                    kind: stringify!($name),
                    expected: "a UUID",
                    got: text.chars().take(64).collect(),
                })
            }
        }
    )*};
}

uuid_id! {
    /// What a user asked for: one clip.
    JobId,
    /// An account.
    UserId,
    /// A file that a user sent: a picture or an adapter, before anything was made of it.
    UploadId,
    /// A stored adapter as its owner sees it. What a node sees is its [`Sha256`].
    AdapterId,
    /// A long-lived credential for programs.
    ApiKeyId,
    /// One login and the refresh tokens that followed from it.
    SignInId,
}

macro_rules! counter {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(u32);

        impl $name {
            /// The value before the first term, attempt or start.
            pub const ZERO: Self = Self(0);

            pub const fn new(value: u32) -> Self {
                Self(value)
            }

            pub const fn get(self) -> u32 {
                self.0
            }

            /// The following one. Saturates: a counter at its end refuses newer holders instead of starting over.
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

counter! {
    /// The number of a try of a job on a node. The first is 1.
    Attempt,
    /// The number of a leader's term: the fencing token of every durable decision. The first is 1.
    Epoch,
    /// How often a node has started. A greater generation proves the older process dead.
    Generation,
}

/// The name of a render node, as in its certificate: 1 to 63 of `a-z`, `0-9` and `-`, a DNS label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(String);

impl NodeId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NodeId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        if is_label(&text) {
            return Ok(Self(text));
        }
        Err(InvalidId {
            kind: "NodeId",
            expected: "1 to 63 of a-z, 0-9 and -, not starting or ending with -",
            got: text.chars().take(64).collect(),
        })
    }
}

impl FromStr for NodeId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.to_owned().try_into()
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name under which a farm offers a model: the name of its folder, by the same rule as [`NodeId`], `.` and `_` allowed inside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelId(String);

impl ModelId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ModelId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        if is_label(&text.replace(['.', '_'], "-")) {
            return Ok(Self(text));
        }
        Err(InvalidId {
            kind: "ModelId",
            expected: "1 to 63 of a-z, 0-9, -, . and _, starting and ending with a letter or digit",
            got: text.chars().take(64).collect(),
        })
    }
}

impl FromStr for ModelId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.to_owned().try_into()
    }
}

impl From<ModelId> for String {
    fn from(id: ModelId) -> Self {
        id.0
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

/// The sha256 of some bytes. Files are known by it everywhere; it reads and prints as 64 lowercase hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256([u8; 32]);

impl Sha256 {
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for Sha256 {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId {
            kind: "Sha256",
            expected: "64 lowercase hex digits",
            got: text.chars().take(80).collect(),
        };
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(invalid());
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| invalid())?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Sha256 {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<Sha256> for String {
    fn from(hash: Sha256) -> Self {
        hash.to_string()
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({self})")
    }
}

/// Predicted or spent time of one GPU, the currency of fairness.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GpuSeconds(pub f64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_nodes_are_dns_labels() {
        for good in ["n", "node-1", "0a"] {
            assert_eq!(good.parse::<NodeId>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", &"a".repeat(64)] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_of_models_are_no_paths() {
        for good in ["tiny", "svd-xt-1.1", "a_b"] {
            assert_eq!(good.parse::<ModelId>().unwrap().as_str(), good);
        }
        for bad in ["..", ".hidden", "a/b", "a..", "a\0b", "%2e"] {
            assert!(bad.parse::<ModelId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_hash_has_one_spelling() {
        let text = "ab".repeat(32);
        assert_eq!(text.parse::<Sha256>().unwrap().to_string(), text);
        for bad in [text.to_uppercase(), "ab".repeat(31), "zz".repeat(32)] {
            assert!(bad.parse::<Sha256>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids_read_back_as_written() {
        let job = JobId::generate();
        assert_eq!(job.to_string().parse::<JobId>().unwrap(), job);
        assert!(
            "7".parse::<JobId>()
                .unwrap_err()
                .to_string()
                .contains("JobId must be a UUID")
        );
    }

    #[test]
    fn counters_never_start_over() {
        assert_eq!(Epoch::new(u32::MAX).next(), Epoch::new(u32::MAX));
        assert_eq!(Epoch::ZERO.next(), Epoch::new(1));
    }
}
