//! `/v1/farm/nodes`: the render nodes, as the leader sees them and as their rows say.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use flowai_actors::ids::{ModelId, NodeId};
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

/// A node that the leader has heard of lately.
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
    /// Models of which it gets no job for now, after failures that may be its own. It is tried again by itself.
    distrusted_models: Vec<String>,
    /// How many times as long as usual on its device class its steps take, while that is much more.
    slowness: Option<f64>,
    /// Since its last beat.
    silent_ms: u64,
}

/// What is known of one node.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum NodeAnswer {
    Heard(Box<NodeResource>),
    Away(AboutNode),
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
    /// It shall get no other job: it has one still, or the leader is yet to hear of it.
    Draining,
    /// It has no job and gets none, as the leader says.
    Drained,
    /// Silent for longer than its lease.
    Lost,
    /// The leader does not hear of it.
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
    let Some(node) = seen else {
        return NodeState::Away;
    };
    if node.silent_ms > NODE_LEASE_MS {
        return NodeState::Lost;
    }
    let is_busy = node.running.is_some();
    if node.is_draining && !is_busy {
        return NodeState::Drained;
    }
    // The leader drains nodes of its own accord, and hears of an operator's wish after the row has it.
    let is_wanted = member.is_some_and(|member| member.drain != Drain::Off);
    if node.is_draining || is_wanted {
        return NodeState::Draining;
    }
    if is_busy {
        NodeState::Busy
    } else {
        NodeState::Ready
    }
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
            models: names(&node.models),
            refused_models: refused
                .map(|model| RefusedModelResource {
                    folder: model.folder,
                    reason: model.reason,
                })
                .collect(),
            held_adapters: node
                .held_adapters_count
                .map_or(node.held_adapters.len(), |count| count as usize),
            adapters: node.adapters.into(),
            running: node.running.map(|at| RunningResource {
                video: at.job.as_uuid(),
                attempt: at.attempt.get(),
            }),
            distrusted_models: names(&node.distrusted_models),
            slowness: node.slowness,
            silent_ms: node.silent_ms,
        }
    }
}

fn names(models: &[ModelId]) -> Vec<String> {
    models.iter().map(ToString::to_string).collect()
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
    let mut transaction = app.database.begin_as(principal.user).await?;
    let rows = members::list(&mut transaction, MEMBERS_MAX).await?;
    let named = rows.into_iter().map(|row| (row.node.clone(), row));
    let mut members: BTreeMap<NodeId, Member> = named.collect();
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
///
/// Of one that the leader does not hear of, only what its row says.
#[utoipa::path(get, path = "/v1/farm/nodes/{id}", tag = "farm", security(("bearer" = [])), params(("id" = String, Path)),
    responses((status = 200, body = NodeAnswer), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn read(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<NodeId>,
) -> Result<axum::Json<NodeAnswer>, ApiError> {
    principal.require_operator(&app, Scope::FarmRead).await?;
    let farm = app.link.farm().await?;
    let seen = farm.nodes.into_iter().find(|node| node.node == id);
    let mut transaction = app.database.begin_as(principal.user).await?;
    let member = members::find(&mut transaction, &id).await?;
    let answer = match (seen, member) {
        (Some(node), member) => {
            NodeAnswer::Heard(Box::new(NodeResource::of(node, member.as_ref())))
        }
        (None, Some(member)) => NodeAnswer::Away(AboutNode::of(&id, Some(&member), None)),
        (None, None) => return Err(NO_NODE),
    };
    Ok(axum::Json(answer))
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

#[cfg(test)]
mod tests {
    use flowai_actors::ids::{Attempt, Epoch, Generation, JobId};
    use flowai_actors::messages::AttemptRef;

    use super::*;

    fn row(drain: Drain) -> Member {
        Member {
            node: "n1".parse().unwrap(),
            labels: BTreeMap::new(),
            facts: BTreeMap::new(),
            joined_at: None,
            certificate_expires_at: None,
            drain,
            drain_now_at: None,
            revoked_at: None,
        }
    }

    fn heard(is_draining: bool, is_busy: bool) -> NodeView {
        let running = is_busy.then(|| AttemptRef {
            job: JobId::generate(),
            attempt: Attempt::new(1),
            epoch: Epoch::new(1),
        });
        NodeView {
            node: "n1".parse().unwrap(),
            generation: Generation::new(1),
            device: "cpu".to_owned(),
            device_class: "cpu".to_owned(),
            memory_bytes: 1,
            version: "0".to_owned(),
            models: Vec::new(),
            refused_models: Vec::new(),
            held_adapters: Vec::new(),
            held_adapters_count: None,
            adapters: AdapterTiers::default(),
            running,
            is_draining,
            distrusted_models: Vec::new(),
            slowness: None,
            silent_ms: 0,
        }
    }

    #[test]
    fn a_node_is_drained_when_the_leader_says_so() {
        for (wanted, is_draining, is_busy, state) in [
            (Drain::Off, false, false, NodeState::Ready),
            (Drain::Off, false, true, NodeState::Busy),
            (Drain::Lazy, false, false, NodeState::Draining),
            (Drain::Lazy, false, true, NodeState::Draining),
            (Drain::Lazy, true, true, NodeState::Draining),
            (Drain::Lazy, true, false, NodeState::Drained),
            // The autoscaler's wish has no row.
            (Drain::Off, true, true, NodeState::Draining),
            (Drain::Off, true, false, NodeState::Drained),
        ] {
            let seen = heard(is_draining, is_busy);
            let got = state_of(Some(&row(wanted)), Some(&seen));
            assert_eq!(got, state, "{wanted:?}, {is_draining}, {is_busy}");
        }
        assert_eq!(
            state_of(None, Some(&heard(true, false))),
            NodeState::Drained
        );
    }

    #[test]
    fn a_node_that_nobody_hears_is_away_or_lost() {
        for wanted in [Drain::Off, Drain::Lazy, Drain::Now] {
            let member = row(wanted);
            assert_eq!(state_of(Some(&member), None), NodeState::Away);
            let silent = NodeView {
                silent_ms: NODE_LEASE_MS + 1,
                ..heard(true, false)
            };
            assert_eq!(state_of(Some(&member), Some(&silent)), NodeState::Lost);
        }
        let revoked = Member {
            revoked_at: Some(Utc::now()),
            ..row(Drain::Off)
        };
        assert_eq!(state_of(Some(&revoked), None), NodeState::Revoked);
    }
}
