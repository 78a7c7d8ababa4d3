//! The farm as operators see it, and the link to its leader.

mod compare;
mod link;
mod routes;

pub use link::{LeaderLink, follow};
pub(crate) use routes::router;
