//! Goal: a purged video leaves no row and no file, also none of attempts that were lost; what other videos need stays.

use bytes::Bytes;
use flowai_actors::ids::{JobId, UserId};
use flowai_store::database::commit;
use flowai_store::videos;
use serde_json::json;

use crate::farm::{Farm, Sse, wish};

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_removes_every_file_and_keeps_what_others_need() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let picture = ada.picture().await;
    let mut videos = Vec::new();
    for _ in 0..2 {
        let video = ada
            .post("/v1/videos", &wish(&picture))
            .await
            .expect(202)
            .id();
        farm.deliver(&video).await;
        videos.push(video);
    }
    let [first, second] = &videos[..] else {
        panic!("{videos:?}");
    };
    // What a node left that was given up.
    let lost = format!("clips/{first}/9/clip.mp4");
    let clip = Bytes::from_static(b"a clip");
    farm.objects.put(&lost, clip, "video/mp4").await.unwrap();

    ada.delete(&format!("/v1/videos/{first}?purge=true"))
        .await
        .expect(204);
    let files = async |prefix: String| farm.objects.list(&prefix, None, 100).await.unwrap();
    assert_eq!(files(format!("clips/{first}/")).await, []);
    assert_ne!(files(format!("clips/{second}/")).await, []);
    ada.get(&format!("/v1/uploads/{picture}")).await.expect(200);
    ada.get(&format!("/v1/videos/{first}")).await.expect(404);
    ada.get(&format!("/v1/videos/{second}/content"))
        .await
        .expect(302);

    ada.delete(&format!("/v1/videos/{second}?purge=true"))
        .await
        .expect(204);
    ada.get(&format!("/v1/uploads/{picture}")).await.expect(404);
    assert_eq!(files("clips/".to_owned()).await, []);
    assert_eq!(files("uploads/".to_owned()).await, []);

    // The api remembers the picture of the submissions before.
    let refused = ada.post("/v1/videos", &wish(&picture)).await;
    refused.expect_problem(404, "not_found");
    assert!(refused.json()["detail"].to_string().contains(&picture));
}

/// By another instance, between two looks of this one: the events are gone before anybody read them.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_cannot_be_told_of_the_end_any_more_begins_with_a_snapshot() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let (gone, stays) = (ada.video().await, ada.video().await);
    let mut tab = Sse::open(&ada, "/v1/me/events", None).await;
    let seen = tab.expect("snapshot").await.id;
    let user: UserId = {
        let me = ada.get("/v1/me").await.expect(200).json();
        me["id"].as_str().unwrap().parse().unwrap()
    };
    let job: JobId = gone.parse().unwrap();
    let mut transaction = farm.app.database.begin_as(user).await.unwrap();
    videos::cancel(&mut transaction, user, job).await.unwrap();
    videos::purge(&mut transaction, job).await.unwrap();
    commit(transaction).await.unwrap();
    tab.expect("resync").await;

    let mut tab = Sse::open(&ada, "/v1/me/events", seen.as_deref()).await;
    let snapshot = tab.expect("snapshot").await.data;
    let ids: Vec<_> = snapshot["videos"]
        .as_array()
        .unwrap()
        .iter()
        .map(|video| video["id"].clone())
        .collect();
    assert_eq!(ids, [json!(stays)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_up_room_is_listed_and_can_be_removed() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let mut stored = Vec::new();
    for _ in 0..3 {
        stored.insert(0, ada.picture().await);
    }
    let ids = |page: &serde_json::Value| -> Vec<String> {
        let rows = page["data"].as_array().unwrap();
        rows.iter()
            .map(|row| row["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let page = ada.get("/v1/uploads?limit=2").await.expect(200).json();
    assert_eq!(ids(&page), stored[..2]);
    let cursor = page["next_cursor"].as_str().unwrap();
    let next = format!("/v1/uploads?limit=2&cursor={cursor}");
    let page = ada.get(&next).await.expect(200).json();
    assert_eq!(
        (ids(&page), &page["next_cursor"]),
        (stored[2..].to_vec(), &json!(null))
    );
    // A cursor is of one list.
    let of_another = format!("/v1/uploads?purpose=image&cursor={cursor}");
    ada.get(&of_another)
        .await
        .expect_problem(400, "cursor_invalid");

    ada.delete(&format!("/v1/uploads/{}", stored[1]))
        .await
        .expect(204);
    let page = ada
        .get("/v1/uploads?purpose=image")
        .await
        .expect(200)
        .json();
    assert_eq!(ids(&page), [stored[0].clone(), stored[2].clone()]);
    let page = ada
        .get("/v1/uploads?purpose=adapter")
        .await
        .expect(200)
        .json();
    assert_eq!(ids(&page), Vec::<String>::new());
    ada.get("/v1/uploads?purpose=clip").await.expect(422);
    let bob = farm.user("bob").await.get("/v1/uploads").await;
    assert_eq!(ids(&bob.expect(200).json()), Vec::<String>::new());
    let drawer = farm.with_key(&ada, &["adapters"]).await;
    drawer.get("/v1/uploads").await.expect(403);
    drawer.get("/v1/uploads?purpose=adapter").await.expect(200);
}
