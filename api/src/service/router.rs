//! The whole router: each resource's own, the gate in front of those for known callers, the layers around all.

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::response::Redirect;
use axum::routing::get;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::SwaggerUi;

use super::document::{complete, frame};
use super::health;
use crate::app::App;
use crate::auth::{self, require_principal};
use crate::error::ApiError;
use crate::http::layers;
use crate::{
    adapters, api_keys, credits, events, farm, me, media, models, openai, socket, uploads, videos,
};

/// Routes that bring their own credential or need none.
fn for_anyone() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(auth::open_router())
        .merge(socket::open_router())
        .merge(media::router())
        .merge(health::router())
}

/// Routes for callers who showed a credential.
fn for_known_callers() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(auth::router())
        .merge(me::router())
        .merge(credits::router())
        .merge(api_keys::router())
        .merge(uploads::router())
        .merge(adapters::router())
        .merge(models::router())
        .merge(videos::router())
        .merge(events::router())
        .merge(socket::router())
        .merge(farm::router())
}

/// Everything that is served.
pub fn router(app: App) -> Router {
    let known = for_known_callers();
    let known = known.route_layer(from_fn_with_state(app.clone(), require_principal));
    let openai = openai::router();
    let openai = openai.route_layer(from_fn_with_state(app.clone(), openai::require_principal));
    let (router, document) = OpenApiRouter::with_openapi(frame())
        .merge(for_anyone())
        .merge(known)
        .merge(openai)
        .split_for_parts();
    let docs = SwaggerUi::new("/docs").url("/openapi.json", complete(document));
    let router = router
        .merge(docs)
        .route("/", get(|| async { Redirect::to("/docs/") }))
        .fallback(|| async { ApiError::NoRoute })
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed });
    layers::surround(router, app)
}

/// What [`router`] serves, as OpenAPI says it.
pub fn document() -> OpenApi {
    let document = OpenApiRouter::with_openapi(frame())
        .merge(for_anyone())
        .merge(for_known_callers())
        .merge(openai::router())
        .into_openapi();
    complete(document)
}
