//! The service itself: the whole router, its document, and how it feels.

mod document;
mod health;
pub mod metrics;
mod router;

pub(crate) use health::PartsSeen;
pub use router::{document, router};
