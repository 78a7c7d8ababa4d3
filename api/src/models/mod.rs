//! `/v1/models`: what the farm's nodes offer.

mod defaults;
mod routes;

pub(crate) use defaults::{Defaults, decode_chunk_size, unet_config};
pub(crate) use routes::router;
