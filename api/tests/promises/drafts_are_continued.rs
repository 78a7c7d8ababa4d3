//! Goal: a draft costs little and is continued to the full video from the same seed and the same picture, once a request.
//! Method: drafts of a picture and of words, delivered by the leader, and their finals.

use reqwest::Method;
use serde_json::{Value, json};

use crate::farm::{Answer, Caller, Farm, adapter, painter_adapter, painter_offer, wish};

/// A full render, as a draft.
fn drafted(mut wish: Value) -> Value {
    for (field, value) in [
        ("frames", 20),
        ("steps", 30),
        ("width", 1024),
        ("height", 576),
    ] {
        wish[field] = json!(value);
    }
    wish["draft"] = json!(true);
    wish
}

async fn finals(caller: &Caller, draft: &str, key: Option<&str>) -> Answer {
    let mut request = caller.request(Method::POST, &format!("/v1/videos/{draft}/final"));
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    Answer::of(request).await
}

async fn adapter_for(caller: &Caller, model: &str, bytes: Vec<u8>) -> String {
    let upload = caller.upload("adapter", bytes).await.expect(201).id();
    let wish = json!({ "upload": upload, "model": model, "name": "style" });
    caller.post("/v1/adapters", &wish).await.expect(201).id()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_of_a_picture_is_continued_from_it() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let image = ada.picture().await;
    let draft = ada.post("/v1/videos", &drafted(wish(&image))).await;
    let draft = draft.expect(202).json();
    let id = draft["id"].as_str().unwrap();
    let spec = &draft["spec"];
    assert_eq!(draft["draft"], true);
    assert_eq!((&spec["frames"], &spec["steps"]), (&json!(8), &json!(8)));
    assert!(spec["width"].as_u64().unwrap() <= 544, "{spec}");
    let full = &draft["final_spec"];
    assert_eq!(
        (&full["frames"], &full["width"]),
        (&json!(20), &json!(1024))
    );

    let early = finals(&ada, id, None).await;
    early.expect_problem(409, "draft_not_done");
    farm.deliver(id).await;
    let made = finals(&ada, id, Some("k")).await;
    let video = made.expect(202).json();
    assert_eq!(
        made.header("location"),
        format!("/v1/videos/{}", video["id"].as_str().unwrap())
    );
    assert_eq!(video["spec"], *full);
    assert_eq!(
        (&video["draft"], &video["final_spec"]),
        (&json!(false), &Value::Null)
    );
    assert_eq!(
        (&video["parent"], &video["image"]),
        (&json!(id), &json!(image))
    );
    assert_eq!(video["spec"]["seed"], spec["seed"]);

    // A retry is the same video, another wish another one, and a final is no draft.
    let replayed = finals(&ada, id, Some("k")).await;
    assert_eq!(replayed.expect(202).json(), video);
    assert_ne!(finals(&ada, id, None).await.expect(202).id(), video["id"]);
    let final_id = video["id"].as_str().unwrap();
    finals(&ada, final_id, None)
        .await
        .expect_problem(409, "not_a_draft");
    let bob = farm.user("bob").await;
    finals(&bob, id, None)
        .await
        .expect_problem(404, "not_found");
    // The answer stays when the draft is gone, and its picture while a video names it.
    ada.delete(&format!("/v1/videos/{id}?purge=true"))
        .await
        .expect(204);
    let replayed = finals(&ada, id, Some("k")).await;
    assert_eq!(replayed.expect(202).json(), video);
    finals(&ada, id, None)
        .await
        .expect_problem(404, "not_found");
    ada.get(&format!("/v1/uploads/{image}")).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_of_words_is_continued_from_the_picture_that_was_made_of_them() {
    let farm = Farm::start().await;
    farm.offer(&painter_offer("painter")).await;
    let ada = farm.user("ada").await;
    let style = adapter_for(&ada, "painter", painter_adapter(1)).await;
    let motion = adapter_for(&ada, "tiny", adapter(1)).await;
    let words = json!({
        "prompt": "a cat",
        "seed": 7,
        "keyframe": { "adapters": [{ "id": style }] },
        "adapters": [{ "id": motion, "weight": 0.5 }],
    });
    let draft = ada
        .post("/v1/videos", &drafted(words))
        .await
        .expect(202)
        .json();
    // The picture itself is no draft.
    assert_eq!(draft["spec"]["keyframe"], draft["final_spec"]["keyframe"]);
    assert_eq!(draft["spec"]["keyframe"]["width"], 1024);
    let id = draft["id"].as_str().unwrap();
    farm.deliver(id).await;
    let keyframe = ada.get(&format!("/v1/videos/{id}")).await.json()["keyframe"].clone();

    let video = finals(&ada, id, None).await.expect(202).json();
    assert_eq!((&video["image"], &video["parent"]), (&keyframe, &json!(id)));
    assert_eq!(video["prompt"], "a cat");
    let mut full = draft["final_spec"].clone();
    full["keyframe"] = Value::Null;
    assert_eq!(video["spec"], full);
    assert_eq!(video["spec"]["adapters"][0]["weight"], 0.5);
    // Only the adapter of the clip is still needed.
    let named = farm.number("select count(*) from job_adapter").await;
    assert_eq!(named, 3);
    let of_spec = "select count(*) from job j join upload u on u.id = j.image_id
                    where j.spec->'first_frame'->>'image' = encode(u.sha256, 'hex')";
    assert_eq!(farm.number(of_spec).await, 1);
}
