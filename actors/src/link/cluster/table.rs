//! Which links exist, whose they are, and what may pass. Pure: no clock, no I/O; events go out in the order of the
//! calls.
//!
//! A link is *opening* from its admission until the peer's gateway is found, then *up*, and *retired* once it is cut or
//! replaced: its token is void from then on, while the record stays until the cluster has forgotten the connection.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::ids::Generation;
use crate::limits::{LINK_EVENTS_MAX, LINKS_MAX};
use crate::link::credit::{Receipts, Window};
use crate::link::envelope::MessageId;
use crate::link::greeting::LinkToken;
use crate::link::peer::{Peer, PeerId};
use crate::link::port::{DownReason, EventSender, LinkEvent};
use crate::link::transport::KillSwitch;

/// Names one connection, for the life of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LinkSerial(pub(super) u64);

/// One link. `G` is how the peer's gateway is reached.
#[derive(Debug)]
pub(super) struct Link<G> {
    pub(super) peer: Peer,
    pub(super) token: LinkToken,
    pub(super) window: Window,
    pub(super) receipts: Arc<Receipts>,
    /// Of `Unsupported` answers, which the peer sends without credit: those that the program has not dropped yet. Never acknowledged.
    notices: Arc<Receipts>,
    /// Where the program hears of this link.
    events: EventSender,
    stage: Stage<G>,
    signals: LinkSignals,
}

#[derive(Debug)]
enum Stage<G> {
    /// Events that came before the gateway was found: the peer may be ready first. Bounded as they are later.
    Opening(Vec<LinkEvent>),
    Up(G),
}

/// What the task that made a connection holds of its link.
#[derive(Debug, Clone, Default)]
pub(super) struct LinkSignals {
    /// Cuts the connection.
    pub(super) kill: KillSwitch,
    /// The peer's gateway is found.
    pub(super) up: CancellationToken,
    /// The cluster has forgotten the connection.
    pub(super) closed: CancellationToken,
}

/// A link was admitted.
#[derive(Debug)]
pub(super) struct Admission {
    pub(super) serial: LinkSerial,
    pub(super) signals: LinkSignals,
    /// The peer's link before this one, already cut and void: wait for its `closed` before the new connection goes to
    /// the cluster, whose election between the two could choose the old.
    pub(super) displaced: Option<LinkSignals>,
}

/// Why a link was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAdmitted {
    #[error(
        "generation {held} of this peer has been here, {offered} was offered: a newer process has taken over, or an older data folder was restored; in that case write a number above {held} into its file generation"
    )]
    Stale {
        held: Generation,
        offered: Generation,
    },
    #[error("too many links, or the program does not take its events; try again later")]
    Busy,
}

#[derive(Debug)]
pub(super) struct LinkTable<G> {
    /// Live links: opening or up.
    links: HashMap<LinkSerial, Link<G>>,
    by_token: HashMap<LinkToken, LinkSerial>,
    by_peer: HashMap<PeerId, LinkSerial>,
    /// Retired links that the cluster has not forgotten yet.
    retired: HashMap<LinkSerial, LinkSignals>,
    /// Ghosts are refused even after the newer process has gone. Grows with the peers ever certified, not with time.
    newest: HashMap<PeerId, Generation>,
    next_serial: u64,
    events: EventSender,
}

impl<G> LinkTable<G> {
    pub(super) fn new(events: EventSender) -> Self {
        Self {
            links: HashMap::new(),
            by_token: HashMap::new(),
            by_peer: HashMap::new(),
            retired: HashMap::new(),
            newest: HashMap::new(),
            next_serial: 0,
            events,
        }
    }

    /// Takes up a link whose greeting is done. A link of the same peer is retired at once.
    pub(super) fn admit(&mut self, peer: Peer, token: LinkToken) -> Result<Admission, NotAdmitted> {
        let offered = peer.generation;
        let held = self
            .newest
            .get(&peer.id)
            .copied()
            .unwrap_or(Generation::ZERO);
        if offered < held {
            return Err(NotAdmitted::Stale { held, offered });
        }
        let replaces = self.by_peer.get(&peer.id).copied();
        let is_full = self.links.len() + self.retired.len() >= LINKS_MAX
            || self.events.backlog() >= LINK_EVENTS_MAX;
        if replaces.is_none() && is_full {
            return Err(NotAdmitted::Busy);
        }
        let displaced = replaces.and_then(|old| self.retire(old, DownReason::Displaced));
        self.newest.insert(peer.id.clone(), offered);

        let serial = LinkSerial(self.next_serial);
        self.next_serial += 1;
        self.by_token.insert(token.clone(), serial);
        self.by_peer.insert(peer.id.clone(), serial);
        let signals = LinkSignals::default();
        let link = Link {
            peer,
            token,
            window: Window::default(),
            receipts: Arc::default(),
            notices: Arc::default(),
            events: self.events.clone(),
            stage: Stage::Opening(Vec::new()),
            signals: signals.clone(),
        };
        self.links.insert(serial, link);
        Ok(Admission {
            serial,
            signals,
            displaced,
        })
    }

