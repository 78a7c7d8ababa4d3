//! `GET /v1/credits`.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use flowai_actors::credits::PriceBook;
use flowai_store::ledger::{self, Movement, Transaction};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::{ApiError, Problem};
use crate::http::{Query, page};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CreditsQuery {
    /// Transactions, 1..=200, default 50.
    limit: Option<u32>,
}

/// What the caller has, in milli-credits: a credit is 1,000 of them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CreditsResource {
    #[schema(example = 1_000_000)]
    available_mc: u64,
    /// For videos that are not over.
    #[schema(example = 10_004)]
    held_mc: u64,
    prices: PricesResource,
    /// The newest first.
    transactions: Vec<TransactionResource>,
}

/// What a video costs: the sum of these, rounded up to a milli-credit.
#[derive(Debug, Serialize, ToSchema)]
struct PricesResource {
    version: u32,
    /// Of each video.
    render_mc: u64,
    /// Of each adapter.
    adapter_mc: u64,
    /// Millionths of a milli-credit of each step of each pixel of each frame.
    step_pixel_frame_umc: u64,
    /// Millionths of a milli-credit of each pixel of each frame.
    pixel_frame_umc: u64,
    /// Millionths of a milli-credit of each step of each pixel of a first frame that is made from the prompt.
    keyframe_step_pixel_umc: u64,
    /// What a draft costs of that.
    draft_percent: u64,
}

/// How credits moved.
#[derive(Debug, Serialize, ToSchema)]
struct TransactionResource {
    /// `gift`, `grant`, `hold` (a video was submitted), `capture` (it was delivered, or cancelled while it ran) or `release` (it
    /// ended without a clip).
    #[schema(example = "hold")]
    kind: &'static str,
    /// By how much what is available changed, and what is held.
    #[schema(example = -10_004)]
    available_change_mc: i64,
    #[schema(example = 10_004)]
    held_change_mc: i64,
    /// Of a hold and its end. It may have been purged since.
    video: Option<Uuid>,
    /// Of a grant.
    reason: Option<String>,
    at: DateTime<Utc>,
}

impl From<PriceBook> for PricesResource {
    fn from(book: PriceBook) -> Self {
        let PriceBook {
            version,
            render_mc,
            adapter_mc,
            step_pixel_frame_umc,
            pixel_frame_umc,
            keyframe_step_pixel_umc,
            draft_percent,
        } = book;
        Self {
            version,
            render_mc,
            adapter_mc,
            step_pixel_frame_umc,
            pixel_frame_umc,
            keyframe_step_pixel_umc,
            draft_percent,
        }
    }
}

impl From<Transaction> for TransactionResource {
    fn from(transaction: Transaction) -> Self {
        Self {
            kind: match transaction.movement {
                Movement::Gift => "gift",
                Movement::Grant => "grant",
                Movement::Hold => "hold",
                Movement::Capture => "capture",
                Movement::Release => "release",
            },
            available_change_mc: transaction.available_change,
            held_change_mc: transaction.held_change,
            video: transaction.job.map(|job| job.as_uuid()),
            reason: transaction.reason,
            at: transaction.at,
        }
    }
}

/// Look at the own credits, what moved them last, and what videos cost.
#[utoipa::path(get, path = "/v1/credits", tag = "credits", security(("bearer" = [])), params(CreditsQuery),
    responses((status = 200, body = CreditsResource), (status = 401, body = Problem), (status = 403, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn get(
    State(app): State<App>,
    principal: Principal,
    Query(query): Query<CreditsQuery>,
) -> Result<Json<CreditsResource>, ApiError> {
    principal.require(Scope::Videos)?;
    let limit = page::limit(query.limit)?;
    let mut transaction = app.database.begin_as(principal.user).await?;
    let balance = ledger::own_balance(&mut transaction).await?;
    let transactions = ledger::own_transactions(&mut transaction, limit.into()).await?;
    Ok(Json(CreditsResource {
        available_mc: balance.available.get(),
        held_mc: balance.held.get(),
        prices: PriceBook::CURRENT.into(),
        transactions: transactions.into_iter().map(Into::into).collect(),
    }))
}
