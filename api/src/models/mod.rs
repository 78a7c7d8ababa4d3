//! `/v1/models`: what the farm's nodes offer.

mod configs;
mod defaults;
mod keyframe_defaults;
mod routes;

pub(crate) use configs::{keyframe_configs, unet_config};
pub(crate) use defaults::{Defaults, decode_chunk_size};
pub(crate) use keyframe_defaults::KeyframeDefaults;
pub(crate) use routes::router;
