//! `POST /v1/farm/join`: for machines that nobody knows yet. The leader decides; here strangers are counted.

use std::collections::BTreeMap;

use axum::extract::State;
use flowai_actors::ids::Sha256;
use flowai_actors::limits::SIGNING_REQUEST_BYTES_MAX;
use flowai_actors::membership::{Join, JoinAnswer, JoinToken, Joined, check_facts};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::error::{ApiError, FieldError, Problem};
use crate::http::{Caller, Json};

/// What an api instance tells machines of the farm.
#[derive(Debug, Clone)]
pub struct JoinConfig {
    /// Of the farm's CA certificate: a part of every join token.
    pub ca_sha256: Sha256,
    /// Link addresses of the coordinators, host:port.
    pub coordinators: Vec<String>,
}

/// For machines that nobody knows yet.
pub(crate) fn open_router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(join))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct JoinRequest {
    /// As `flowai token create` showed it.
    token: String,
    /// PKCS #10 as PEM, for an ECDSA P-256 key that stays on the machine. Its names count for nothing.
    #[schema(max_length = 4096)]
    csr: String,
    /// What the machine says of itself, for operators to read: nothing depends on it.
    #[serde(default)]
    facts: BTreeMap<String, String>,
    /// The newest message schema that the node's build speaks.
    schema: u32,
}

/// What makes a machine a node of the farm, beside its own key.
#[derive(Serialize, ToSchema)]
struct JoinedResource {
    /// Chosen by the farm.
    #[schema(example = "node-4a51c0ffee000001")]
    node: String,
    /// Those of the token.
    labels: BTreeMap<String, String>,
    /// PEM. Valid for days; the node renews it by itself.
    certificate: String,
    /// PEM. Take the answer only if its sha256 is the one in the token.
    ca: String,
    /// The link's second lock, in hex.
    cookie: String,
    /// Where to dial, host:port.
    coordinators: Vec<String>,
}

/// Join the farm as a render node.
///
/// Asked again with the same token and key, the answer is the same, and one use is counted.
#[utoipa::path(post, path = "/v1/farm/join", tag = "farm", request_body = JoinRequest,
    responses((status = 200, body = JoinedResource), (status = 403, body = Problem), (status = 422, body = Problem), (status = 426, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem)))]
async fn join(
    State(app): State<App>,
    caller: Caller,
    Json(request): Json<JoinRequest>,
) -> Result<axum::Json<JoinedResource>, ApiError> {
    app.rates.admit_stranger(&caller, &request.csr).await?;
    let join = check(request)?;
    let joined = match app.link.join(&join).await? {
        JoinAnswer::Joined(joined) => joined,
        JoinAnswer::Refused => return Err(ApiError::JoinRefused),
        JoinAnswer::Upgrade { build } => return Err(ApiError::UpgradeRequired(build)),
        JoinAnswer::TooNew { build } => {
            let detail = format!("is newer than the farm, which runs {build}; upgrade that first");
            return Err(ApiError::field("/schema", "too_new", detail));
        }
        JoinAnswer::Invalid { reason } => return Err(ApiError::field("/csr", "invalid", reason)),
        JoinAnswer::NoAuthority => {
            return Err(ApiError::NotConfigured(
                "the leading coordinator has no CA key, so no machine can join; set its FLOWAI_CA_DIR",
            ));
        }
    };
    let Joined {
        node,
        labels,
        certificate,
        ca,
        cookie,
    } = joined;
    let resource = JoinedResource {
        node: node.to_string(),
        labels,
        certificate,
        ca,
        cookie,
        coordinators: app.join.coordinators.clone(),
    };
    Ok(axum::Json(resource))
}

/// A text that is no token at all is answered as a token that admits nobody.
fn check(request: JoinRequest) -> Result<Join, ApiError> {
    let JoinRequest {
        token,
        csr,
        facts,
        schema,
    } = request;
    let mut errors = Vec::new();
    if csr.len() > SIGNING_REQUEST_BYTES_MAX {
        let detail = format!(
            "must be at most {SIGNING_REQUEST_BYTES_MAX} bytes (got {})",
            csr.len()
        );
        errors.push(FieldError::new("/csr", "length", detail));
    }
    if let Err(error) = check_facts(&facts) {
        errors.push(FieldError::new("/facts", "invalid", error.to_string()));
    }
    if !errors.is_empty() {
        return Err(ApiError::ValidationFailed(errors));
    }
    let token: JoinToken = token.parse().map_err(|_| ApiError::JoinRefused)?;
    Ok(Join {
        token: token.id(),
        secret_sha256: token.secret_sha256(),
        signing_request: csr,
        facts,
        schema,
    })
}
