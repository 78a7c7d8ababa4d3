//! `/v1/farm/nodes`: the render nodes, as the leader sees them and as their rows say.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use flowai_actors::ids::NodeId;
use flowai_actors::limits::NODE_LEASE_MS;
use flowai_actors::messages::{AdapterTiers, CacheUsage, NodeView};
use flowai_store::database::commit;
use flowai_store::members::{self, Drain, Member};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::{ApiError, Problem};
use crate::http::Path;
use crate::videos::AdapterUseResource;

/// Rows shown; more nodes than any farm here has had.
const MEMBERS_MAX: i64 = 10_000;

pub(super) const NO_NODE: ApiError = ApiError::NotFound("a node of this name");

/// A node whose lease runs.
#[derive(Serialize, ToSchema)]
pub(super) struct NodeResource {
    #[serde(flatten)]
    about: AboutNode,
    generation: u32,
    version: String,
    device: String,
    /// Equal classes give equal bits.
    device_class: String,
    memory_bytes: u64,
    models: Vec<String>,
    /// Model folders that it does not offer.
    refused_models: Vec<RefusedModelResource>,
    /// How many adapters it has at hand.
    held_adapters: usize,
    /// Where it has them, as of its newest beat.
    adapters: AdaptersResource,
    running: Option<RunningResource>,
    /// Since its last beat.
    silent_ms: u64,
}

/// From what the node computes with to its disk: the nearer, the sooner a job with them starts.
#[derive(Serialize, ToSchema)]
struct AdaptersResource {
    /// What is fused into the weights; none before a model is loaded.
    fused: Option<FusedResource>,
    /// Factors in the device's memory; none where that is the host's.
    device: Option<TierResource>,
    /// Read and checked in the host's memory.
    host: TierResource,
    /// Files.
    disk: TierResource,
}

#[derive(Serialize, ToSchema)]
struct FusedResource {
    model: String,
    adapters: Vec<AdapterUseResource>,
}

/// How full a memory is, and how it was used since the node's process began.
#[derive(Serialize, ToSchema)]
struct TierResource {
    bytes: u64,
    bytes_max: u64,
    /// Times that a wanted adapter was there, that it had to be brought, and that one went for lack of room.
    hits: u64,
    misses: u64,
    evictions: u64,
}

impl From<CacheUsage> for TierResource {
    fn from(usage: CacheUsage) -> Self {
        let CacheUsage {
            bytes,
            bytes_max,
            hits,
            misses,
            evictions,
        } = usage;
        Self {
            bytes,
            bytes_max,
            hits,
            misses,
            evictions,
        }
    }
}

impl From<AdapterTiers> for AdaptersResource {
    fn from(tiers: AdapterTiers) -> Self {
        Self {
            fused: tiers.fused.map(|fused| FusedResource {
                model: fused.model.to_string(),
                adapters: fused.adapters.iter().map(Into::into).collect(),
            }),
            device: tiers.device.map(|device| device.usage.into()),
            host: tiers.host.usage.into(),
            disk: tiers.disk.into(),
        }
    }
}

#[derive(Serialize, ToSchema)]
struct RefusedModelResource {
    folder: String,
    reason: String,
}

#[derive(Serialize, ToSchema)]
struct RunningResource {
    video: Uuid,
    attempt: u32,
}

#[derive(Serialize, ToSchema)]
pub(super) struct NodeList {
    /// The leader's term.
    epoch: Option<u32>,
    data: Vec<NodeResource>,
    /// Nodes that joined, or of which something is wanted, and that the leader does not hear of.
    away: Vec<AboutNode>,
}

/// What is known of a node also while it is away.
#[derive(Serialize, ToSchema)]
pub(super) struct AboutNode {
    #[schema(example = "node-4a51c0ffee000001")]
    id: String,
    state: NodeState,
    /// Those of its join token.
    labels: BTreeMap<String, String>,
    /// What the machine said of itself when it joined.
    facts: BTreeMap<String, String>,
    joined_at: Option<DateTime<Utc>>,
    /// Of its newest certificate; none when it was not issued by the leader.
    certificate_expires_at: Option<DateTime<Utc>>,
    /// `off`, `lazy` or `now`.
    #[schema(example = "off")]
    drain: &'static str,
    /// When a lazy drain becomes one that waits no longer.
    drain_now_at: Option<DateTime<Utc>>,
}

/// Where in its life a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum NodeState {
    /// Free for a job.
    Ready,
    Busy,
    /// It has a job still and gets no other.
    Draining,
    /// It has no job and gets none.
    Drained,
    /// Silent for longer than its lease.
    Lost,
    /// The leader does not hear of it, and it is wanted.
    Away,
    /// It is let in no more.
    Revoked,
}

