//! `/v1/models`: what the farm's nodes offer.

mod defaults;
mod routes;

pub(crate) use defaults::{Defaults, unet_config};
pub(crate) use routes::router;
