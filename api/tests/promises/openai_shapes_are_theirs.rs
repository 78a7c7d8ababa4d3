//! Goal: a video's life at `/openai/v1` has the shapes, names and units that OpenAI's clients read.
//! Method: HTTP as those clients send it, field by field; the clients themselves run in the tests of the whole farm.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flowai_actors::ids::Attempt;
use flowai_actors::messages::{LiveState, Phase};
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::farm::{Answer, Caller, Farm, picture, tiny_offer};

async fn create(caller: &Caller, fields: &[(&str, &str)]) -> Answer {
    let mut form = Form::new().part(
        "input_reference",
        Part::bytes(picture(64, 48)).file_name("cat.png"),
    );
    for (name, value) in fields {
        form = form.text((*name).to_owned(), (*value).to_owned());
    }
    Answer::of(
        caller
            .request(Method::POST, "/openai/v1/videos")
            .multipart(form),
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let ada = farm.with_key(&ada, &["videos"]).await;
    let made = create(
        &ada,
        &[
            ("prompt", "a cat"),
            ("model", "tiny"),
            ("size", "64x48"),
            ("seconds", "2"),
            ("steps", "4"),
            ("seed", "7"),
        ],
    )
    .await;
    let made = made.expect(200).json();
    let id = made["id"].as_str().unwrap().to_owned();
    let created_at = made["created_at"].as_i64().unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    assert!(
        created_at.abs_diff(now.as_secs().cast_signed()) < 300,
        "{created_at}"
    );
    let expected = json!({
        "id": id, "object": "video", "model": "tiny", "status": "queued", "progress": 0,
        "created_at": created_at, "completed_at": null, "expires_at": null,
        "size": "64x48", "seconds": "2", "prompt": "a cat",
        "remixed_from_video_id": null, "error": null,
    });
    assert_eq!(made, expected);
    let path = format!("/openai/v1/videos/{id}");
    assert_eq!(ada.get(&path).await.expect(200).json(), expected);
    let early = ada.get(&format!("{path}/content")).await.expect(409).json();
    assert_eq!(early["error"]["code"], "state_conflict");

    let user = farm.leader.assign(&id).await;
    assert_eq!(ada.get(&path).await.json()["status"], "in_progress");
    farm.leader.say_live(
        user,
        &id,
        LiveState::Progress {
            attempt: Attempt::new(1),
            phase: Phase::Denoising,
            step: 2,
            steps: 4,
            left_s: None,
        },
    );
    let halfway = tokio::time::timeout(crate::farm::DEADLINE, async {
        while ada.get(&path).await.json()["progress"] != 45 {}
    });
    halfway.await.unwrap();
    farm.leader
        .fail(&id, "bad_input", "the picture cannot be read")
        .await;
    let failed = ada.get(&path).await.json();
    assert_eq!(
        (&failed["status"], &failed["completed_at"]),
        (&json!("failed"), &Value::Null)
    );
    assert_eq!(
        failed["error"],
        json!({ "code": "bad_input", "message": "the picture cannot be read" })
    );

    let cancelled = create(&ada, &[("prompt", "x")]).await.id();
    ada.delete(&format!("/v1/videos/{cancelled}"))
        .await
        .expect(200);
    let cancelled = ada
        .get(&format!("/openai/v1/videos/{cancelled}"))
        .await
        .json();
    assert_eq!(
        (&cancelled["status"], &cancelled["error"]["code"]),
        (&json!("failed"), &json!("cancelled"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_one_can_be_downloaded_remixed_and_deleted() {
    let farm = Farm::start().await;
    let login = farm.user("ada").await;
    let adapter = login.adapter(1).await;
    let ada = farm.with_key(&login, &["videos"]).await;
    let adapters = format!("[{{\"id\":\"{adapter}\",\"weight\":0.5}}]");
    let id = create(
        &ada,
        &[
            ("prompt", "a cat"),
            ("size", "64x48"),
            ("frames", "2"),
            ("adapters", &adapters),
        ],
    )
    .await;
    let id = id.expect(200).id();
    farm.deliver(&id).await;
    let path = format!("/openai/v1/videos/{id}");
    let done = ada.get(&path).await.json();
    assert_eq!(
        (&done["status"], &done["progress"]),
        (&json!("completed"), &json!(100))
    );
    assert!(done["completed_at"].as_i64() >= done["created_at"].as_i64());

    for (variant, kind, file) in [
        ("", "video/mp4", "clip.mp4"),
        ("?variant=video", "video/mp4", "clip.mp4"),
        ("?variant=thumbnail", "image/webp", "poster.webp"),
        ("?variant=spritesheet", "image/jpeg", "spritesheet.jpg"),
    ] {
        let content = ada.get(&format!("{path}/content{variant}")).await;
        assert_eq!(content.expect(200).body, format!("the {file} of {id}"));
        assert_eq!(content.header("content-type"), kind);
        assert!(
            content
                .header("content-security-policy")
                .contains("sandbox")
        );
    }
    let other = ada
        .get(&format!("{path}/content?variant=audio"))
        .await
        .expect(422)
        .json();
    assert_eq!(other["error"]["param"], "variant");
    let range = ada
        .request(Method::GET, &format!("{path}/content"))
        .header("range", "bytes=4-7");
    let range = Answer::of(range).await;
    assert_eq!(range.expect(206).body, "clip");

    let remix = ada
        .post(&format!("{path}/remix"), &json!({ "prompt": "at night" }))
        .await;
    let remix = remix.expect(200).json();
    assert_eq!(remix["remixed_from_video_id"], id);
    assert_eq!(
        (&remix["prompt"], &remix["size"], &remix["status"]),
        (&json!("at night"), &json!("64x48"), &json!("queued"))
    );
    let remix_id = remix["id"].as_str().unwrap();
    let specs = |id: String| {
        let ada = ada.clone();
        async move {
            ada.get(&format!("/v1/videos/{id}"))
                .await
                .expect(200)
                .json()
        }
    };
    let (source, copy) = (specs(id.clone()).await, specs(remix_id.to_owned()).await);
    assert_ne!(
        source["spec"]["seed"], copy["spec"]["seed"],
        "another seed is drawn"
    );
    let without_seed = |video: &Value| {
        let mut spec = video["spec"].clone();
        spec["seed"] = Value::Null;
        spec
    };
    assert_eq!(
        without_seed(&source),
        without_seed(&copy),
        "all else is kept"
    );
    assert_eq!(copy["spec"]["adapters"][0]["weight"], 0.5);

    // One that waits is cancelled and deleted; a finished one is deleted with its files.
    for id in [remix_id, &id] {
        let path = format!("/openai/v1/videos/{id}");
        let deleted = ada.delete(&path).await.expect(200).json();
        assert_eq!(
            deleted,
            json!({ "id": id, "object": "video.deleted", "deleted": true })
        );
        ada.get(&path).await.expect(404);
        ada.delete(&path).await.expect(404);
    }
    assert_eq!(farm.objects.list("clips/", None, 1).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_go_on_behind_an_id() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(create(&ada, &[("prompt", "x")]).await.expect(200).id());
    }
    let walk = async |order: &str| {
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let page = ada
                .get(&format!("/openai/v1/videos?limit=2{order}{after}"))
                .await;
            let page = page.expect(200).json();
            assert_eq!(page["object"], "list");
            let data = page["data"].as_array().unwrap();
            found.extend(
                data.iter()
                    .map(|video| video["id"].as_str().unwrap().to_owned()),
            );
            assert_eq!(page["first_id"], data[0]["id"]);
            assert_eq!(page["last_id"], data[data.len() - 1]["id"]);
            if page["has_more"] == false {
                return found;
            }
            after = format!("&after={}", page["last_id"].as_str().unwrap());
        }
    };
    assert_eq!(walk("&order=asc").await, ids);
    ids.reverse();
    assert_eq!(walk("").await, ids);
    assert_eq!(walk("&order=desc").await, ids);
    for (query, param) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("order=up", "order"),
        ("after=x", "after"),
    ] {
        let refused = ada
            .get(&format!("/openai/v1/videos?{query}"))
            .await
            .expect(422)
            .json();
        assert_eq!(refused["error"]["param"], param);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed() {
    let farm = Farm::start().await;
    farm.offer(&tiny_offer("zoo")).await;
    let ada = farm.user("ada").await;
    let list = ada.get("/openai/v1/models").await.expect(200).json();
    assert_eq!(list["object"], "list");
    let ids: Vec<&Value> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| &model["id"])
        .collect();
    assert_eq!(ids, ["tiny", "zoo"]);
    let one = ada.get("/openai/v1/models/zoo").await.expect(200).json();
    assert_eq!(
        (&one["object"], &one["owned_by"]),
        (&json!("model"), &json!("flowai"))
    );
    assert!(one["created"].as_i64().unwrap() > 0);
    ada.get("/openai/v1/models/sora-2").await.expect(404);
    // Of several models one must be named.
    let refused = create(&ada, &[("prompt", "x")]).await.expect(422).json();
    assert_eq!(refused["error"]["param"], "model");
    let refused = create(&ada, &[("prompt", "x"), ("model", "sora-2")])
        .await
        .expect(422)
        .json();
    assert!(
        refused["error"]["message"]
            .as_str()
            .unwrap()
            .contains("sora-2")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_come_in_three_ways_and_never_from_an_address() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let by_json = async |reference: Value| {
        let wish = json!({ "prompt": "x", "input_reference": reference, "num_frames": 2 });
        ada.post("/openai/v1/videos", &wish).await
    };
    let data_url = format!(
        "data:image/png;base64,{}",
        BASE64_STANDARD.encode(picture(64, 48))
    );
    by_json(json!({ "image_url": data_url })).await.expect(200);
    by_json(json!({ "file_id": ada.picture().await }))
        .await
        .expect(200);
    create(&ada, &[]).await.expect(200);
    for address in [
        "http://127.0.0.1:1/cat.png",
        "file:///etc/passwd",
        "data:text/html,x",
    ] {
        let refused = by_json(json!({ "image_url": address }))
            .await
            .expect(422)
            .json();
        assert_eq!(refused["error"]["param"], "input_reference/image_url");
    }
    let refused = ada
        .post("/openai/v1/videos", &json!({ "prompt": "x" }))
        .await
        .expect(422)
        .json();
    assert_eq!(refused["error"]["param"], "input_reference");
    assert_eq!(farm.number("select count(*) from job").await, 3);
}