impl AboutNode {
    /// `seen`: as the leader sees it.
    fn of(id: &NodeId, member: Option<&Member>, seen: Option<&NodeView>) -> Self {
        let drain = member.map(|member| member.drain).unwrap_or_default();
        Self {
            id: id.to_string(),
            state: state_of(member, seen),
            labels: member
                .map(|member| member.labels.clone())
                .unwrap_or_default(),
            facts: member
                .map(|member| member.facts.clone())
                .unwrap_or_default(),
            joined_at: member.and_then(|member| member.joined_at),
            certificate_expires_at: member.and_then(|member| member.certificate_expires_at),
            drain: drain.as_str(),
            drain_now_at: member.and_then(|member| member.drain_now_at),
        }
    }
}

fn state_of(member: Option<&Member>, seen: Option<&NodeView>) -> NodeState {
    if member.is_some_and(|member| member.revoked_at.is_some()) {
        return NodeState::Revoked;
    }
    let is_draining = member.is_some_and(|member| member.drain != Drain::Off);
    match seen {
        None if is_draining => NodeState::Drained,
        None => NodeState::Away,
        Some(node) if node.silent_ms > NODE_LEASE_MS => NodeState::Lost,
        Some(node) => match (is_draining, node.running.is_some()) {
            (true, true) => NodeState::Draining,
            (true, false) => NodeState::Drained,
            (false, true) => NodeState::Busy,
            (false, false) => NodeState::Ready,
        },
    }
}

/// The rows of nodes by name.
async fn members_of(
    app: &App,
    principal: &Principal,
) -> Result<BTreeMap<NodeId, Member>, ApiError> {
    let mut transaction = app.database.begin_as(principal.user).await?;
    let members = members::list(&mut transaction, MEMBERS_MAX).await?;
    Ok(members
        .into_iter()
        .map(|member| (member.node.clone(), member))
        .collect())
}

impl NodeResource {
    fn of(node: NodeView, member: Option<&Member>) -> Self {
        let about = AboutNode::of(&node.node, member, Some(&node));
        let refused = node.refused_models.into_iter();
        Self {
            about,
            generation: node.generation.get(),
            version: node.version,
            device: node.device,
            device_class: node.device_class,
            memory_bytes: node.memory_bytes,
            models: node.models.iter().map(ToString::to_string).collect(),
            refused_models: refused
                .map(|model| RefusedModelResource {
                    folder: model.folder,
                    reason: model.reason,
                })
                .collect(),
            held_adapters: node.held_adapters.len(),
            adapters: node.adapters.into(),
            running: node.running.map(|at| RunningResource {
                video: at.job.as_uuid(),
                attempt: at.attempt.get(),
            }),
            silent_ms: node.silent_ms,
        }
    }
}

/// List the render nodes.
#[utoipa::path(get, path = "/v1/farm/nodes", tag = "farm", security(("bearer" = [])),
    responses((status = 200, body = NodeList), (status = 401, body = Problem), (status = 403, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    principal: Principal,
) -> Result<axum::Json<NodeList>, ApiError> {
    principal.require_operator(&app, Scope::FarmRead).await?;
    let farm = app.link.farm().await?;
    let mut members = members_of(&app, &principal).await?;
    let nodes = farm.nodes.into_iter();
    let data = nodes
        .map(|node| {
            let member = members.remove(&node.node);
            NodeResource::of(node, member.as_ref())
        })
        .collect();
    let away = members
        .iter()
        .map(|(id, member)| AboutNode::of(id, Some(member), None));
    Ok(axum::Json(NodeList {
        epoch: farm.epoch.map(|epoch| epoch.get()),
        data,
        away: away.collect(),
    }))
}

/// Look at a render node.
#[utoipa::path(get, path = "/v1/farm/nodes/{id}", tag = "farm", security(("bearer" = [])), params(("id" = String, Path)),
    responses((status = 200, body = NodeResource), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn read(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<NodeId>,
) -> Result<axum::Json<NodeResource>, ApiError> {
    principal.require_operator(&app, Scope::FarmRead).await?;
    let farm = app.link.farm().await?;
    let node = farm.nodes.into_iter().find(|node| node.node == id);
    let node = node.ok_or(NO_NODE)?;
    let members = members_of(&app, &principal).await?;
    Ok(axum::Json(NodeResource::of(node, members.get(&id))))
}

/// Revoke a render node.
///
/// It is let in no more, for good, and what it works on goes on elsewhere. To come back the machine joins anew, under another
/// name.
#[utoipa::path(delete, path = "/v1/farm/nodes/{id}", tag = "farm", security(("bearer" = [])), params(("id" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn revoke(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<NodeId>,
) -> Result<StatusCode, ApiError> {
    principal.require_operator(&app, Scope::Farm).await?;
    let mut transaction = app.database.begin_as(principal.user).await?;
    if !members::revoke(&mut transaction, &id).await? {
        return Err(NO_NODE);
    }
    commit(transaction).await?;
    tracing::info!(node = %id, by = %principal.user, "a node was revoked");
    app.link.members_changed();
    Ok(StatusCode::NO_CONTENT)
}
