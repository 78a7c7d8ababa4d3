//! Who is at the other end of a link.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::ids::{Generation, NodeId};

/// What a machine is allowed to be, as certified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Leads or stands by; the only role that is dialled.
    Coordinator,
    /// Renders.
    Node,
    /// Serves users.
    Api,
}

impl Role {
    /// Every role, for tables.
    pub const ALL: [Role; 3] = [Role::Coordinator, Role::Node, Role::Api];

    /// The role's label in certificate names.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Coordinator => "coordinator",
            Role::Node => "node",
            Role::Api => "api",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text is not a peer id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPeerId {
    /// The id is not a DNS label.
    #[error("peer id {0:?} must be 1 to 63 of a-z, 0-9 and inner hyphens")]
    Label(String),
    /// The text has no known role after its last dot.
    #[error("peer {0:?} must be written <id>.coordinator, <id>.node or <id>.api")]
    Role(String),
}

/// A certified identity: an id within a role, written `<id>.<role>`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId {
    role: Role,
    id: Arc<str>,
}

impl PeerId {
    /// The id must be a DNS label of at most 63 characters, since certificates carry it as a name.
    pub fn new(role: Role, id: &str) -> Result<Self, InvalidPeerId> {
        let is_label = (1..=63).contains(&id.len())
            && id
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !id.starts_with('-')
            && !id.ends_with('-');
        if !is_label {
            return Err(InvalidPeerId::Label(id.to_owned()));
        }
        Ok(Self {
            role,
            id: id.into(),
        })
    }

    /// The id within the role.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The render node of this id; `None` for other roles.
    pub fn as_node(&self) -> Option<NodeId> {
        (self.role == Role::Node)
            .then(|| self.id.parse().ok())
            .flatten()
    }

    /// The certified role.
    pub fn role(&self) -> Role {
        self.role
    }
}

impl From<&NodeId> for PeerId {
    /// Both are DNS labels by the same rule.
    fn from(node: &NodeId) -> Self {
        Self {
            role: Role::Node,
            id: node.as_str().into(),
        }
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.id, self.role)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for PeerId {
    type Err = InvalidPeerId;

    fn from_str(text: &str) -> Result<Self, InvalidPeerId> {
        let (id, role) = text
            .rsplit_once('.')
            .ok_or_else(|| InvalidPeerId::Role(text.to_owned()))?;
        let role = Role::ALL.into_iter().find(|known| known.as_str() == role);
        Self::new(
            role.ok_or_else(|| InvalidPeerId::Role(text.to_owned()))?,
            id,
        )
    }
}

/// A peer as it introduced itself on a link that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// From its certificate.
    pub id: PeerId,
    /// Its start count: a higher one proves that the process before it is dead.
    pub generation: Generation,
    /// Its build, for operators.
    pub build: String,
    /// The message schema both sides speak on this link.
    pub schema: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_written_as_they_are_read() {
        for text in [
            "n1.node",
            "a-b-c.coordinator",
            "0191f7c2-8d3e-7c11-9d0a-0a1b2c3d4e5f.api",
        ] {
            assert_eq!(text.parse::<PeerId>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn render_nodes_are_peers_and_back() {
        for name in ["n", "gpu-7", &"x".repeat(63)] {
            let node: NodeId = name.parse().unwrap();
            let peer = PeerId::from(&node);
            assert_eq!(peer, PeerId::new(Role::Node, name).unwrap());
            assert_eq!(peer.as_node(), Some(node));
        }
        assert_eq!("a.api".parse::<PeerId>().unwrap().as_node(), None);
    }

    #[test]
    fn what_a_certificate_cannot_name_is_refused() {
        for text in [
            "", "node", ".node", "N1.node", "a.b.node", "-a.node", "a-.node", "a_b.node",
            "a.admin", "a#1.node",
        ] {
            assert!(text.parse::<PeerId>().is_err(), "{text:?}");
        }
        assert!(PeerId::new(Role::Node, &"x".repeat(64)).is_err());
    }
}
