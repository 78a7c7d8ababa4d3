use super::*;
use crate::ids::{Epoch, Generation};
use crate::limits::{LINK_CREDIT_ENVELOPES, LINK_SILENCE_MS, MESSAGE_BYTES_MAX};
use crate::link::{LinkEvent, Role};
use futures::FutureExt;

const FORBIDDEN: u32 = 99;

fn may_send(role: Role, kind: u32) -> bool {
    role == Role::Coordinator || kind != FORBIDDEN
}

fn peer(id: &str, generation: u32) -> Peer {
    let id = id.parse().unwrap();
    Peer {
        id,
        generation: Generation::new(generation),
        build: "test".to_owned(),
        schema: 1,
    }
}

fn envelope(kind: u32) -> Envelope {
    Envelope::new(kind, Epoch::new(1), kind.to_be_bytes().to_vec())
}

struct Pair {
    net: SimNet,
    hub: (SimLink, LinkEvents),
    node: (SimLink, LinkEvents),
}

impl Pair {
    fn new(seed: u64, faults: Faults) -> Self {
        let net = SimNet::new(seed, faults);
        let hub = net.attach(peer("c1.coordinator", 1), may_send);
        let node = net.attach(peer("n1.node", 1), may_send);
        assert!(net.connect(&hub.0.me, &node.0.me));
        let mut pair = Self { net, hub, node };
        assert_eq!(now(&mut pair.hub.1), ["up n1.node"]);
        assert_eq!(now(&mut pair.node.1), ["up c1.coordinator"]);
        pair
    }

    fn hub_id(&self) -> PeerId {
        self.hub.0.me.clone()
    }

    fn node_id(&self) -> PeerId {
        self.node.0.me.clone()
    }
}

/// The events that wait now, as text; messages are acknowledged by it.
fn now(events: &mut LinkEvents) -> Vec<String> {
    std::iter::from_fn(|| events.next().now_or_never().flatten())
        .map(|event| match event {
            LinkEvent::Up(peer) => format!("up {}", peer.id),
            LinkEvent::Down { peer, reason } => format!("down {} {reason:?}", peer.id),
            LinkEvent::Message(delivery) => format!("message {}", delivery.envelope.kind),
            LinkEvent::Request(request) => format!("request {}", request.envelope.kind),
            LinkEvent::Unsupported { kind, .. } => format!("unsupported {kind}"),
            LinkEvent::Refused { code, .. } => format!("refused {code:?}"),
        })
        .collect()
}

fn history(seed: u64) -> Vec<String> {
    let mut pair = Pair::new(seed, Faults::rough());
    let hub = pair.hub_id();
    let mut history = Vec::new();
    for kind in 0..60 {
        pair.node.0.send(&hub, envelope(kind)).unwrap();
        pair.net.advance_to(u64::from(kind) * 5);
        history.extend(now(&mut pair.hub.1));
    }
    pair.net.advance_to(1_000);
    history.extend(now(&mut pair.hub.1));
    history
}

#[test]
fn one_seed_is_one_history() {
    assert_eq!(history(7), history(7));
    assert_ne!(history(7), history(8));
}

#[test]
fn rough_weather_loses_doubles_and_reorders() {
    let history = history(7);
    let of = |kind: u32| {
        history
            .iter()
            .filter(|line| **line == format!("message {kind}"))
            .count()
    };
    assert!((0..60).any(|kind| of(kind) == 0), "none lost");
    assert!((0..60).any(|kind| of(kind) == 2), "none doubled");
    let mut sorted = history.clone();
    sorted.sort_by_key(|line| line.trim_start_matches("message ").parse::<u32>().unwrap());
    assert_ne!(history, sorted, "none overtook another");
}

#[test]
fn good_weather_keeps_everything_in_order() {
    let mut pair = Pair::new(
        1,
        Faults {
            delay_ms: 0..=50,
            ..Faults::none()
        },
    );
    let hub = pair.hub_id();
    for kind in 0..50 {
        pair.node.0.send(&hub, envelope(kind)).unwrap();
    }
    pair.net.advance_to(100);
    let expected: Vec<_> = (0..50).map(|kind| format!("message {kind}")).collect();
    assert_eq!(now(&mut pair.hub.1), expected);
}

#[test]
fn a_stalled_receiver_fills_the_window_and_frees_it_by_handling() {
    let mut pair = Pair::new(1, Faults::none());
    let hub = pair.hub_id();
    for kind in 0..LINK_CREDIT_ENVELOPES as u32 {
        pair.node.0.send(&hub, envelope(kind)).unwrap();
    }
    assert!(
        matches!(pair.node.0.send(&hub, envelope(7)), Err(SendError::Full(back)) if back.kind == 7)
    );
    pair.net.advance_to(10);
    assert!(matches!(
        pair.node.0.send(&hub, envelope(7)),
        Err(SendError::Full(_))
    ));
    assert_eq!(now(&mut pair.hub.1).len() as u64, LINK_CREDIT_ENVELOPES);
    pair.node.0.send(&hub, envelope(7)).unwrap();
}

#[test]
fn lost_messages_do_not_eat_the_window() {
    let pair = Pair::new(
        1,
        Faults {
            lose: 1.0,
            ..Faults::none()
        },
    );
    for kind in 0..1000 {
        pair.node.0.send(&pair.hub_id(), envelope(kind)).unwrap();
    }
}

