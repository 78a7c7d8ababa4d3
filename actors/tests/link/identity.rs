//! A peer is what its certificate says, and may do what its role may.

use std::net::TcpListener;

use serde_json::json;

use crate::farm::{Farm, HUB};
use crate::hostile::{Hostile, greeting_answer, is_let_in};
use crate::peer::{COORDINATOR_ONLY, ECHO, NOTE};

pub(crate) fn another_farms_certificate_is_refused() {
    let farm = Farm::new();
    let (mut hub, address) = farm.hub();
    let other = Farm::new();
    let (true_node, false_node) = (farm.identity("n1.node"), other.identity("n1.node"));
    assert!(is_let_in(&true_node, Some(&true_node), &address));
    assert!(
        !is_let_in(&true_node, Some(&false_node), &address),
        "a certificate of another CA was let in"
    );
    assert!(
        !is_let_in(&true_node, None, &address),
        "no certificate at all was let in"
    );
    hub.expect_counted("refused_tls", 2);

    // The honest spoke of the other farm does not trust this hub either.
    let mut stranger = other.spoke("n1.node", &address);
    hub.expect_counted("refused_tls", 3);
    assert!(
        !stranger.has_printed(&json!({ "event": "up" }))
            && !hub.has_printed(&json!({ "event": "up" }))
    );
}

pub(crate) fn a_node_cannot_pose_as_a_coordinator() {
    let farm = Farm::new();
    let (mut hub, address) = farm.hub();
    let node = farm.identity("n1.node");
    for claimed in ["c1.coordinator", "c2.coordinator", "n2.node", "a1.api"] {
        let answer = greeting_answer(&node, &address, claimed);
        assert!(
            answer.contains("Refused { code: Identity"),
            "{claimed}: {answer}"
        );
    }
    hub.expect_counted("refused_identity", 4);
    let coordinator = farm.identity("c2.coordinator");
    assert!(
        greeting_answer(&coordinator, &address, "c2.coordinator")
            .contains("Refused { code: Identity")
    );
    assert!(!hub.has_printed(&json!({ "event": "up" })));
}

/// A node's certificate on the port where a coordinator is expected: the dialler does not even greet.
pub(crate) fn a_node_cannot_serve() {
    let farm = Farm::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut spoke = farm.spoke("n1.node", &listener.local_addr().unwrap().to_string());
    let served = crate::hostile::serve_tls_once(&farm.identity("n2.node"), listener);
    assert!(served.is_err(), "the dialler accepted a node's certificate");
    assert!(!spoke.has_printed(&json!({ "event": "up" })));
}

/// The hostile peer has a true certificate and a live link, and sends with tokens that are not this link's.
pub(crate) fn a_void_token_is_refused() {
    let farm = Farm::new();
    let (mut hub, address) = farm.hub();
    let first = Hostile::connect(&farm.identity("n1.node"), &address);
    hub.expect(json!({ "event": "up", "peer": "n1.node" }));
    let void = first.token();
    first.send(&void, NOTE);
    hub.expect(json!({ "event": "message", "from": "n1.node" }));
    drop(first);
    hub.expect(json!({ "event": "down", "peer": "n1.node" }));

    let second = Hostile::connect(&farm.identity("n2.node"), &address);
    hub.expect(json!({ "event": "up", "peer": "n2.node" }));
    second.send(&void, NOTE);
    second.send(&[7; 32], NOTE);
    second.send(b"short", NOTE);
    second.send_bytes(vec![0xff; 100]);
    // After it on the same link: when this has arrived, the others have been judged.
    second.send(&second.token(), NOTE);
    hub.expect(json!({ "event": "message", "from": "n2.node" }));
    hub.expect_counted("refused_token", 3);
    assert!(!hub.has_printed(&json!({ "event": "message" })));
}

pub(crate) fn a_role_sends_only_what_it_may() {
    let farm = Farm::new();
    let (mut hub, mut node, _) = farm.pair("n1.node");
    assert_eq!(
        node.ask(HUB, COORDINATOR_ONLY)["outcome"],
        json!({ "error": "rejected" })
    );
    node.order(json!({ "do": "send", "to": HUB, "kind": COORDINATOR_ONLY, "text": "command" }));
    hub.expect_counted("refused_kind", 2);
    assert_eq!(
        node.ask(HUB, ECHO)["outcome"],
        json!({ "answer": "question" }),
        "the link itself goes on"
    );
    assert!(!hub.has_printed(&json!({ "event": "message" })));
}

pub(crate) fn an_older_generation_is_refused() {
    let farm = Farm::new();
    let (mut hub, address) = farm.hub();
    let mut newer = farm.start_spoke("n1.node", &address, json!({ "generation": 5 }));
    newer.expect(json!({ "event": "up" }));
    hub.expect(json!({ "event": "up", "peer": "n1.node", "generation": 5 }));
    let mut ghost = farm.start_spoke("n1.node", &address, json!({ "generation": 4 }));
    let refused = ghost.expect(json!({ "event": "refused", "code": "StaleGeneration" }));
    assert!(
        refused["reason"].as_str().unwrap().contains("generation 5"),
        "{refused}"
    );
    hub.expect_counted("refused_generation", 1);
    assert_eq!(
        newer.ask(HUB, ECHO)["outcome"],
        json!({ "answer": "question" })
    );
}
