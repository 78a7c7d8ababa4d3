//! The greeting: the first words on a connection, before the cluster sees it.
//!
//! The dialler says `Hello`; the hub answers `Welcome`, `NotLeader` or `Refused` and, except after `Welcome`, closes.

use std::ops::RangeInclusive;

use bytes::Bytes;
use rand::Rng;

use super::peer::{Peer, PeerId, Role};
use crate::ids::Generation;

/// The message schemas a build speaks. Two builds talk in the highest that both know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaRange(RangeInclusive<u32>);

impl SchemaRange {
    /// A build of schema `newest` also speaks the one before: N and N−1 always talk.
    pub const fn of(newest: u32) -> Self {
        Self(newest.saturating_sub(1)..=newest)
    }

    /// Whether both speak some schema.
    pub fn meets(&self, other: &SchemaRange) -> bool {
        self.common(other).is_some()
    }

    /// Whether everything that it speaks is older than what the other speaks.
    pub fn is_older_than(&self, other: &SchemaRange) -> bool {
        self.0.end() < other.0.start()
    }

    /// The highest schema that both speak.
    pub(super) fn common(&self, other: &SchemaRange) -> Option<u32> {
        let highest = *self.0.end().min(other.0.end());
        (highest >= *self.0.start().max(other.0.start())).then_some(highest)
    }
}

/// Secret of one link, handed out in `Welcome`; every frame carries it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct LinkToken(Bytes);

impl LinkToken {
    const BYTES: usize = 32;

    /// A new random token.
    pub(super) fn random() -> Self {
        let mut token = [0u8; Self::BYTES];
        rand::rng().fill(&mut token);
        Self(Bytes::copy_from_slice(&token))
    }

    /// `None` when it has not the length of a token.
    pub(super) fn from_wire(bytes: Bytes) -> Option<Self> {
        (bytes.len() == Self::BYTES).then_some(Self(bytes))
    }

    pub(super) fn to_wire(&self) -> Bytes {
        self.0.clone()
    }
}

impl std::fmt::Debug for LinkToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinkToken")
    }
}

/// Who dials.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Hello {
    /// `<id>.<role>`; must be what the certificate says.
    #[prost(string, tag = "1")]
    pub(super) peer: String,
    #[prost(uint32, tag = "2")]
    pub(super) generation: u32,
    #[prost(string, tag = "3")]
    pub(super) build: String,
    #[prost(uint32, tag = "4")]
    schema_min: u32,
    #[prost(uint32, tag = "5")]
    schema_max: u32,
}

/// The hub's answer.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Greeting {
    #[prost(oneof = "GreetingAnswer", tags = "1, 2, 3")]
    pub(super) answer: Option<GreetingAnswer>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum GreetingAnswer {
    #[prost(message, tag = "1")]
    Welcome(Welcome),
    #[prost(message, tag = "2")]
    NotLeader(NotLeader),
    #[prost(message, tag = "3")]
    Refused(Refused),
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct Welcome {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) link_token: Bytes,
    #[prost(uint32, tag = "2")]
    pub(super) generation: u32,
    #[prost(string, tag = "3")]
    pub(super) build: String,
    #[prost(uint32, tag = "4")]
    pub(super) schema: u32,
}

impl std::fmt::Debug for Welcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Welcome {{ build: {:?}, schema: {} }}",
            self.build, self.schema
        )
    }
}

/// This coordinator stands by.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NotLeader {
    /// Where the leader listens, if this one knows.
    #[prost(string, optional, tag = "1")]
    pub(super) leader: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Refused {
    #[prost(enumeration = "RefusedCode", tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) reason: String,
}

/// Why a hub does not want this link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum RefusedCode {
    /// A reason this build does not know.
    Other = 0,
    /// The certificate does not name who the peer says it is, or a role that does not dial.
    Identity = 1,
    /// No schema in common, and the peer's is the older one.
    Version = 2,
    /// A newer process of this peer has been here: this one is a ghost.
    StaleGeneration = 3,
    /// Too many links, or the old link of this peer is still closing: try again.
    Busy = 4,
    /// An operator took the peer's right to be here, for good.
    Revoked = 5,
    /// No schema in common, and the peer's is the newer one: the coordinators are upgraded first.
    TooNew = 6,
}

/// What a peer does about a refusal that does not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Ends: it needs a new certificate, by a new join.
    Rejoin,
    /// Ends: it needs a newer build.
    Upgrade,
    /// Ends and does not come back.
    Stop,
}

impl Rule {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rejoin => "rejoin",
            Self::Upgrade => "upgrade",
            Self::Stop => "stop",
        }
    }

    /// The status of a process that ends by it, for its supervisor.
    pub const fn status(self) -> u8 {
        match self {
            Self::Rejoin => 10,
            Self::Upgrade => 11,
            Self::Stop => 12,
        }
    }
}

