//! Goal: only operators make tokens and move nodes; a machine without a token that admits it learns nothing; what the leader says
//! of a join is what the machine hears.
//! Method: the real routes on real rows, the leader's end of the link in the hands of the test.

use flowai_actors::membership::{Join, JoinAnswer, JoinToken, Joined, Labels, MembersChanged};
use flowai_actors::messages::{FarmQuery, FarmView};
use flowai_actors::wire;
use reqwest::Method;
use serde_json::{Value, json};

use crate::farm::{Answer, Caller, Farm, Options};

async fn operator(farm: &Farm) -> Caller {
    farm.user("root").await;
    farm.run("update account set role = 'admin' where email = 'root@example.org'")
        .await;
    farm.log_in("root").await
}

async fn sent(caller: &Caller, method: &str, path: &str, body: &Value) -> Answer {
    let method: Method = method.parse().unwrap();
    Answer::of(caller.request(method, path).json(body)).await
}

fn labels() -> Labels {
    Labels::from([("gpu".to_owned(), "h100".to_owned())])
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_operator_changes_the_farm() {
    let farm = Farm::start().await;
    let root = operator(&farm).await;
    let looks_only = farm.with_key(&root, &["farm:read", "videos"]).await;
    let ada = farm.user("ada").await;
    let id = "0198c0de-0000-7000-8000-000000000000";
    for (method, path) in [
        ("POST", "/v1/farm/tokens".to_owned()),
        ("DELETE", format!("/v1/farm/tokens/{id}")),
        ("PUT", "/v1/farm/nodes/n1/drain".to_owned()),
        ("DELETE", "/v1/farm/nodes/n1/drain".to_owned()),
        ("DELETE", "/v1/farm/nodes/n1".to_owned()),
    ] {
        for caller in [&ada, &looks_only] {
            let answer = sent(caller, method, &path, &json!({})).await;
            let problem = answer.expect_problem(403, "role_required");
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains("`farm`"), "{detail}");
        }
        let answer = sent(&farm.stranger(), method, &path, &json!({})).await;
        answer.expect_problem(401, "token_missing");
    }
    assert_eq!(farm.number("select count(*) from join_token").await, 0);
    assert_eq!(farm.number("select count(*) from node_member").await, 0);
    looks_only.get("/v1/farm/tokens").await.expect(200);
    let key = farm.with_key(&root, &["farm"]).await;
    sent(&key, "PUT", "/v1/farm/nodes/n1/drain", &json!({}))
        .await
        .expect(204);
    // An administrator no more is an operator no more, whatever key is left.
    farm.run("update account set role = 'user' where email = 'root@example.org'")
        .await;
    for caller in [&root, &key] {
        let answer = sent(caller, "DELETE", "/v1/farm/nodes/n1/drain", &json!({})).await;
        answer.expect_problem(403, "role_required");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_shown_once_and_stored_as_a_hash() {
    let farm = Farm::start().await;
    let root = operator(&farm).await;
    let wish = json!({ "ttl_s": 600, "uses": 5, "labels": labels() });
    let made = root.post("/v1/farm/tokens", &wish).await.expect(201).json();
    let token: JoinToken = made["token"].as_str().unwrap().parse().unwrap();
    assert_eq!(made["id"], token.id().to_string());
    // Of the farm that the instance is part of.
    assert_eq!(token.ca_sha256().as_bytes(), &[3; 32]);
    let stored = format!(
        "select count(*) from join_token where secret_hash = '\\x{}' and uses_left = 5
            and expires_at between now() + interval '9 minutes' and now() + interval '10 minutes'",
        token.secret_sha256()
    );
    assert_eq!(farm.number(&stored).await, 1);
    let listed = root.get("/v1/farm/tokens").await.expect(200).json();
    assert_eq!(listed["data"][0]["labels"], json!({ "gpu": "h100" }));
    assert_eq!(listed["data"][0]["uses_left"], 5);
    let secret = &token.reveal()[36..100];
    assert!(!listed.to_string().contains(secret));

    for (wish, pointer) in [
        (json!({ "ttl_s": 86_401 }), "/ttl_s"),
        (json!({ "ttl_s": 0 }), "/ttl_s"),
        (json!({ "uses": 0 }), "/uses"),
        (json!({ "uses": 1_001 }), "/uses"),
        (json!({ "labels": { "GPU": "x" } }), "/labels"),
        (json!({ "pool": "x" }), "/pool"),
    ] {
        let refused = root.post("/v1/farm/tokens", &wish).await;
        let problem = refused.expect_problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{wish}");
    }
    let path = format!("/v1/farm/tokens/{}", token.id());
    // Again, as whoever lost the answer does.
    for _ in 0..2 {
        sent(&root, "DELETE", &path, &json!({})).await.expect(204);
    }
    let listed = root.get("/v1/farm/tokens").await.expect(200).json();
    assert_eq!(listed["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_hears_what_the_leader_says() {
    let farm = Farm::start().await;
    let token = JoinToken::generate(flowai_actors::ids::Sha256::from_bytes([3; 32]));
    let wish = json!({ "token": token.reveal(), "csr": "a request", "facts": { "host": "gpu-1" }, "schema": 3 });
    let joined = JoinAnswer::Joined(Joined {
        node: "node-1".parse().unwrap(),
        labels: labels(),
        certificate: "c".to_owned(),
        ca: "a".to_owned(),
        cookie: "00".to_owned(),
    });
    let build = || "1.2.3".to_owned();
    let reason = "must be PKCS #10".to_owned();
    let stranger = farm.stranger();
    for (says, status, code) in [
        (joined, 200, ""),
        (JoinAnswer::Refused, 403, "join_refused"),
        (
            JoinAnswer::Upgrade { build: build() },
            426,
            "upgrade_required",
        ),
        (
            JoinAnswer::TooNew { build: build() },
            422,
            "validation_failed",
        ),
        (JoinAnswer::Invalid { reason }, 422, "validation_failed"),
        (JoinAnswer::NoAuthority, 503, "not_configured"),
    ] {
        let (asked, answer): (Join, Answer) = tokio::join!(
            farm.leader.answer(&says),
            stranger.post("/v1/farm/join", &wish)
        );
        // The secret has not left the instance.
        assert_eq!(asked.token, token.id());
        assert_eq!(asked.secret_sha256, token.secret_sha256());
        assert_eq!(asked.signing_request, "a request");
        assert_eq!(asked.facts["host"], "gpu-1");
        if status == 200 {
            let body = answer.expect(200).json();
            assert_eq!(body["coordinators"], json!(["c1.example:7600"]));
            assert_eq!(body["labels"], json!({ "gpu": "h100" }));
        } else {
            answer.expect_problem(status, code);
        }
    }
    // What is no token does not come so far, and is answered like one that admits nobody.
    let wish = json!({ "token": "fjt_x", "csr": "a request", "schema": 3 });
    stranger
        .post("/v1/farm/join", &wish)
        .await
        .expect_problem(403, "join_refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_that_guess_are_counted() {
    let farm = Farm::start_with(Options {
        rate_scale: 1,
        ..Options::default()
    })
    .await;
    let stranger = farm.stranger();
    let mut statuses = Vec::new();
    for guess in 0..61 {
        let wish = json!({ "token": "fjt_x", "csr": format!("key {guess}"), "schema": 3 });
        statuses.push(stranger.post("/v1/farm/join", &wish).await.status);
    }
    assert_eq!(statuses[..60], [403; 60]);
    assert_eq!(statuses[60], 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_a_row_and_the_leader_hears_of_it() {
    let farm = Farm::start().await;
    let root = operator(&farm).await;
    let path = "/v1/farm/nodes/n1/drain";
    for (method, path, body, row) in [
        ("PUT", path, json!({}), "lazy"),
        (
            "PUT",
            path,
            json!({ "how": "lazy", "grace_s": 600 }),
            "lazy",
        ),
        ("PUT", path, json!({ "how": "now" }), "now"),
        ("DELETE", path, json!({}), "off"),
        ("DELETE", "/v1/farm/nodes/n1", json!({}), "off"),
    ] {
        sent(&root, method, path, &body).await.expect(204);
        let told = farm.leader.told().await;
        assert!(
            wire::open::<MembersChanged>(&told).is_ok(),
            "{method} {path}"
        );
        let count =
            format!("select count(*) from node_member where node_id = 'n1' and drain = '{row}'");
        assert_eq!(farm.number(&count).await, 1, "{method} {path} {body}");
    }
    let refused = sent(&root, "PUT", path, &json!({ "how": "now", "grace_s": 5 })).await;
    refused.expect_problem(422, "validation_failed");
    for (method, path) in [
        ("PUT", "/v1/farm/nodes/n9/drain"),
        ("DELETE", "/v1/farm/nodes/n9/drain"),
        ("DELETE", "/v1/farm/nodes/n9"),
        // Revoked above, for good.
        ("PUT", "/v1/farm/nodes/n1/drain"),
    ] {
        let refused = sent(&root, method, path, &json!({})).await;
        refused.expect_problem(404, "not_found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_away_is_known_by_its_row() {
    let farm = Farm::start().await;
    let root = operator(&farm).await;
    let drained = sent(&root, "PUT", "/v1/farm/nodes/n1/drain", &json!({})).await;
    drained.expect(204);
    // A leader that has heard of no node.
    let nobody = FarmView::default();
    let (_, away): (FarmQuery, Answer) =
        tokio::join!(farm.leader.answer(&nobody), root.get("/v1/farm/nodes/n1"));
    let away = away.expect(200).json();
    assert_eq!(away["state"], "away");
    assert_eq!(away["drain"], "lazy");
    let (_, unknown): (FarmQuery, Answer) =
        tokio::join!(farm.leader.answer(&nobody), root.get("/v1/farm/nodes/n9"));
    unknown.expect_problem(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_which_nodes_are_in_trouble() {
    let farm = Farm::start().await;
    let root = operator(&farm).await;
    // As of a leader of the build before, and of this one.
    let node = |id: &str| {
        json!({ "node": id, "generation": 1, "device": "cpu", "device_class": "cpu", "memory_bytes": 1, "version": "0",
                "models": ["tiny"], "refused_models": [], "held_adapters": [], "running": null, "silent_ms": 0 })
    };
    let mut bad = node("n2");
    bad["distrusted_models"] = json!(["tiny"]);
    bad["slowness"] = json!(2.5);
    let view = json!({ "epoch": 1, "nodes": [node("n1"), bad], "queues": [] });
    let view: FarmView = serde_json::from_value(view).unwrap();
    let (_, shown): (FarmQuery, Answer) =
        tokio::join!(farm.leader.answer(&view), root.get("/v1/farm/nodes"));
    let shown = shown.expect(200).json();
    let (well, bad) = (&shown["data"][0], &shown["data"][1]);
    assert_eq!(well["distrusted_models"], json!([]));
    assert_eq!(well["slowness"], Value::Null);
    assert_eq!(bad["distrusted_models"], json!(["tiny"]));
    assert_eq!(bad["slowness"], json!(2.5));
}
