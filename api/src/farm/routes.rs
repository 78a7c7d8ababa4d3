//! `/v1/farm`: for operators.

use axum::extract::State;
use flowai_actors::ids::NodeId;
use flowai_actors::messages::{AdapterTiers, CacheUsage, NodeView};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::{ApiError, Problem};
use crate::http::Path;
use crate::videos::AdapterUseResource;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(nodes))
        .routes(routes!(node))
        .routes(routes!(queues))
        .routes(routes!(super::compare::compare))
}

/// A node whose lease runs.
#[derive(Serialize, ToSchema)]
struct NodeResource {
    #[schema(example = "gpu-1")]
    id: String,
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
struct NodeList {
    /// The leader's term.
    epoch: Option<u32>,
    data: Vec<NodeResource>,
}

#[derive(Serialize, ToSchema)]
struct QueueResource {
    /// `free`, `pro` or `studio`.
    #[schema(example = "free")]
    tier: &'static str,
    queued: u32,
    running: u32,
}

#[derive(Serialize, ToSchema)]
struct QueueList {
    data: Vec<QueueResource>,
}

impl From<NodeView> for NodeResource {
    fn from(node: NodeView) -> Self {
        let refused = node.refused_models.into_iter();
        Self {
            id: node.node.to_string(),
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
async fn nodes(
    State(app): State<App>,
    principal: Principal,
) -> Result<axum::Json<NodeList>, ApiError> {
    principal.require_operator(&app, Scope::FarmRead).await?;
    let farm = app.link.farm().await?;
    Ok(axum::Json(NodeList {
        epoch: farm.epoch.map(|epoch| epoch.get()),
        data: farm.nodes.into_iter().map(NodeResource::from).collect(),
    }))
}

/// Look at a render node.
#[utoipa::path(get, path = "/v1/farm/nodes/{id}", tag = "farm", security(("bearer" = [])), params(("id" = String, Path)),
    responses((status = 200, body = NodeResource), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 503, body = Problem)))]
async fn node(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<NodeId>,
) -> Result<axum::Json<NodeResource>, ApiError> {
    principal.require_operator(&app, Scope::FarmRead).await?;
    let farm = app.link.farm().await?;
    let node = farm.nodes.into_iter().find(|node| node.node == id);
    let node = node.ok_or(ApiError::NotFound("a node of this name"))?;
    Ok(axum::Json(node.into()))
}

/// List the queues, by tier.
#[utoipa::path(get, path = "/v1/farm/queues", tag = "farm", security(("bearer" = [])),
    responses((status = 200, body = QueueList), (status = 401, body = Problem), (status = 403, body = Problem), (status = 503, body = Problem)))]
async fn queues(
    State(app): State<App>,
    principal: Principal,
) -> Result<axum::Json<QueueList>, ApiError> {
    principal.require_operator(&app, Scope::FarmRead).await?;
    let farm = app.link.farm().await?;
    let queues = farm.queues.into_iter().map(|queue| QueueResource {
        tier: queue.tier.as_str(),
        queued: queue.queued,
        running: queue.running,
    });
    Ok(axum::Json(QueueList {
        data: queues.collect(),
    }))
}
