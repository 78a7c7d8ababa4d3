//! Goal: whoever lost the connection goes on behind the last event that they saw, and misses none and sees none twice.
//! Method: a video's whole life is written; a stream is cut after each of its events in turn, and the rest is read on a new one,
//! on server-sent events and on WebSockets, on the video's stream and on the user's.

use flowai_actors::messages::LiveState;
use serde_json::json;

use crate::farm::{Farm, Socket, Sse};

const LIFE: [&str; 3] = ["queued", "assigned", "done"];

#[tokio::test(flavor = "multi_thread")]
async fn behind_each_event_come_the_others() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let id = ada.video().await;
    farm.deliver(&id).await;
    let path = format!("/v1/videos/{id}/events");
    for cut in 0..LIFE.len() {
        let mut first = Sse::open(&ada, &path, None).await;
        let mut last = None;
        for name in &LIFE[..=cut] {
            last = first.expect(name).await.id;
        }
        drop(first);
        let mut second = Sse::open(&ada, &path, last.as_deref()).await;
        let mut socket = Socket::open(&ada).await;
        let since: i64 = last.unwrap().parse().unwrap();
        socket.say(&json!({ "video": id, "since": since })).await;
        for name in &LIFE[cut + 1..] {
            let event = second.expect(name).await;
            assert_eq!(event.data["video"], id.as_str());
            assert_eq!(socket.next().await.unwrap(), event);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_meanwhile_is_not_missed() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let first = ada.video().await;
    let mut stream = Sse::open(&ada, "/v1/me/events", None).await;
    let snapshot = stream.expect("snapshot").await;
    assert_eq!(snapshot.data["videos"][0]["id"], first.as_str());
    let second = ada.video().await;
    let seen = stream.expect("queued").await;
    assert_eq!(seen.data["video"], second.as_str());
    drop(stream);

    farm.deliver(&first).await;
    let user = farm.leader.assign(&second).await;
    farm.leader
        .fail(&second, "out_of_memory", "the node has no room")
        .await;
    farm.leader.hint(user);
    let expected = [
        (&first, "assigned"),
        (&first, "done"),
        (&second, "assigned"),
        (&second, "failed"),
    ];
    // On the same session and on a new one.
    for _ in 0..2 {
        let mut stream = Sse::open(&ada, "/v1/me/events", seen.id.as_deref()).await;
        for (video, name) in expected {
            assert_eq!(stream.expect(name).await.data["video"], video.as_str());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_hint_is_needed() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let id = ada.video().await;
    let mut stream = Sse::open(&ada, &format!("/v1/videos/{id}/events"), None).await;
    stream.expect("queued").await;
    // The leader's hint is lost.
    farm.deliver(&id).await;
    stream.expect("assigned").await;
    stream.expect("done").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_was_never_given_out_gets_everything_as_it_stands() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let id = ada.video().await;
    for path in [
        format!("/v1/videos/{id}/events"),
        "/v1/me/events".to_owned(),
    ] {
        for wrong in ["999", "-3", "yesterday"] {
            let mut stream = Sse::open(&ada, &path, Some(wrong)).await;
            let snapshot = stream.expect("snapshot").await;
            assert_eq!(
                snapshot.data["videos"][0]["id"],
                id.as_str(),
                "{path} {wrong}"
            );
            assert!(snapshot.id.is_some());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_whose_events_are_kept_no_longer_gets_everything_as_it_stands() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let id = ada.video().await;
    farm.deliver(&id).await;
    let paths = [
        format!("/v1/videos/{id}/events"),
        "/v1/me/events".to_owned(),
    ];
    let gets_a_snapshot = async || {
        for path in &paths {
            let mut stream = Sse::open(&ada, path, Some("0")).await;
            let snapshot = stream.expect("snapshot").await;
            assert_eq!(snapshot.data["videos"][0]["id"], id.as_str(), "{path}");
        }
    };
    farm.run("delete from job_event where kind = 'queued'")
        .await;
    gets_a_snapshot().await;
    for path in &paths {
        let mut stream = Sse::open(&ada, path, Some("1")).await;
        stream.expect("assigned").await;
        stream.expect("done").await;
    }
    // One in the middle: at the end of a week a lower number may have the later time.
    farm.run(
        "insert into job_event (owner_id, user_seq, job_id, seq, kind)
         select owner_id, 1, job_id, 1, 'queued' from job_event where seq = 3",
    )
    .await;
    farm.run("delete from job_event where seq = 2").await;
    gets_a_snapshot().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_has_no_id_and_does_not_outlive_its_time() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let id = ada.video().await;
    let mut stream = Sse::open(&ada, "/v1/me/events", None).await;
    stream.expect("snapshot").await;
    let user = farm.leader.assign(&id).await;
    farm.leader.hint(user);
    stream.expect("assigned").await;
    let progress = LiveState::Progress {
        attempt: flowai_actors::ids::Attempt::new(1),
        phase: flowai_actors::messages::Phase::Denoising,
        step: 1,
        steps: 2,
        left_s: Some(1.5),
    };
    farm.leader.say_live(user, &id, progress);
    let event = stream.expect("progress").await;
    assert_eq!(event.id, None);
    assert_eq!(
        (&event.data["step"], &event.data["steps"]),
        (&json!(1), &json!(2))
    );
    let shown = ada
        .get(&format!("/v1/videos/{id}"))
        .await
        .expect(200)
        .json();
    assert_eq!(shown["progress"]["phase"], "denoising");
    farm.leader.fail(&id, "bad", "no").await;
    farm.leader.hint(user);
    stream.expect("failed").await;
    let shown = ada
        .get(&format!("/v1/videos/{id}"))
        .await
        .expect(200)
        .json();
    assert_eq!(
        (&shown["progress"], &shown["error"]["code"]),
        (&json!(null), &json!("bad"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_ends_sends_its_readers_away() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let mut stream = Sse::open(&ada, "/v1/me/events", None).await;
    stream.expect("snapshot").await;
    let mut socket = Socket::open(&ada).await;
    socket.say(&json!({})).await;
    assert_eq!(socket.next().await.unwrap().name, "snapshot");
    farm.app.drain().await;
    stream.expect("resync").await;
    assert_eq!(stream.next().await, None);
    assert_eq!(socket.next().await, Err(4409));
    assert_eq!(
        farm.stranger().get("/readyz").await.expect(503).json()["draining"],
        true
    );
    ada.get("/v1/me/events")
        .await
        .expect_problem(503, "draining");
}
