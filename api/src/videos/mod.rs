//! `/v1/videos` and `/v1/batches`: renders, from the wish to the clip.

mod batch;
mod cancel;
mod catalogue;
mod draft;
mod finals;
mod fit;
mod keyframe;
mod list;
mod plan;
mod preview;
mod read;
mod resource;
mod room;
mod submit;
mod wish;

pub(crate) use cancel::{cancel, purge};
pub(crate) use catalogue::Catalogue;
pub(crate) use fit::MemoryFit;
pub(crate) use read::{find, wait_for_end};
pub(crate) use resource::{AdapterUseResource, present};
pub(crate) use room::QueueRoom;
pub(crate) use submit::{Submitted, submit};
pub(crate) use wish::{AdapterWish, KeyframeSettings, SamplerName, Wish, again};

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(submit::create, list::list))
        .routes(routes!(read::get, cancel::remove))
        .routes(routes!(read::content))
        .routes(routes!(read::poster))
        .routes(routes!(preview::preview))
        .routes(routes!(read::spritesheet))
        .routes(routes!(read::keyframe))
        .routes(routes!(read::manifest))
        .routes(routes!(finals::create))
        .routes(routes!(batch::create))
}
