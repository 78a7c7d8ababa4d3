//! Messages and answers between peers that both behave.

use std::fs::File;

use serde_json::json;

use crate::farm::{Farm, HUB};
use crate::peer::{COORDINATOR_ONLY, DROPPED, ECHO, HELD, NOTE, UNKNOWN};
use crate::process::Process;

pub(crate) fn spokes_and_hub_talk_both_ways() {
    let farm = Farm::new();
    let (mut hub, mut node, address) = farm.pair("n1.node");
    let mut api = farm.spoke("a1.api", &address);
    api.expect(json!({ "event": "up", "peer": HUB }));
    hub.expect(json!({ "event": "up", "peer": "a1.api" }));

    for spoke in [&mut node, &mut api] {
        assert_eq!(
            spoke.ask(HUB, ECHO)["outcome"],
            json!({ "answer": "question" })
        );
    }
    for peer in ["n1.node", "a1.api"] {
        assert_eq!(
            hub.ask(peer, ECHO)["outcome"],
            json!({ "answer": "question" })
        );
        assert_eq!(
            hub.ask(peer, COORDINATOR_ONLY)["outcome"],
            json!({ "answer": "question" })
        );
    }
    assert_eq!(
        hub.ask("n2.node", ECHO)["outcome"],
        json!({ "error": "gone" })
    );

    node.order(json!({ "do": "send", "to": HUB, "kind": NOTE, "text": "from node" }));
    hub.expect(json!({ "event": "message", "from": "n1.node", "kind": NOTE, "text": "from node" }));
    hub.order(json!({ "do": "send", "to": "a1.api", "kind": NOTE, "text": "from hub" }));
    api.expect(json!({ "event": "message", "from": HUB, "kind": NOTE, "text": "from hub" }));
    assert_eq!(
        node.ask("a1.api", ECHO)["outcome"],
        json!({ "error": "gone" }),
        "spokes do not see each other"
    );
}

pub(crate) fn unknown_kinds_are_answered() {
    let farm = Farm::new();
    let (mut hub, mut node, _) = farm.pair("n1.node");
    assert_eq!(
        node.ask(HUB, UNKNOWN)["outcome"],
        json!({ "error": "unsupported" })
    );
    node.order(json!({ "do": "send", "to": HUB, "kind": UNKNOWN + 1, "text": "news" }));
    node.expect(json!({ "event": "unsupported", "peer": HUB, "kind": UNKNOWN + 1 }));
    hub.expect_counted("unsupported", 2);
}

pub(crate) fn dropped_and_held_requests_end() {
    let farm = Farm::new();
    let (_hub, mut node, _) = farm.pair("n1.node");
    let dropped = node.ask(HUB, DROPPED);
    assert_eq!(dropped["outcome"], json!({ "error": "rejected" }));
    assert!(
        dropped["took_ms"].as_u64().unwrap() < 2_000,
        "waited for the deadline: {dropped}"
    );
    let held = node.ask(HUB, HELD);
    assert_eq!(held["outcome"], json!({ "error": "timeout" }));
    // A deadline of 2,000 ms; the rest is what a busy machine may add.
    assert!(
        (2_000..3_000).contains(&held["took_ms"].as_u64().unwrap()),
        "{held}"
    );
}

pub(crate) fn neighbouring_builds_talk() {
    let farm = Farm::new();
    let (mut hub, address) = farm.hub();
    for (peer, schema, agreed) in [("older.node", 4, 4), ("newer.node", 6, 5)] {
        let mut spoke = farm.start_spoke(peer, &address, json!({ "schema": schema }));
        spoke.expect(json!({ "event": "up", "peer": HUB, "schema": agreed }));
        assert_eq!(
            spoke.ask(HUB, ECHO)["outcome"],
            json!({ "answer": "question" })
        );
        hub.expect(json!({ "event": "up", "peer": peer, "schema": agreed }));
    }
    for (peer, schema, code) in [("ancient.node", 3, "Version"), ("future.node", 7, "TooNew")] {
        let mut spoke = farm.start_spoke(peer, &address, json!({ "schema": schema }));
        let refused = spoke.expect(json!({ "event": "refused", "code": code }));
        let reason = refused["reason"].as_str().unwrap();
        assert!(
            reason.contains("test-build-5") && reason.contains(&format!("test-build-{schema}")),
            "{reason}"
        );
    }
}

/// The peers run with `RUST_LOG=trace`.
pub(crate) fn payloads_are_never_logged() {
    let farm = Farm::new();
    let log = tempfile::NamedTempFile::new().unwrap();
    let to_log = || Some(File::options().append(true).open(log.path()).unwrap());
    let setup = farm.setup(
        HUB,
        json!({ "listen": "127.0.0.1:0", "leads": true }),
        json!({}),
    );
    let mut hub = Process::start(&setup, &[], to_log());
    let address = hub.expect(json!({ "event": "listening" }))["address"].clone();
    let setup = farm.setup("n1.node", json!({ "dial": [address] }), json!({}));
    let mut node = Process::start(&setup, &[], to_log());
    node.expect(json!({ "event": "up" }));
    node.order(json!({ "do": "ask", "to": HUB, "kind": ECHO, "text": "canary-prompt", "deadline_ms": 2_000 }));
    assert_eq!(
        node.expect(json!({ "asked": ECHO }))["outcome"],
        json!({ "answer": "canary-prompt" })
    );
    node.order(json!({ "do": "send", "to": HUB, "kind": NOTE, "text": "canary-prompt" }));
    hub.expect(json!({ "event": "message", "text": "canary-prompt" }));

    let log = std::fs::read(log.path()).unwrap();
    let text = String::from_utf8_lossy(&log);
    assert!(text.contains("link is up"), "nothing was logged: {text}");
    // The cluster prints payloads as numbers.
    let as_numbers = format!("{:?}", b"canary");
    assert!(
        !text.contains("canary") && !text.contains(as_numbers.trim_matches(['[', ']'])),
        "{text}"
    );
}
