//! The farm as operators see and run it, how machines join it, and the link to its leader.

mod compare;
mod drain;
mod join;
mod link;
mod node;
mod routes;
mod tokens;

pub use join::JoinConfig;
pub(crate) use join::open_router;
pub use link::{LeaderLink, follow};
pub(crate) use routes::router;
