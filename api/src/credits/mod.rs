//! `/v1/credits`: what the caller has, what moved it, what renders cost; and grants, for administrators.

mod grants;
mod routes;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(routes::get))
        .routes(routes!(grants::create))
}
