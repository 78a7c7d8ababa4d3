//! The port: all that the rest of FlowAI knows about the way between machines.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::credit::Credit;
use super::envelope::{Envelope, MessageId};
use super::error::{AskError, SendError};
use super::greeting::RefusedCode;
use super::inbound::{Delivery, Request};
use super::peer::{Peer, PeerId};

/// Sends to peers. What comes in arrives as [`LinkEvents`], which the maker of a link hands out beside it.
#[async_trait]
pub trait NodeLink: Send + Sync + Debug {
    /// Hands the envelope to the link without waiting. `Ok` means "on its way", never "arrived".
    fn send(&self, to: &PeerId, envelope: Envelope) -> Result<(), SendError>;

    /// Sends and waits for the answer, at most `deadline`.
    async fn ask(
        &self,
        to: &PeerId,
        envelope: Envelope,
        deadline: Duration,
    ) -> Result<Envelope, AskError>;

    /// The peers whose links are up now.
    fn peers(&self) -> Vec<Peer>;

    /// Cuts the link to a peer, for instance a fenced one. A peer that dials comes back by itself.
    fn disconnect(&self, peer: &PeerId);

    /// Cuts these peers off and lets none of them in from now on; the list replaces the one before. A link that greets
    /// nobody has cut them off, and its program refuses what they still say.
    fn bar(&self, peers: BTreeSet<PeerId>) {
        peers.iter().for_each(|peer| self.disconnect(peer));
    }
}

/// Why a link went down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownReason {
    /// The peer closed it, died, or the connection broke.
    Closed,
    /// Nothing was read, or nothing could be written, for 8 s: dead peer, frozen peer or cut network.
    Silent,
    /// A newer connection of the same peer took its place.
    Displaced,
    /// The peer broke the link's rules (credit, frame size).
    Misbehaved,
    /// This side cut it: `disconnect`, no longer leading, or shutting down.
    CutHere,
}

/// What happens on a link. For one peer the order is `Up`, then its messages, then `Down`, never two `Up` in a row.
#[derive(Debug)]
pub enum LinkEvent {
    /// The link is usable. Resync: the peer may have missed anything.
    Up(Peer),
    /// The link is gone, with all that was on its way. A suspicion about the peer, not a proof of death.
    Down {
        /// As it was at `Up`.
        peer: Peer,
        /// Why.
        reason: DownReason,
    },
    /// A one-way message.
    Message(Delivery),
    /// A message that waits for an answer.
    Request(Request),
    /// The peer does not know the kind of a one-way message sent to it. Shed while the program holds many of them.
    Unsupported {
        /// The peer with the older build.
        peer: Peer,
        /// The message.
        message_id: MessageId,
        /// Its kind.
        kind: u32,
        /// Its place among those that the program holds.
        place: Credit,
    },
    /// A hub answered our dialling with a refusal. The link keeps trying; `StaleGeneration` means that this process
    /// has been replaced and should end.
    Refused {
        /// The address dialled.
        address: String,
        /// Why.
        code: RefusedCode,
        /// The hub's words, for the log.
        reason: String,
    },
}

/// What comes in through a link, in order. One consumer.
#[derive(Debug)]
pub struct LinkEvents {
    events: mpsc::UnboundedReceiver<LinkEvent>,
    backlog: Arc<AtomicUsize>,
}

impl LinkEvents {
    /// The next event; `None` after the link was shut down.
    pub async fn next(&mut self) -> Option<LinkEvent> {
        let event = self.events.recv().await?;
        self.backlog.fetch_sub(1, Ordering::Relaxed);
        Some(event)
    }
}

/// The link's end of [`LinkEvents`].
///
/// The channel has no bound of its own because each thing in it has one already: messages and requests by the credit
/// window, `Unsupported` by the places of its link, `Up` and `Down` by refusing new links while the backlog is high. Only
/// `Refused` has none but the pace of this side's own dialling, which waits longer each time.
#[derive(Debug, Clone)]
pub(super) struct EventSender {
    events: mpsc::UnboundedSender<LinkEvent>,
    backlog: Arc<AtomicUsize>,
}

impl EventSender {
    /// Hands an event to the program; one that has dropped its `LinkEvents` no longer cares.
    pub(super) fn emit(&self, event: LinkEvent) {
        drop(self.offer(event));
    }

    /// The same; an event that nobody takes any more comes back. Dropping a request answers it.
    pub(super) fn offer(&self, event: LinkEvent) -> Option<LinkEvent> {
        self.backlog.fetch_add(1, Ordering::Relaxed);
        self.events.send(event).err().map(|unsent| unsent.0)
    }

    /// Events the program has not taken yet.
    pub(super) fn backlog(&self) -> usize {
        self.backlog.load(Ordering::Relaxed)
    }
}

pub(super) fn event_channel() -> (EventSender, LinkEvents) {
    #[expect(
        clippy::disallowed_methods,
        reason = "what goes in is bounded, see EventSender"
    )]
    let (sender, receiver) = mpsc::unbounded_channel();
    let backlog = Arc::new(AtomicUsize::new(0));
    (
        EventSender {
            events: sender,
            backlog: backlog.clone(),
        },
        LinkEvents {
            events: receiver,
            backlog,
        },
    )
}
