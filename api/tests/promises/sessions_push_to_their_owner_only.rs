//! Goal: what happens to a user's videos reaches every open tab of that user, and nobody else.
//! Method: Ada and Bob listen on all kinds of streams while things happen to a video of Ada's; then something happens to Bob's own
//! video, which must be the first thing that Bob hears.

use std::time::Duration;

use flowai_actors::ids::Attempt;
use flowai_actors::messages::{LiveState, Phase};
use flowai_actors::waiting::Waits;
use reqwest::Method;
use serde_json::{Value, json};

use crate::farm::{Answer, Caller, Farm, Socket, Sse};

async fn listen(caller: &Caller) -> (Sse, Sse, Socket) {
    let mut tabs = (
        Sse::open(caller, "/v1/me/events", None).await,
        Sse::open(caller, "/v1/me/events", None).await,
        Socket::open(caller).await,
    );
    tabs.2.say(&json!({})).await;
    tabs.0.expect("snapshot").await;
    tabs.1.expect("snapshot").await;
    assert_eq!(tabs.2.next().await.unwrap().name, "snapshot");
    tabs
}

async fn expect(tabs: &mut (Sse, Sse, Socket), name: &str, video: &str) {
    let events = [
        tabs.0.next().await.unwrap(),
        tabs.1.next().await.unwrap(),
        tabs.2.next().await.unwrap(),
    ];
    for event in events {
        assert_eq!(
            (event.name.as_str(), &event.data["video"]),
            (name, &json!(video))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_tab_of_the_owner_and_nobody_else() {
    let farm = Farm::start().await;
    let (ada, bob) = (farm.user("ada").await, farm.user("bob").await);
    let of_ada = ada.video().await;
    let of_bob = bob.video().await;
    let mut adas = listen(&ada).await;
    let mut bobs = listen(&bob).await;

    let user = {
        let me = ada.get("/v1/me").await.expect(200).json();
        me["id"].as_str().unwrap().parse().unwrap()
    };
    let position = LiveState::Position {
        position: 3,
        waits: Waits {
            code: "share".to_owned(),
            reason: "two wait before it".to_owned(),
            starts_in: None,
        },
    };
    farm.leader.say_live(user, &of_ada, position);
    expect(&mut adas, "position", &of_ada).await;
    farm.leader.assign(&of_ada).await;
    farm.leader.hint(user);
    expect(&mut adas, "assigned", &of_ada).await;
    let progress = LiveState::Progress {
        attempt: Attempt::new(1),
        phase: Phase::Denoising,
        step: 1,
        steps: 2,
        left_s: Some(1.5),
    };
    farm.leader.say_live(user, &of_ada, progress);
    expect(&mut adas, "progress", &of_ada).await;

    let second = ada.video().await;
    expect(&mut adas, "queued", &second).await;
    ada.delete(&format!("/v1/videos/{second}"))
        .await
        .expect(200);
    expect(&mut adas, "cancelled", &second).await;

    bob.delete(&format!("/v1/videos/{of_bob}"))
        .await
        .expect(200);
    expect(&mut bobs, "cancelled", &of_bob).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_opens_one_socket_of_its_owner() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let ticket = Socket::ticket(&ada).await;
    let foreign = Socket::with_ticket(&ada, &ticket, Some("http://evil.example")).await;
    assert_eq!(foreign.err(), Some(403));
    let own = ada.url.origin().ascii_serialization();
    let mut socket = Socket::with_ticket(&ada, &ticket, Some(&own))
        .await
        .unwrap();
    socket.say(&json!({})).await;
    assert_eq!(socket.next().await.unwrap().name, "snapshot");
    assert_eq!(
        Socket::with_ticket(&ada, &ticket, None).await.err(),
        Some(401),
        "used"
    );
    for wrong in ["", "nonsense"] {
        assert_eq!(
            Socket::with_ticket(&ada, wrong, None).await.err(),
            Some(401),
            "{wrong}"
        );
    }
    // Somebody else's video, by a valid ticket.
    let bob = farm.user("bob").await;
    let mut socket = Socket::open(&bob).await;
    socket.say(&json!({ "video": ada.video().await })).await;
    assert_eq!(socket.next().await, Err(4400));
    let key = farm.with_key(&ada, &["videos"]).await;
    let refused = key.post("/v1/ws-tickets", &Value::Null).await;
    refused.expect_problem(403, "sign_in_required");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_talks_nonsense_is_closed() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    for nonsense in [json!([]), json!({ "since": "x" }), json!({ "user": "bob" })] {
        let mut socket = Socket::open(&ada).await;
        socket.say(&nonsense).await;
        assert_eq!(socket.next().await, Err(4400), "{nonsense}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_all_their_streams_open_still_waits_for_a_video() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let video = ada.video().await;
    let mut streams = Vec::new();
    for _ in 0..32 {
        let mut stream = Sse::open(&ada, "/v1/me/events", None).await;
        stream.expect("snapshot").await;
        streams.push(stream);
    }
    ada.get("/v1/me/events")
        .await
        .expect_problem(503, "overloaded");
    let waits = ada
        .request(Method::GET, &format!("/v1/videos/{video}"))
        .header("prefer", "wait=20");
    // Whether it is cancelled before or after the wait begins, its end is seen long before the time is over.
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        tokio::join!(Answer::of(waits), async {
            ada.delete(&format!("/v1/videos/{video}")).await.expect(200);
        })
    });
    let (waited, ()) = waited.await.expect("it is told of the end");
    assert_eq!(waited.expect(200).json()["status"], "cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_has_all_that_is_unfinished() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let oldest = ada.video().await;
    for _ in 0..100 {
        let ended = ada.video().await;
        ada.delete(&format!("/v1/videos/{ended}")).await.expect(200);
    }
    let mut stream = Sse::open(&ada, "/v1/me/events", None).await;
    let snapshot = stream.expect("snapshot").await;
    let videos = snapshot.data["videos"].as_array().unwrap();
    assert_eq!(videos.len(), 101);
    assert_eq!(videos[100]["id"], oldest.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_their_credential() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let other_device = farm.log_in("ada").await;
    let key = farm.with_key(&ada, &["videos"]).await;
    let mut streams = listen(&ada).await;
    let mut by_key = Sse::open(&key, "/v1/me/events", None).await;
    by_key.expect("snapshot").await;
    let mut kept = Sse::open(&other_device, "/v1/me/events", None).await;
    kept.expect("snapshot").await;

    ada.post("/v1/auth/logout", &Value::Null).await.expect(204);
    assert_eq!(streams.0.expect("revoked").await.id, None);
    assert_eq!(streams.0.next().await, None);
    streams.1.expect("revoked").await;
    assert_eq!(streams.2.next().await, Err(4401));
    ada.get("/v1/me").await.expect_problem(401, "token_invalid");

    let keys = other_device.get("/v1/api-keys").await.json();
    let id = keys["data"][0]["id"].as_str().unwrap();
    // Again, as whoever lost the answer does.
    for _ in 0..2 {
        let ended = other_device.delete(&format!("/v1/api-keys/{id}")).await;
        ended.expect(204);
    }
    by_key.expect("revoked").await;
    let video = other_device.video().await;
    assert_eq!(kept.expect("queued").await.data["video"], video.as_str());
}