    /// The peer's gateway is found: `Up`, then what came before it. `None` when the link was retired meanwhile.
    pub(super) fn up(&mut self, serial: LinkSerial, gateway: G) -> Option<&Link<G>> {
        let link = self.links.get_mut(&serial)?;
        if let Stage::Opening(early) = std::mem::replace(&mut link.stage, Stage::Up(gateway)) {
            link.events.emit(LinkEvent::Up(link.peer.clone()));
            for event in early {
                link.events.emit(event);
            }
            link.signals.up.cancel();
        }
        Some(link)
    }

    /// Cuts a link and voids its token; `Down` when it was up. The record waits for `closed`.
    pub(super) fn retire(&mut self, serial: LinkSerial, reason: DownReason) -> Option<LinkSignals> {
        let link = self.links.remove(&serial)?;
        self.by_token.remove(&link.token);
        if self.by_peer.get(&link.peer.id) == Some(&serial) {
            self.by_peer.remove(&link.peer.id);
        }
        link.signals.kill.trip(reason);
        if let Stage::Up(_) = link.stage {
            link.events.emit(LinkEvent::Down {
                peer: link.peer,
                reason: link.signals.kill.reason(),
            });
        }
        self.retired.insert(serial, link.signals.clone());
        Some(link.signals)
    }

    /// Retires the links of all peers.
    pub(super) fn retire_all(&mut self, reason: DownReason) -> Vec<LinkSignals> {
        let serials: Vec<_> = self.links.keys().copied().collect();
        serials
            .into_iter()
            .filter_map(|serial| self.retire(serial, reason))
            .collect()
    }

    /// The cluster has forgotten the connection, or never got it.
    pub(super) fn closed(&mut self, serial: LinkSerial) {
        self.retire(serial, DownReason::Closed);
        if let Some(signals) = self.retired.remove(&serial) {
            signals.closed.cancel();
        }
    }

    pub(super) fn by_token(&mut self, token: &LinkToken) -> Option<(LinkSerial, &mut Link<G>)> {
        let serial = *self.by_token.get(token)?;
        Some((serial, self.links.get_mut(&serial)?))
    }

    pub(super) fn by_peer(&mut self, peer: &PeerId) -> Option<(LinkSerial, &mut Link<G>)> {
        let serial = *self.by_peer.get(peer)?;
        Some((serial, self.links.get_mut(&serial)?))
    }

    pub(super) fn by_serial(&mut self, serial: LinkSerial) -> Option<&mut Link<G>> {
        self.links.get_mut(&serial)
    }

    pub(super) fn peers_up(&self) -> Vec<Peer> {
        let up = self.links.values().filter(|link| link.gateway().is_some());
        up.map(|link| link.peer.clone()).collect()
    }
}

impl<G> Link<G> {
    /// The peer's gateway, if the link is up.
    pub(super) fn gateway(&self) -> Option<&G> {
        match &self.stage {
            Stage::Up(gateway) => Some(gateway),
            Stage::Opening(_) => None,
        }
    }

    /// Hands an event, which holds its credit, to the program, after `Up`.
    pub(super) fn emit(&mut self, event: LinkEvent) {
        match &mut self.stage {
            Stage::Opening(early) => early.push(event),
            Stage::Up(_) => self.events.emit(event),
        }
    }

