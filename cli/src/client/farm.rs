//! The farm as its operators run it, and how machines join it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use flowai_actors::ids::NodeId;
use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;

use super::transport::Transport;
use super::types::{Node, Page};
use super::{Client, ClientError, segment};

/// A join token to be made.
#[derive(Debug, Clone, Serialize)]
pub struct NewJoinToken {
    pub ttl_s: u64,
    pub uses: u32,
    pub labels: BTreeMap<String, String>,
}

/// A join token as operators see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinTokenInfo {
    pub id: String,
    pub labels: BTreeMap<String, String>,
    pub uses: u32,
    pub uses_left: u32,
    pub expires_at: DateTime<Utc>,
}

/// A token that was just made: the only time that it is shown.
#[derive(Clone, Serialize, Deserialize)]
pub struct MadeJoinToken {
    pub token: String,
    #[serde(flatten)]
    pub about: JoinTokenInfo,
}

impl std::fmt::Debug for MadeJoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MadeJoinToken({})", self.about.id)
    }
}

/// A machine that wants to join.
#[derive(Clone, Serialize)]
pub struct JoinRequest {
    pub token: String,
    /// PKCS #10 as PEM.
    pub csr: String,
    pub facts: BTreeMap<String, String>,
    pub schema: u32,
}

/// What makes it a node.
#[derive(Clone, Deserialize)]
pub struct JoinedNode {
    pub node: NodeId,
    pub labels: BTreeMap<String, String>,
    pub certificate: String,
    pub ca: String,
    pub cookie: String,
    pub coordinators: Vec<String>,
}

/// What is known of a node also while it is away.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AboutNode {
    pub id: String,
    pub state: String,
    pub labels: BTreeMap<String, String>,
    pub certificate_expires_at: Option<DateTime<Utc>>,
    /// `off`, `lazy` or `now`.
    pub drain: String,
}

/// The nodes of a farm.
#[derive(Debug, Clone, Deserialize)]
pub struct Nodes {
    /// Those that the leader hears of.
    pub data: Vec<Node>,
    /// Those that joined, or of which something is wanted, and that it does not.
    pub away: Vec<AboutNode>,
}

/// How a node drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum DrainHow {
    Lazy {
        #[serde(skip_serializing_if = "Option::is_none")]
        grace_s: Option<u64>,
    },
    Now,
}

/// Makes a machine a node. Asked again until it is answered: the same key is admitted once.
///
/// # Errors
/// `join_refused`, `upgrade_required` and the rest of what the farm says.
pub async fn join(url: &Url, request: &JoinRequest) -> Result<JoinedNode, ClientError> {
    let transport = Transport::new(url, None)?;
    let answer = transport.post_as_nobody("/v1/farm/join", request).await?;
    transport.json(answer).await
}

impl Client {
    /// Those that the leader hears of.
    pub async fn nodes(&self) -> Result<Vec<Node>, ClientError> {
        Ok(self.all_nodes().await?.data)
    }

    pub async fn all_nodes(&self) -> Result<Nodes, ClientError> {
        self.transport.get("/v1/farm/nodes").await
    }

    pub async fn make_join_token(
        &self,
        token: &NewJoinToken,
    ) -> Result<MadeJoinToken, ClientError> {
        self.transport.post("/v1/farm/tokens", token).await
    }

    /// Those that still admit somebody.
    pub async fn join_tokens(&self) -> Result<Vec<JoinTokenInfo>, ClientError> {
        let page: Page<JoinTokenInfo> = self.transport.get("/v1/farm/tokens").await?;
        Ok(page.data)
    }

    pub async fn revoke_join_token(&self, id: &str) -> Result<(), ClientError> {
        let id: Uuid = segment(id)?;
        let path = format!("/v1/farm/tokens/{id}");
        self.transport.delete(&path).await?;
        Ok(())
    }

    /// Lets a node in no more, for good.
    pub async fn revoke_node(&self, node: &str) -> Result<(), ClientError> {
        let path = format!("/v1/farm/nodes/{}", name(node)?);
        self.transport.delete(&path).await?;
        Ok(())
    }

    /// Again is as once.
    pub async fn drain(&self, node: &str, how: DrainHow) -> Result<(), ClientError> {
        let path = format!("/v1/farm/nodes/{}/drain", name(node)?);
        self.transport.put(&path, &how).await?;
        Ok(())
    }

    pub async fn undrain(&self, node: &str) -> Result<(), ClientError> {
        let path = format!("/v1/farm/nodes/{}/drain", name(node)?);
        self.transport.delete(&path).await?;
        Ok(())
    }
}

/// A node's name that somebody typed, as a part of a path.
fn name(node: &str) -> Result<NodeId, ClientError> {
    node.parse().map_err(|_| ClientError::Input {
        field: "node",
        detail: format!("must be a name that `flowai nodes` lists (got {node:?})"),
    })
}
