//! Nothing a peer or a stranger does costs more than its bound, or anybody else.

use std::net::TcpStream;
use std::time::Instant;

use flowai_actors::limits::{LINK_CREDIT_ENVELOPES, LINK_HALF_OPEN_MAX, MESSAGE_BYTES_MAX};
use serde_json::json;

use crate::farm::{Farm, HUB};
use crate::hostile::Hostile;
use crate::peer::{ECHO, NOTE};

pub(crate) fn large_messages_are_not_sent() {
    let farm = Farm::new();
    let (mut hub, mut node, _) = farm.pair("n1.node");
    node.order(json!({ "do": "send", "to": HUB, "kind": NOTE, "bytes": MESSAGE_BYTES_MAX }));
    node.expect(json!({ "sent": { "too_large": 1 } }));
    node.order(json!({ "do": "ask", "to": HUB, "kind": ECHO, "bytes": MESSAGE_BYTES_MAX, "deadline_ms": 2_000 }));
    assert_eq!(
        node.expect(json!({ "asked": ECHO }))["outcome"],
        json!({ "error": "too large" })
    );
    // Just under the bound it arrives, and the link has not suffered.
    node.order(json!({ "do": "send", "to": HUB, "kind": NOTE, "bytes": MESSAGE_BYTES_MAX - 256 }));
    node.expect(json!({ "sent": { "ok": 1 } }));
    hub.expect(json!({ "event": "message", "from": "n1.node" }));
    assert!(!node.has_printed(&json!({ "event": "down" })));
}

pub(crate) fn a_stalled_receiver_is_felt_by_its_sender_only() {
    let farm = Farm::new();
    let (mut hub, mut stalled, address) = farm.pair("n1.node");
    let mut other = farm.spoke("n2.node", &address);
    other.expect(json!({ "event": "up" }));
    hub.expect(json!({ "event": "up", "peer": "n2.node" }));

    stalled.order(json!({ "do": "stall" }));
    hub.order(json!({ "do": "stats" }));
    let before = hub.expect(json!({ "stats": {} }))["rss_kib"]
        .as_u64()
        .unwrap();
    hub.order(
        json!({ "do": "send", "to": "n1.node", "kind": NOTE, "bytes": 250_000, "times": 1_000 }),
    );
    let sent = hub.expect(json!({ "sent": {} }))["sent"].clone();
    let credit = LINK_CREDIT_ENVELOPES;
    assert_eq!(
        sent,
        json!({ "ok": credit, "full": 1_000 - credit, "gone": 0, "too_large": 0 })
    );
    assert_eq!(
        hub.ask("n2.node", ECHO)["outcome"],
        json!({ "answer": "question" })
    );
    hub.order(json!({ "do": "stats" }));
    let after = hub.expect(json!({ "stats": {} }))["rss_kib"]
        .as_u64()
        .unwrap();
    // 16 MiB on their way, and as much again for the copies between encoding and socket.
    assert!(
        after.saturating_sub(before) < 48 * 1024,
        "hub grew from {before} to {after} KiB"
    );

    stalled.order(json!({ "do": "go_on" }));
    for _ in 0..credit {
        stalled.expect(json!({ "event": "message", "from": HUB }));
    }
    // Handled is acknowledged, and acknowledged is credit.
    let deadline = Instant::now() + crate::SOON;
    loop {
        hub.order(json!({ "do": "send", "to": "n1.node", "kind": NOTE, "text": "again" }));
        if hub.expect(json!({ "sent": {} }))["sent"]["ok"] == 1 {
            break;
        }
        assert!(Instant::now() < deadline, "credit did not come back");
    }
    stalled.expect(json!({ "event": "message", "text": "again" }));
}

/// The best of three, because the machine may be busy with something else; strangers that stand in the way would cost
/// each of them the five seconds of a TLS deadline.
pub(crate) fn idle_strangers_keep_nobody_out() {
    let farm = Farm::new();
    let (mut hub, address) = farm.hub();
    // Those who stay are sent home when their time is up.
    let few: Vec<_> = (0..10)
        .map(|_| TcpStream::connect(&address).unwrap())
        .collect();
    hub.expect_counted("refused_tls", 10);
    drop(few);

    // And of more than there are places for, the first as others come.
    let waits_ms = ["n1.node", "n2.node", "n3.node"].map(|name| {
        let strangers: Vec<_> = (0..LINK_HALF_OPEN_MAX + 50)
            .map(|_| TcpStream::connect(&address).unwrap())
            .collect();
        let mut node = farm.spoke(name, &address);
        let wait_ms = node.expect(json!({ "event": "up", "peer": HUB }))["after_ms"]
            .as_u64()
            .unwrap();
        hub.expect(json!({ "event": "up", "peer": name }));
        drop(strangers);
        wait_ms
    });
    assert!(
        waits_ms.iter().any(|wait_ms| *wait_ms < 1_000),
        "honest nodes waited {waits_ms:?} ms"
    );
}

pub(crate) fn a_peer_that_ignores_its_credit_is_cut_off() {
    let farm = Farm::new();
    let (mut hub, address) = farm.hub();
    let mut honest = farm.spoke("n1.node", &address);
    honest.expect(json!({ "event": "up" }));
    hub.expect(json!({ "event": "up", "peer": "n1.node" }));
    let liar = Hostile::connect(&farm.identity("n2.node"), &address);
    hub.expect(json!({ "event": "up", "peer": "n2.node" }));

    hub.order(json!({ "do": "stall" }));
    // One more than the window may be in the program's hands already.
    for _ in 0..LINK_CREDIT_ENVELOPES + 2 {
        liar.send(&liar.token(), NOTE);
    }
    hub.expect_counted("overruns", 1);
    hub.order(json!({ "do": "go_on" }));
    hub.expect(json!({ "event": "down", "peer": "n2.node", "reason": "Misbehaved" }));
    assert_eq!(
        honest.ask(HUB, ECHO)["outcome"],
        json!({ "answer": "question" })
    );
}

pub(crate) fn a_giant_frame_ends_only_its_own_link() {
    let farm = Farm::new();
    let (mut hub, mut honest, address) = farm.pair("n1.node");
    let giant = Hostile::connect(&farm.identity("n2.node"), &address);
    hub.expect(json!({ "event": "up", "peer": "n2.node" }));
    giant.send_bytes(vec![0; 17 << 20]);
    hub.expect(json!({ "event": "down", "peer": "n2.node" }));
    assert_eq!(
        honest.ask(HUB, ECHO)["outcome"],
        json!({ "answer": "question" })
    );
    assert!(!hub.has_printed(&json!({ "event": "down", "peer": "n1.node" })));
}
