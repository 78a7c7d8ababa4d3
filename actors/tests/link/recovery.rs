//! Links end and come back; both sides hear of it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::farm::{Farm, HUB};
use crate::peer::{ECHO, HELD};

/// Silence of 8 s and what a busy machine adds.
const NOTICED: Duration = Duration::from_secs(10);

pub(crate) fn a_standby_sends_on_to_the_leader() {
    let farm = Farm::new();
    let (mut leader, leader_address) = farm.hub();
    let standby = json!({ "listen": "127.0.0.1:0" });
    let mut standby = farm.start("c2.coordinator", standby, json!({}));
    let standby_address = standby.expect(json!({ "event": "listening" }))["address"]
        .as_str()
        .unwrap()
        .to_owned();
    standby.order(json!({ "do": "stand_by", "leader": leader_address }));
    standby.stats();

    let mut node = farm.start_spoke(
        "n1.node",
        &standby_address,
        json!({ "dial": [standby_address] }),
    );
    node.expect(json!({ "event": "up", "peer": HUB }));
    leader.expect(json!({ "event": "up", "peer": "n1.node" }));

    // The lead changes hands: the node follows it.
    leader.order(json!({ "do": "stand_by", "leader": standby_address }));
    standby.order(json!({ "do": "lead" }));
    leader.expect(json!({ "event": "down", "peer": "n1.node", "reason": "CutHere" }));
    node.expect(json!({ "event": "down", "peer": HUB }));
    node.expect(json!({ "event": "up", "peer": "c2.coordinator" }));
    assert_eq!(
        node.ask("c2.coordinator", ECHO)["outcome"],
        json!({ "answer": "question" })
    );
    assert_eq!(node.ask(HUB, ECHO)["outcome"], json!({ "error": "gone" }));
}

pub(crate) fn a_killed_hub_is_found_again() {
    let farm = Farm::new();
    let (mut hub, mut node, address) = farm.pair("n1.node");
    hub.kill();
    node.expect(json!({ "event": "down", "peer": HUB, "generation": 1 }));
    assert_eq!(node.ask(HUB, ECHO)["outcome"], json!({ "error": "gone" }));
    let (mut hub, _) = farm.start_hub(json!({ "listen": address, "generation": 2 }));
    node.expect(json!({ "event": "up", "peer": HUB, "generation": 2 }));
    hub.expect(json!({ "event": "up", "peer": "n1.node" }));
    assert_eq!(
        node.ask(HUB, ECHO)["outcome"],
        json!({ "answer": "question" })
    );
    assert_eq!(
        hub.ask("n1.node", ECHO)["outcome"],
        json!({ "answer": "question" })
    );
}

pub(crate) fn a_killed_spoke_is_down_at_once() {
    let farm = Farm::new();
    let (mut hub, mut node, _) = farm.pair("n1.node");
    hub.order(json!({ "do": "ask", "to": "n1.node", "kind": HELD, "text": "wait", "deadline_ms": 60_000 }));
    node.stats();
    let start = Instant::now();
    node.kill();
    assert_eq!(
        hub.expect(json!({ "asked": HELD }))["outcome"],
        json!({ "error": "gone" })
    );
    hub.expect(json!({ "event": "down", "peer": "n1.node", "reason": "Closed" }));
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "took {:?}",
        start.elapsed()
    );
}

pub(crate) fn a_frozen_peer_is_noticed_and_comes_back() {
    let farm = Farm::new();
    let (mut hub, mut node, _) = farm.pair("n1.node");
    node.signal(Signal::SIGSTOP);
    let frozen = Instant::now();
    assert_eq!(
        hub.ask("n1.node", ECHO)["outcome"],
        json!({ "error": "timeout" })
    );
    hub.expect_within(
        NOTICED,
        json!({ "event": "down", "peer": "n1.node", "reason": "Silent" }),
    );
    assert!(
        frozen.elapsed() < NOTICED,
        "noticed after {:?}",
        frozen.elapsed()
    );

    node.signal(Signal::SIGCONT);
    node.expect(json!({ "event": "down", "peer": HUB }));
    node.expect(json!({ "event": "up", "peer": HUB }));
    hub.expect(json!({ "event": "up", "peer": "n1.node" }));
    assert_eq!(
        hub.ask("n1.node", ECHO)["outcome"],
        json!({ "answer": "question" })
    );
}

/// The old process hangs with its link open; the new one of the same id must not wait for the silence.
pub(crate) fn a_newer_process_takes_the_place_of_a_frozen_one() {
    let farm = Farm::new();
    let (mut hub, mut old, address) = farm.pair("n1.node");
    old.signal(Signal::SIGSTOP);
    let mut new = farm.start_spoke("n1.node", &address, json!({ "generation": 2 }));
    new.expect_within(
        Duration::from_secs(5),
        json!({ "event": "up", "peer": HUB }),
    );
    hub.expect(json!({ "event": "down", "generation": 1, "reason": "Displaced" }));
    hub.expect(json!({ "event": "up", "peer": "n1.node", "generation": 2 }));
    old.signal(Signal::SIGCONT);
    old.expect(json!({ "event": "refused", "code": "StaleGeneration" }));
    assert_eq!(
        hub.ask("n1.node", ECHO)["outcome"],
        json!({ "answer": "question" })
    );
}