impl RefusedCode {
    /// What the peer does about it; `None` when it may pass, as a reason may that this build does not know: the peer goes on
    /// dialling, with backoff.
    pub const fn rule(self) -> Option<Rule> {
        match self {
            Self::Other | Self::Busy | Self::TooNew => None,
            Self::Identity => Some(Rule::Rejoin),
            Self::Version => Some(Rule::Upgrade),
            Self::StaleGeneration | Self::Revoked => Some(Rule::Stop),
        }
    }
}

impl Refused {
    pub(super) fn new(code: RefusedCode, reason: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            reason: reason.into(),
        }
    }
}

impl Hello {
    pub(super) fn new(
        me: &PeerId,
        generation: Generation,
        build: &str,
        schemas: &SchemaRange,
    ) -> Self {
        Self {
            peer: me.to_string(),
            generation: generation.get(),
            build: build.to_owned(),
            schema_min: *schemas.0.start(),
            schema_max: *schemas.0.end(),
        }
    }

    /// Checks a `Hello` against the certificate it came with and the schemas spoken here.
    pub(super) fn check(
        &self,
        certified: &PeerId,
        ours: &SchemaRange,
        our_build: &str,
    ) -> Result<Peer, Refused> {
        if self.peer != certified.to_string() {
            let reason = format!(
                "certificate names {certified}, hello says {:?}; use the certificate of this peer",
                self.peer
            );
            return Err(Refused::new(RefusedCode::Identity, reason));
        }
        if certified.role() == Role::Coordinator {
            return Err(Refused::new(
                RefusedCode::Identity,
                "coordinators do not dial; only nodes and api instances do",
            ));
        }
        let theirs = SchemaRange(self.schema_min..=self.schema_max);
        let Some(schema) = ours.common(&theirs) else {
            let reason = format!(
                "build {our_build} speaks message schemas {:?}, build {} speaks {:?}; upgrade the older one",
                ours.0, self.build, theirs.0
            );
            let code = if ours.is_older_than(&theirs) {
                RefusedCode::TooNew
            } else {
                RefusedCode::Version
            };
            return Err(Refused::new(code, reason));
        };
        Ok(Peer {
            id: certified.clone(),
            generation: Generation::new(self.generation),
            build: self.build.clone(),
            schema,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(hello: Hello, certified: &str) -> Result<u32, RefusedCode> {
        let certified = certified.parse().unwrap();
        let checked = hello.check(&certified, &SchemaRange::of(5), "ours");
        checked
            .map(|peer| peer.schema)
            .map_err(|refused| refused.code())
    }

    fn hello(peer: &str, newest: u32) -> Hello {
        Hello::new(
            &peer.parse().unwrap(),
            Generation::new(1),
            "theirs",
            &SchemaRange::of(newest),
        )
    }

    #[test]
    fn neighbouring_builds_talk_and_others_are_refused_by_name() {
        for (newest, expected) in [(4, Ok(4)), (5, Ok(5)), (6, Ok(5))] {
            assert_eq!(check(hello("n1.node", newest), "n1.node"), expected);
        }
        for (newest, code) in [
            (1, RefusedCode::Version),
            (3, RefusedCode::Version),
            (7, RefusedCode::TooNew),
            (100, RefusedCode::TooNew),
        ] {
            assert_eq!(check(hello("n1.node", newest), "n1.node"), Err(code));
        }
        let refused = hello("n1.node", 3)
            .check(&"n1.node".parse().unwrap(), &SchemaRange::of(5), "ours")
            .unwrap_err();
        assert!(
            refused.reason.contains("ours") && refused.reason.contains("theirs"),
            "{}",
            refused.reason
        );
    }

    #[test]
    fn a_peer_is_what_its_certificate_says() {
        assert_eq!(
            check(hello("n2.node", 5), "n1.node"),
            Err(RefusedCode::Identity)
        );
        assert_eq!(
            check(hello("c1.coordinator", 5), "n1.node"),
            Err(RefusedCode::Identity)
        );
        assert_eq!(
            check(hello("c1.coordinator", 5), "c1.coordinator"),
            Err(RefusedCode::Identity)
        );
    }

    #[test]
    fn tokens_are_random_and_never_printed() {
        let (one, other) = (LinkToken::random(), LinkToken::random());
        assert_ne!(one, other);
        assert_eq!(LinkToken::from_wire(one.to_wire()), Some(one.clone()));
        assert_eq!(LinkToken::from_wire(Bytes::from_static(b"short")), None);
        assert_eq!(format!("{one:?}"), "LinkToken");
    }
}
