//! Live updates by SSE: per video and for all of a user's.

mod routes;
mod wire;

pub(crate) use routes::router;
pub(crate) use wire::{WireEvent, wire};