    /// Tells the program that the peer does not know a kind, which the peer says without credit. `false` when it was shed:
    /// the program holds [`crate::limits::LINK_CREDIT_ENVELOPES`] of them.
    pub(super) fn emit_unsupported(&mut self, message_id: MessageId, kind: u32) -> bool {
        let Ok(place) = self.notices.arrive() else {
            return false;
        };
        self.emit(LinkEvent::Unsupported {
            peer: self.peer.clone(),
            message_id,
            kind,
            place,
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LINK_CREDIT_ENVELOPES;
    use crate::link::credit::Credit;
    use crate::link::port::{LinkEvents, event_channel};
    use futures::FutureExt;

    fn table() -> (LinkTable<&'static str>, LinkEvents) {
        let (sender, events) = event_channel();
        (LinkTable::new(sender), events)
    }

    fn peer(generation: u32) -> Peer {
        let id = "n1.node".parse().unwrap();
        Peer {
            id,
            generation: Generation::new(generation),
            build: "b".to_owned(),
            schema: 1,
        }
    }

    fn admit(table: &mut LinkTable<&'static str>, generation: u32) -> (Admission, LinkToken) {
        let token = LinkToken::random();
        (table.admit(peer(generation), token.clone()).unwrap(), token)
    }

    fn unsupported(kind: u32) -> LinkEvent {
        LinkEvent::Unsupported {
            peer: peer(1),
            message_id: uuid::Uuid::nil(),
            kind,
            place: Credit::none(),
        }
    }

    fn names(events: &mut LinkEvents) -> Vec<String> {
        std::iter::from_fn(|| events.next().now_or_never().flatten())
            .map(|event| match event {
                LinkEvent::Up(peer) => format!("up {}", peer.generation),
                LinkEvent::Down { peer, reason } => format!("down {} {reason:?}", peer.generation),
                LinkEvent::Unsupported { kind, .. } => format!("message {kind}"),
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn messages_before_up_wait_for_it() {
        let (mut table, mut events) = table();
        let (admission, token) = admit(&mut table, 1);
        table.by_token(&token).unwrap().1.emit(unsupported(1));
        table.by_token(&token).unwrap().1.emit(unsupported(2));
        assert!(names(&mut events).is_empty());
        table.up(admission.serial, "gateway").unwrap();
        table.by_token(&token).unwrap().1.emit(unsupported(3));
        table.closed(admission.serial);
        assert_eq!(
            names(&mut events),
            [
                "up 1",
                "message 1",
                "message 2",
                "message 3",
                "down 1 Closed"
            ]
        );
        assert!(admission.signals.closed.is_cancelled());
    }

    /// Whether the link is up or still opening, and whatever the peer sends.
    #[test]
    fn a_flood_of_notices_is_shed_until_the_program_takes_some() {
        let (mut table, mut events) = table();
        let (admission, token) = admit(&mut table, 1);
        let flood = |table: &mut LinkTable<&'static str>| {
            let (_, link) = table.by_token(&token).unwrap();
            let kinds = 0..10 * LINK_CREDIT_ENVELOPES as u32;
            kinds
                .filter(|kind| link.emit_unsupported(uuid::Uuid::nil(), *kind))
                .count() as u64
        };
        assert_eq!(flood(&mut table), LINK_CREDIT_ENVELOPES);
        table.up(admission.serial, "gateway").unwrap();
        assert_eq!(flood(&mut table), 0);
        events.next().now_or_never().unwrap();
        events.next().now_or_never().unwrap();
        assert_eq!(flood(&mut table), 1, "up, and one of them was taken");
        assert_eq!(names(&mut events).len() as u64, LINK_CREDIT_ENVELOPES);
        assert_eq!(flood(&mut table), LINK_CREDIT_ENVELOPES);
    }

    #[test]
    fn a_newer_link_of_a_peer_voids_the_older_at_once() {
        let (mut table, mut events) = table();
        let (old, old_token) = admit(&mut table, 1);
        table.up(old.serial, "old");
        let (new, new_token) = admit(&mut table, 2);
        let displaced = new.displaced.unwrap();
        assert!(displaced.kill.is_tripped() && !displaced.closed.is_cancelled());
        assert!(table.by_token(&old_token).is_none() && table.by_token(&new_token).is_some());

        table.closed(old.serial);
        assert!(displaced.closed.is_cancelled());
        table.up(new.serial, "new");
        assert_eq!(
            table.by_peer(&peer(2).id).unwrap().1.gateway(),
            Some(&"new")
        );
        assert_eq!(names(&mut events), ["up 1", "down 1 Displaced", "up 2"]);
    }

    #[test]
    fn an_older_generation_is_refused_even_when_the_newer_is_gone() {
        let (mut table, mut events) = table();
        let (new, _) = admit(&mut table, 5);
        let stale = NotAdmitted::Stale {
            held: Generation::new(5),
            offered: Generation::new(4),
        };
        assert_eq!(
            table.admit(peer(4), LinkToken::random()).unwrap_err(),
            stale
        );
        assert!(!new.signals.kill.is_tripped());
        table.closed(new.serial);
        assert_eq!(
            table.admit(peer(4), LinkToken::random()).unwrap_err(),
            stale
        );
        table.admit(peer(5), LinkToken::random()).unwrap();
        assert!(
            names(&mut events).is_empty(),
            "a link that never was up has no events"
        );
    }

    #[test]
    fn a_retired_link_cannot_come_up() {
        let (mut table, mut events) = table();
        let (admission, _) = admit(&mut table, 1);
        table.retire(admission.serial, DownReason::CutHere);
        assert!(table.up(admission.serial, "late").is_none());
        assert!(names(&mut events).is_empty() && table.peers_up().is_empty());
    }

    #[test]
    fn a_program_that_takes_no_events_gets_no_new_links() {
        let (mut table, mut events) = table();
        for _ in 0..LINK_EVENTS_MAX {
            table.events.emit(unsupported(0));
        }
        assert_eq!(
            table.admit(peer(1), LinkToken::random()).unwrap_err(),
            NotAdmitted::Busy
        );
        events.next().now_or_never();
        table.admit(peer(1), LinkToken::random()).unwrap();
    }
}
