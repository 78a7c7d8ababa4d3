//! The kit every actor of FlowAI is built with.
//!
//! ractor brings the actors; what it leaves open is closed here once: every request has a deadline ([`ask`]), every
//! mailbox that strangers can fill has a bound ([`BoundedRef`]), a reply cannot be forgotten ([`Reply`]), a crash loop
//! ends ([`RestartBudget`]), and no background task is anonymous ([`Tasks`]). Bare `call`, `cast` and `tokio::spawn` are
//! wrong outside this folder.

mod ask;
mod backoff;
mod bounded;
pub mod logging;
mod reply;
mod restarts;
mod task;

pub use ask::{AskError, Mailbox, PostError, ask};
pub use backoff::Backoff;
pub use bounded::{BoundedRef, Parcel};
pub use ractor::{
    self, Actor, ActorCell, ActorProcessingErr, ActorRef, ActorStatus, SpawnErr, SupervisionEvent,
};
pub use reply::{Rejected, Reply};
pub use restarts::{RestartBudget, Verdict};
pub use task::{OnCancel, OnFailure, TaskError, TaskKind, TaskResult, Tasks};

/// Derives `ractor::Message` for a message that stays in this process. A crate that uses it needs `ractor` in scope:
/// either as a dependency or through `use flowai_actors::kit::ractor;`.
pub use crate::link::RactorMessage;
