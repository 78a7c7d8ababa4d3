//! `/v1/media`.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use chrono::Utc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{find, serve, ticket};
use crate::app::App;
use crate::error::{ApiError, Problem};
use crate::http::Path;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(get))
}

/// A file of a video by a signed link.
///
/// The links are the `urls` of a video. They end after five minutes; ask for the video again for new ones.
#[utoipa::path(get, path = "/v1/media/{ticket}", tag = "videos", params(("ticket" = String, Path)),
    responses((status = 200, content_type = "video/mp4"), (status = 206, content_type = "video/mp4"), (status = 404, body = Problem), (status = 416, body = Problem)))]
async fn get(
    State(app): State<App>,
    headers: HeaderMap,
    Path(text): Path<String>,
) -> Result<Response, ApiError> {
    let ticket = ticket::read(&app.keys, &text, Utc::now());
    let ticket = ticket.ok_or(ApiError::NotFound(
        "a file under this link (links end after five minutes)",
    ))?;
    let key = find(&app, ticket.user, ticket.video, ticket.file).await?;
    serve(&app, &headers, &key, ticket.video, ticket.file).await
}
