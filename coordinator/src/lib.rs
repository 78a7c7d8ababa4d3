//! The leader: what runs where, and how that becomes durable.
//!
//! - [`scheduler`] decides: a pure value, `step(event, now) -> effects`.
//! - `leader/` is the actor of one term around it: it writes what was decided, and tells it only then.
//! - [`core`] is that leader without its surroundings, which the simulator runs as well.
//! - [`Coordinator`] takes part in the leader's lease: stands by, leads a term, stands by again.
//!
//! Invariants 1 to 5 of `docs/ARCHITECTURE.md` are kept here. No libtorch and no HTTP for users.

mod coordinator;
pub mod core;
mod cost;
mod leader;
mod lease;
pub mod metrics;
pub mod scheduler;
pub mod settings;

pub use coordinator::{Coordinator, CoordinatorError, Stand};
