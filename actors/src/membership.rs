//! Who belongs to the farm: how a machine joins it, keeps its certificate, and hears that it is wanted no longer.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{NodeId, Sha256};
pub use crate::join_token::{InvalidJoinToken, JoinToken};
use crate::limits::{LABEL_CHARS_MAX, LABELS_MAX, NODE_FACT_CHARS_MAX, NODE_FACTS_MAX};

/// What an operator calls a group of nodes by: pool, zone, owner. A node has those of its token and chooses none.
pub type Labels = BTreeMap<String, String>;

/// What a machine says of itself when it joins. Shown, and nothing depends on it.
pub type Facts = BTreeMap<String, String>;

/// Whether a node is given jobs: what an operator wants of it, or whoever is about to take its machine away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Drain {
    #[default]
    Off,
    /// It ends its job and gets no other.
    Lazy,
    /// Its job stops at the next step boundary and goes on elsewhere.
    Now,
}

impl Drain {
    pub const ALL: [Self; 3] = [Self::Off, Self::Lazy, Self::Now];

    /// As its row says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Lazy => "lazy",
            Self::Now => "now",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|drain| drain.as_str() == name)
    }
}

/// Why labels or facts are not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLabels {
    #[error("must be at most {max} (got {got})")]
    TooMany { max: usize, got: usize },
    #[error("{0:?} must be 1 to {LABEL_CHARS_MAX} of a-z, 0-9 and inner . _ -")]
    Text(String),
    #[error("{0:?} must be 1 to {NODE_FACT_CHARS_MAX} printable characters")]
    Fact(String),
}

/// # Errors
/// Too many, or one that is no plain lowercase word.
pub fn check_labels(labels: &Labels) -> Result<(), InvalidLabels> {
    if labels.len() > LABELS_MAX {
        return Err(InvalidLabels::TooMany {
            max: LABELS_MAX,
            got: labels.len(),
        });
    }
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_word = |text: &&String| {
        let bytes = text.as_bytes();
        (1..=LABEL_CHARS_MAX).contains(&bytes.len())
            && bytes
                .iter()
                .all(|&byte| is_plain(byte) || b"._-".contains(&byte))
            && bytes.first().is_some_and(|&byte| is_plain(byte))
            && bytes.last().is_some_and(|&byte| is_plain(byte))
    };
    let words = labels.iter().flat_map(|(name, value)| [name, value]);
    match words.into_iter().find(|text| !is_word(text)) {
        Some(text) => Err(InvalidLabels::Text(text.clone())),
        None => Ok(()),
    }
}

/// # Errors
/// Too many, or one that is empty, too long or not printable.
pub fn check_facts(facts: &Facts) -> Result<(), InvalidLabels> {
    if facts.len() > NODE_FACTS_MAX {
        return Err(InvalidLabels::TooMany {
            max: NODE_FACTS_MAX,
            got: facts.len(),
        });
    }
    let is_shown = |text: &&String| {
        (1..=NODE_FACT_CHARS_MAX).contains(&text.chars().count())
            && !text.chars().any(char::is_control)
    };
    let words = facts.iter().flat_map(|(name, value)| [name, value]);
    match words.into_iter().find(|text| !is_shown(text)) {
        Some(text) => Err(InvalidLabels::Fact(text.clone())),
        None => Ok(()),
    }
}

/// A machine wants to be a node (ask, of an api instance). Asked again with the same key it gets the same certificate, and
/// its token is used once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    pub token: uuid::Uuid,
    /// The secret itself never leaves the api instance.
    pub secret_sha256: Sha256,
    /// PKCS #10 as PEM, for a P-256 key. Its names count for nothing.
    pub signing_request: String,
    pub facts: Facts,
    /// The newest message schema that the node's build speaks.
    pub schema: u32,
}

impl fmt::Debug for Join {
    /// Never prints the hash: it is what the row is found by.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Join")
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum JoinAnswer {
    Joined(Joined),
    /// The token is unknown, wrong, used up, expired or revoked: nobody is told which.
    Refused,
    /// The node's build is too old for this farm.
    Upgrade {
        build: String,
    },
    /// The node's build is newer than the farm's.
    TooNew {
        build: String,
    },
    /// The request cannot be signed, whatever the token.
    Invalid {
        reason: String,
    },
    /// The leader has no CA key.
    NoAuthority,
}

/// What a machine needs to be a node, beside its own key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Chosen by the farm.
    pub node: NodeId,
    pub labels: Labels,
    /// PEM.
    pub certificate: String,
    /// PEM.
    pub ca: String,
    /// The cluster's second lock, in hex: worth nothing without a certificate.
    pub cookie: String,
}

impl fmt::Debug for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joined")
            .field("node", &self.node)
            .field("labels", &self.labels)
            .finish_non_exhaustive()
    }
}

/// A node wants a certificate for its next key (ask, of a node). May be asked again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewCertificate {
    pub node: NodeId,
    /// As in [`Join`].
    pub signing_request: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum RenewCertificateAnswer {
    Renewed {
        /// PEM.
        certificate: String,
    },
    /// The node was revoked.
    Revoked,
    Invalid {
        reason: String,
    },
    NoAuthority,
}

/// The row of a node says something new: that it drains, or is revoked (cast, of an api instance). When it is lost, the next
/// look at the rows finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersChanged {}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn labels_are_plain_words_and_few() {
        for good in [&[("gpu", "h100")][..], &[("a.b_c-d", "0")], &[]] {
            assert_eq!(check_labels(&labels(good)), Ok(()), "{good:?}");
        }
        let long = "x".repeat(LABEL_CHARS_MAX + 1);
        for bad in ["", "GPU", "-a", "a-", "a b", "ä", long.as_str()] {
            assert!(check_labels(&labels(&[(bad, "v")])).is_err(), "{bad:?}");
            assert!(check_labels(&labels(&[("n", bad)])).is_err(), "{bad:?}");
        }
        let many = (0..=LABELS_MAX).map(|n| (format!("n{n}"), "v".to_owned()));
        assert_eq!(
            check_labels(&many.collect()),
            Err(InvalidLabels::TooMany { max: 16, got: 17 })
        );
    }

    #[test]
    fn drains_are_read_back_by_their_names() {
        for drain in Drain::ALL {
            assert_eq!(Drain::from_name(drain.as_str()), Some(drain));
        }
        assert_eq!(Drain::from_name("later"), None);
    }

    #[test]
    fn facts_are_printable_and_short() {
        assert_eq!(check_facts(&labels(&[("GPU", "NVIDIA H100 80GB")])), Ok(()));
        let long = "x".repeat(NODE_FACT_CHARS_MAX + 1);
        for bad in ["", "a\nb", "\u{1b}[2J", long.as_str()] {
            assert!(check_facts(&labels(&[("n", bad)])).is_err(), "{bad:?}");
        }
    }
}
