//! The render node as the farm sees it: registers on each new link, beats, takes one job at a time, stops it at a step
//! boundary when told to, and tells its end until the leader has heard it.
//!
//! Promises:
//! - Every word about an attempt carries the term, and a late, doubled or lost message changes nothing for the worse
//!   (invariants 1 and 2).
//! - A job that the node can no longer be sure of pauses before its lease ends, and goes on only when a leader says so.
//! - A bad job fails by name; the node goes on.
//! - A job is taken only when the engine is free. A stopped one that does not leave it in its time ends the process.

mod actor;
mod checkpoints;
mod error;
mod messages;
mod previews;
mod tasks;
mod way;

use std::sync::Arc;
use std::time::Duration;

use flowai_actors::kit::{Actor, BoundedRef, Tasks};
use flowai_actors::link::{LinkEvents, NodeLink};
use flowai_node_machine::Event;
use tokio::sync::{oneshot, watch};

use crate::device::Device;
use crate::job::Workshop;
use crate::manifest::Maker;
use actor::{Arguments, NodeActor};
use messages::Message;

pub use error::NodeError;
pub use flowai_node_machine::Ending;

/// What the node says about itself.
#[derive(Debug, Clone)]
pub struct Setup {
    pub maker: Maker,
    /// The build.
    pub version: String,
    pub device: Device,
}

/// The running node.
#[derive(Debug)]
pub struct Node {
    mailbox: BoundedRef<Message>,
    ended: watch::Receiver<Option<Ending>>,
    registered: watch::Receiver<bool>,
}

impl Node {
    /// Starts the node on a link. Background work runs in `tasks`; its failures are the program's to watch.
    pub async fn start(
        setup: Setup,
        workshop: Workshop,
        link: Arc<dyn NodeLink>,
        events: LinkEvents,
        tasks: Tasks,
    ) -> Result<Self, NodeError> {
        let (ended, has_ended) = watch::channel(None);
        let (registered, is_registered) = watch::channel(false);
        let (mailbox, own) = oneshot::channel();
        let arguments = Arguments {
            setup,
            workshop,
            link,
            events,
            tasks,
            mailbox,
            ended,
            registered,
        };
        Actor::spawn(None, NodeActor, arguments).await?;
        Ok(Self {
            mailbox: own.await.map_err(|_| NodeError::Gone)?,
            ended: has_ended,
            registered: is_registered,
        })
    }

    /// Resolves when a leader has welcomed the node for the first time.
    pub async fn registered(&self) {
        let mut registered = self.registered.clone();
        if registered.wait_for(|is| *is).await.is_err() {
            std::future::pending().await
        }
    }

    /// Asks the node to take no more work, to stop its job at the next step boundary and keep what is done, to tell that, and to
    /// end. A clip that is complete is delivered before.
    ///
    /// # Errors
    /// The node has ended already.
    pub async fn close(&self) -> Result<(), NodeError> {
        self.tell(Event::Close).await
    }

    /// Gives the job up, however far it is. The node ends when the leader has heard it.
    ///
    /// # Errors
    /// The node has ended already.
    pub async fn abandon(&self) -> Result<(), NodeError> {
        self.tell(Event::Abandon).await
    }

    async fn tell(&self, event: Event) -> Result<(), NodeError> {
        const DEADLINE: Duration = Duration::from_secs(5);
        let telling = self.mailbox.send(Message::Happened(event), DEADLINE);
        telling.await.map_err(|_| NodeError::Gone)
    }

    /// Resolves when the node has ended, with the reason.
    ///
    /// # Errors
    /// [`NodeError::Gone`].
    pub async fn ended(&self) -> Result<Ending, NodeError> {
        let mut ended = self.ended.clone();
        let ended = ended.wait_for(Option::is_some).await;
        ended.ok().and_then(|ending| *ending).ok_or(NodeError::Gone)
    }
}
