//! The service itself: the whole router, its document, and how it feels.

mod document;
mod health;
pub mod metrics;
mod router;

pub use router::{document, router};