#[test]
fn what_is_too_large_is_not_sent() {
    let pair = Pair::new(1, Faults::none());
    let large = Envelope::new(1, Epoch::new(1), vec![0; MESSAGE_BYTES_MAX]);
    assert!(matches!(
        pair.node.0.send(&pair.hub_id(), large),
        Err(SendError::TooLarge(_))
    ));
}

#[test]
fn a_cut_is_noticed_after_the_silence_and_heals() {
    let mut pair = Pair::new(1, Faults::none());
    let (hub, node) = (pair.hub_id(), pair.node_id());
    pair.net.cut(&node, &hub);
    pair.node.0.send(&hub, envelope(1)).unwrap();
    pair.net.advance_to(LINK_SILENCE_MS - 1);
    assert!(now(&mut pair.hub.1).is_empty());
    pair.net.advance_to(LINK_SILENCE_MS);
    assert_eq!(now(&mut pair.hub.1), ["down n1.node Silent"]);
    assert_eq!(now(&mut pair.node.1), ["down c1.coordinator Closed"]);
    assert!(matches!(
        pair.node.0.send(&hub, envelope(1)),
        Err(SendError::Gone)
    ));
    assert!(!pair.net.connect(&hub, &node));
    pair.net.heal(&node, &hub);
    assert_eq!(now(&mut pair.hub.1), ["up n1.node"]);
}

#[test]
fn a_short_cut_is_not_noticed() {
    let mut pair = Pair::new(1, Faults::none());
    let (hub, node) = (pair.hub_id(), pair.node_id());
    pair.net.cut(&node, &hub);
    pair.net.advance_to(LINK_SILENCE_MS - 1);
    pair.net.heal(&node, &hub);
    pair.net.advance_to(3 * LINK_SILENCE_MS);
    assert!(now(&mut pair.hub.1).is_empty());
    assert_eq!(pair.hub.0.peers(), [peer("n1.node", 1)]);
}

#[test]
fn a_crash_loses_what_was_on_its_way() {
    let mut pair = Pair::new(1, Faults::none());
    let (hub, node) = (pair.hub_id(), pair.node_id());
    pair.hub.0.send(&node, envelope(1)).unwrap();
    pair.net.crash(&node);
    assert_eq!(now(&mut pair.hub.1), ["down n1.node Closed"]);
    let mut reborn = pair.net.attach(peer("n1.node", 2), may_send);
    assert!(pair.net.connect(&hub, &node));
    pair.net.advance_to(10);
    assert_eq!(now(&mut reborn.1), ["up c1.coordinator"]);
    assert_eq!(pair.hub.0.peers(), [peer("n1.node", 2)]);
}

#[test]
fn unknown_and_forbidden_kinds() {
    let mut pair = Pair::new(1, Faults::none());
    let hub = pair.hub_id();
    pair.node.0.send(&hub, envelope(FORBIDDEN)).unwrap();
    pair.node.0.send(&hub, envelope(50)).unwrap();
    pair.net.advance_to(10);
    match pair.hub.1.next().now_or_never() {
        Some(Some(LinkEvent::Message(delivery))) => delivery.unsupported(),
        other => panic!("{other:?}"),
    }
    pair.net.advance_to(20);
    assert_eq!(now(&mut pair.node.1), ["unsupported 50"]);
    assert!(now(&mut pair.hub.1).is_empty());
}

/// What the hub does with each request, by kind.
async fn serve(mut events: LinkEvents) {
    while let Some(event) = events.next().await {
        if let LinkEvent::Request(request) = event {
            match request.envelope.kind {
                1 => request.reply.send(envelope(11)).unwrap(),
                2 => drop(request.reply),
                3 => request.reply.unsupported(),
                4 => drop(
                    request
                        .reply
                        .send(Envelope::new(1, Epoch::new(1), vec![0; MESSAGE_BYTES_MAX]))
                        .unwrap_err(),
                ),
                other => panic!("{other}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn asks_are_answered_rejected_unsupported_or_late() {
    let Pair { net, hub, node } = Pair::new(1, Faults::none());
    let (hub_id, second) = (hub.0.me.clone(), Duration::from_secs(1));
    let following = net.clone();
    let runs = tokio::spawn(async move { tokio::join!(following.follow_tokio(), serve(hub.1)) });
    let ask = async |kind| {
        node.0
            .ask(&hub_id, envelope(kind), second)
            .await
            .map(|answer| answer.kind)
    };
    assert_eq!(ask(1).await, Ok(11));
    assert_eq!(ask(2).await, Err(AskError::Rejected));
    assert_eq!(ask(3).await, Err(AskError::Unsupported { kind: 3 }));
    assert_eq!(ask(4).await, Err(AskError::Rejected));
    assert_eq!(ask(FORBIDDEN).await, Err(AskError::Rejected));
    net.set_faults(Faults {
        lose: 1.0,
        ..Faults::none()
    });
    let start = Instant::now();
    assert_eq!(ask(1).await, Err(AskError::Timeout));
    assert_eq!(start.elapsed(), second);
    net.crash(&hub_id);
    assert_eq!(ask(1).await, Err(AskError::Gone));
    runs.abort();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_no_longer_listens_rejects() {
    let Pair { net, hub, node } = Pair::new(1, Faults::none());
    let (hub_link, hub_events) = hub;
    let (node_link, _node_events) = node;
    // The program is gone, its end of the network is not.
    drop(hub_events);
    let runs = tokio::spawn(async move { net.follow_tokio().await });
    let answer = node_link.ask(&hub_link.me, envelope(1), Duration::from_secs(1));
    assert_eq!(answer.await, Err(AskError::Rejected));
    runs.abort();
}
