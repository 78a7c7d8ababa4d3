//! The leader actor of one term: hears nodes and api instances, lets the scheduler decide, writes it, and only then tells.
//!
//! Promises:
//! - What is told was committed before, under this term (INV-2, INV-4).
//! - A message that is lost, doubled or late changes nothing for the worse: the row is compared, the sweep finds what no
//!   doorbell announced, the beat says what no answer did (INV-1).
//! - A clip is delivered when its files lie in the object store, once (INV-3).

mod actor;
mod ahead;
mod attempts;
mod audit;
mod autoscaling;
mod checkpoints;
mod compare;
mod delivery;
mod ends;
pub(crate) mod event;
mod inputs;
mod joining;
mod line;
mod members;
mod messages;
mod nodes;
mod outbox;
mod previews;
mod reading;
mod registry;
pub(crate) mod state;
mod sweeps;
mod tasks;
#[cfg(test)]
mod tests;
mod weeks;
pub(crate) mod work;
pub(crate) mod writing;
mod written;

use std::sync::Arc;
use std::time::Duration;

use flowai_actors::ids::Epoch;
use flowai_actors::kit::{Actor, BoundedRef, Tasks};
use flowai_actors::link::{LinkEvent, NodeLink};
use flowai_store::database::Database;
use flowai_store::objects::Objects;
use tokio::sync::{Semaphore, oneshot, watch};

pub use actor::{CLOCK_START, STOP_DEADLINE, TICK};

use crate::autoscaler::Autoscale;
use actor::{Arguments, LeaderActor};
pub(crate) use ahead::Ahead;
use messages::Message;
pub(crate) use work::ADMISSIONS_AT_ONCE;
pub(crate) use writing::HeldRows;

use crate::authority::Authority;
use crate::members::Members;

/// A leader that takes no message for so long hangs.
const HEAR_DEADLINE: Duration = Duration::from_secs(30);

/// What the leader works with.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    pub(crate) database: Database,
    pub(crate) objects: Objects,
    pub(crate) link: Arc<dyn NodeLink>,
    pub(crate) members: Members,
    /// Of the present term's jobs.
    pub(crate) ahead: Ahead,
    /// Of the present term's batches.
    pub(crate) held_rows: HeldRows,
    /// Nodes that register are written down so many at a time: after a takeover all come at once.
    pub(crate) admissions: Arc<Semaphore>,
    pub(crate) authority: Option<Authority>,
}

/// The leader did not start, or has ended.
#[derive(Debug, thiserror::Error)]
#[error("leader actor did not start: {0}")]
pub(crate) struct StartError(String);

/// Why a leader leads no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// A later term has begun.
    Fenced,
    /// The actor is gone: it panicked or returned an error.
    Failed,
}

/// Hears the link for one term. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Ear(BoundedRef<Message>);

impl Ear {
    /// Waits while the leader has much to do. `false` when it has ended, or hangs.
    pub(crate) async fn hear(&self, event: LinkEvent) -> bool {
        let posted = self.0.send(Message::Link(event), HEAR_DEADLINE);
        posted.await.is_ok()
    }
}

/// The running leader. Dropping it ends the actor.
#[derive(Debug)]
pub(crate) struct Leader {
    mailbox: BoundedRef<Message>,
    is_over: watch::Receiver<bool>,
}

impl Leader {
    /// Takes in what earlier terms left unfinished, and begins. Background work runs in `tasks`.
    pub(crate) async fn start(
        tools: Tools,
        epoch: Epoch,
        tasks: Tasks,
        autoscale: Option<Autoscale>,
    ) -> Result<Self, StartError> {
        let (over, is_over) = watch::channel(false);
        let (mailbox, own) = oneshot::channel();
        let arguments = Arguments {
            tools,
            epoch,
            tasks,
            mailbox,
            over,
            autoscale,
        };
        let started = Actor::spawn(None, LeaderActor, arguments).await;
        started.map_err(|error| StartError(error.to_string()))?;
        let mailbox = own.await.map_err(|error| StartError(error.to_string()))?;
        Ok(Self { mailbox, is_over })
    }

    /// Where what the link brings goes.
    pub(crate) fn ear(&self) -> Ear {
        Ear(self.mailbox.clone())
    }

    /// Resolves when it leads no more.
    pub(crate) async fn over(&self) -> Over {
        let mut is_over = self.is_over.clone();
        match is_over.wait_for(|is| *is).await {
            Ok(_) => Over::Fenced,
            Err(_) => Over::Failed,
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.mailbox.cell().stop(None);
    }
}
