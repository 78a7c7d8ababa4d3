//! What stands around every handler: layers, extractors, limits, lists, retries that happen once.

mod caller;
mod extract;
pub(crate) mod idempotency;
pub(crate) mod layers;
mod origin;
mod pace;
pub(crate) mod page;
pub(crate) mod rate;

pub(crate) use caller::Caller;
pub(crate) use extract::{Json, JsonBytes, Path, Query, read_json};
pub(crate) use pace::is_too_slow;
