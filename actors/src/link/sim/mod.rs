//! [`SimLink`]: the port in memory, on a network that loses, doubles, delays and reorders by a seed.
//!
//! Time is virtual and moves only when it is told to: by [`SimNet::advance_to`] from a simulator, or by
//! [`SimNet::follow_tokio`] from tokio's clock, which tests pause.

mod faults;
#[cfg(test)]
mod tests;
mod world;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use self::world::{Asker, Load, NotSent, Ports, World};
use super::cluster::MaySend;
use super::envelope::{Answer, Content, Envelope, Frame, Outcome, encode_bounded};
use super::error::{AskError, SendError, TooLarge};
use super::greeting::LinkToken;
use super::inbound::{ReplyOutcome, SayUnsupported, SendAnswer};
use super::peer::{Peer, PeerId};
use super::port::{DownReason, LinkEvents, NodeLink, event_channel};

pub use self::faults::Faults;

/// A network in memory. Cheap to clone; all clones are the same network.
#[derive(Clone)]
pub struct SimNet {
    world: Arc<Mutex<World>>,
    /// Rung when something was put on its way.
    news: Arc<Notify>,
}

impl SimNet {
    /// An empty network whose chances come from `seed`.
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self {
            world: Arc::new(Mutex::new(World::new(seed, faults))),
            news: Arc::default(),
        }
    }

    /// Puts a peer on the network, in place of an older process of the same id. It has no links yet.
    pub fn attach(&self, peer: Peer, may_send: MaySend) -> (SimLink, LinkEvents) {
        let (sender, events) = event_channel();
        let me = peer.id.clone();
        self.world().attach(peer, may_send, sender);
        (
            SimLink {
                net: self.clone(),
                me,
            },
            events,
        )
    }

    /// Brings up a link. `false` when it is up already, a peer is missing, or the way is cut.
    pub fn connect(&self, one: &PeerId, other: &PeerId) -> bool {
        self.world().connect(one, other)
    }

    /// Takes a peer off the network as `kill -9` does: the others see their links close at once.
    pub fn crash(&self, peer: &PeerId) {
        self.world().crash(peer);
    }

    /// Loses everything from `from` to `to`. After 8 s of it their link goes down.
    pub fn cut(&self, from: &PeerId, to: &PeerId) {
        self.world().cut(from, to);
        self.news.notify_one();
    }

    /// Ends a `cut`; a link that went down comes up again.
    pub fn heal(&self, from: &PeerId, to: &PeerId) {
        self.world().heal(from, to);
    }

    /// Changes the weather for what is sent from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.world().faults = faults;
    }

    /// The virtual time of the next delivery, in ms since the network was made.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.world().next_due_ms()
    }

    /// Moves virtual time to `now_ms` and delivers what is due, in order. Time never goes back.
    pub fn advance_to(&self, now_ms: u64) {
        let unheard = self.world().advance_to(now_ms, self);
        drop(unheard);
    }

    /// Keeps virtual time on tokio's clock. Runs until it is dropped.
    pub async fn follow_tokio(&self) {
        let start = Instant::now();
        loop {
            let next = self
                .next_due_ms()
                .map(|due| start + Duration::from_millis(due));
            tokio::select! {
                () = self.news.notified() => {}
                () = async { tokio::time::sleep_until(next.unwrap_or(start)).await }, if next.is_some() => {}
            }
            self.advance_to(start.elapsed().as_millis() as u64);
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, way: (PeerId, PeerId), link: u64, load: Load) {
        self.world().put(way, link, load);
        self.news.notify_one();
    }
}

impl fmt::Debug for SimNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimNet")
    }
}

impl Ports for SimNet {
    fn send_answer(
        &self,
        way_back: (PeerId, PeerId),
        link: u64,
        asked: &Envelope,
        asker: Asker,
    ) -> SendAnswer {
        let (net, kind) = (self.clone(), asked.kind);
        Box::new(move |outcome| {
            let (answer, bound) = match outcome {
                ReplyOutcome::Answer(envelope) => (Ok(envelope.clone()), answer_fits(envelope)),
                ReplyOutcome::Unsupported => (Err(AskError::Unsupported { kind }), Ok(())),
                ReplyOutcome::Rejected => (Err(AskError::Rejected), Ok(())),
            };
            let answer = if bound.is_ok() {
                answer
            } else {
                Err(AskError::Rejected)
            };
            net.put(way_back, link, Load::Answer { asker, answer });
            bound
        })
    }

    fn say_unsupported(&self, way_back: (PeerId, PeerId), link: u64) -> SayUnsupported {
        let net = self.clone();
        Box::new(move |envelope| {
            net.put(
                way_back,
                link,
                Load::Unsupported {
                    envelope: envelope.clone(),
                },
            )
        })
    }
}

/// One peer's end of a [`SimNet`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SimLink {
    net: SimNet,
    me: PeerId,
}

impl SimLink {
    fn put(
        &self,
        to: &PeerId,
        load: impl FnOnce(super::credit::Credit) -> Load,
    ) -> Result<(), NotSent> {
        let (link, credit) = self.net.world().take_credit(&self.me, to)?;
        self.net
            .put((self.me.clone(), to.clone()), link, load(credit));
        Ok(())
    }
}

#[async_trait]
impl NodeLink for SimLink {
    fn send(&self, to: &PeerId, envelope: Envelope) -> Result<(), SendError> {
        fits(&envelope)?;
        let copy = envelope.clone();
        self.put(to, |credit| Load::Message { envelope, credit })
            .map_err(|error| match error {
                NotSent::Full => SendError::Full(copy),
                NotSent::Gone => SendError::Gone,
            })
    }

    async fn ask(
        &self,
        to: &PeerId,
        envelope: Envelope,
        deadline: Duration,
    ) -> Result<Envelope, AskError> {
        fits(&envelope)?;
        let (sender, answer) = oneshot::channel();
        let asker: Asker = Arc::new(Mutex::new(Some(sender)));
        // Kept until the deadline: a lost request or answer drops its copies, and that must look like silence.
        let _waiting = asker.clone();
        self.put(to, |credit| Load::Request {
            envelope,
            credit,
            asker,
        })
        .map_err(|error| match error {
            NotSent::Full => AskError::Full,
            NotSent::Gone => AskError::Gone,
        })?;
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(AskError::Gone),
            Err(_) => Err(AskError::Timeout),
        }
    }

    fn peers(&self) -> Vec<Peer> {
        let world = self.net.world();
        world
            .neighbours(&self.me)
            .iter()
            .filter_map(|peer| world.peer(peer))
            .collect()
    }

    fn disconnect(&self, peer: &PeerId) {
        self.net
            .world()
            .take_down(&self.me, peer, DownReason::CutHere, DownReason::Closed);
    }
}

/// The same bound as on the real link: the envelope in its frame, token and all.
fn fits(envelope: &Envelope) -> Result<(), TooLarge> {
    let content = Some(Content::Envelope(envelope.clone().into()));
    let frame = Frame {
        schema: 1,
        link_token: LinkToken::random().to_wire(),
        handled: u64::MAX,
        content,
    };
    encode_bounded(&frame).map(drop)
}

fn answer_fits(envelope: Envelope) -> Result<(), TooLarge> {
    encode_bounded(&Answer {
        outcome: Some(Outcome::Envelope(envelope.into())),
    })
    .map(drop)
}
