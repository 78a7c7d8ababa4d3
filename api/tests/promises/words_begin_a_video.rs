//! Goal: a prompt alone is enough for a video; the picture that is made of it is its owner's, to look at, keep and animate
//! again; and nothing that belongs to the other way in is dropped silently.
//! Method: wishes of both ways against a farm that offers a keyframe model, and the leader's delivery.

use flowai_actors::messages::{LiveState, Phase};
use serde_json::{Value, json};

use crate::farm::{Caller, Farm, Sse, adapter, painter_adapter, painter_offer, tiny_offer, wish};

/// A small render of words.
fn words(prompt: &str) -> Value {
    json!({ "prompt": prompt, "frames": 2, "steps": 2, "width": 64, "height": 48, "seed": 7 })
}

async fn start() -> (Farm, Caller) {
    let farm = Farm::start().await;
    farm.offer(&painter_offer("painter")).await;
    let ada = farm.user("ada").await;
    (farm, ada)
}

async fn adapter_for(caller: &Caller, model: &str, bytes: Vec<u8>) -> String {
    let upload = caller.upload("adapter", bytes).await.expect(201).id();
    let wish = json!({ "upload": upload, "model": model, "name": "style" });
    caller.post("/v1/adapters", &wish).await.expect(201).id()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_picture_of_a_prompt_is_kept_and_animated_again() {
    let (farm, ada) = start().await;
    let video = ada.post("/v1/videos", &words("  a cat ")).await;
    let video = video.expect(202).json();
    let id = video["id"].as_str().unwrap();
    assert_eq!(video["prompt"], "a cat");
    assert_eq!(
        video["spec"]["keyframe"],
        json!({
            "model": "painter",
            "negative_prompt": "",
            "adapters": [],
            "width": 64,
            "height": 48,
            "steps": 50,
            "sampler": "ddim",
            "guidance_scale": 7.5,
            "seed": 7,
        })
    );
    assert_eq!(
        (&video["image"], &video["keyframe"]),
        (&Value::Null, &Value::Null)
    );
    ada.get(&format!("/v1/videos/{id}/keyframe"))
        .await
        .expect_problem(409, "state_conflict");

    farm.deliver(id).await;
    let done = ada
        .get(&format!("/v1/videos/{id}"))
        .await
        .expect(200)
        .json();
    let keyframe = done["keyframe"].as_str().unwrap();
    let upload = ada.get(&format!("/v1/uploads/{keyframe}")).await;
    let upload = upload.expect(200).json();
    assert_eq!(upload["purpose"], "image");
    assert_eq!(
        (&upload["width"], &upload["height"]),
        (&json!(64), &json!(48))
    );
    let found = ada.get(&format!("/v1/videos/{id}/keyframe")).await;
    let link = found.expect(302).header("location").to_owned();
    for link in [&link, done["urls"]["keyframe"].as_str().unwrap()] {
        let file = farm.stranger().get(link).await;
        assert_eq!(file.expect(200).header("content-type"), "image/png");
        assert_eq!(file.body, format!("the keyframe.png of {id}"));
    }
    let bob = farm.user("bob").await;
    for path in [
        format!("/v1/videos/{id}/keyframe"),
        format!("/v1/uploads/{keyframe}"),
    ] {
        bob.get(&path).await.expect_problem(404, "not_found");
    }
    let stolen = bob.post("/v1/videos", &wish(keyframe)).await;
    stolen.expect_problem(404, "not_found");

    let again = ada
        .post("/v1/videos", &wish(keyframe))
        .await
        .expect(202)
        .json();
    assert_eq!(
        (&again["image"], &again["spec"]["keyframe"]),
        (&json!(keyframe), &Value::Null)
    );
    // It outlives the video that it was made for, and goes by itself.
    ada.delete(&format!("/v1/uploads/{keyframe}"))
        .await
        .expect_problem(409, "state_conflict");
    ada.delete(&format!("/v1/videos/{id}?purge=true"))
        .await
        .expect(204);
    ada.get(&format!("/v1/uploads/{keyframe}"))
        .await
        .expect(200);
    let again = again["id"].as_str().unwrap();
    farm.deliver(again).await;
    ada.get(&format!("/v1/videos/{again}/keyframe"))
        .await
        .expect_problem(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wish_about_the_picture_is_honoured_or_refused_by_name() {
    let (farm, ada) = start().await;
    let style = adapter_for(&ada, "painter", painter_adapter(1)).await;
    let motion = adapter_for(&ada, "tiny", adapter(1)).await;
    let mut full = words("a cat");
    full["negative_prompt"] = json!("rain");
    full["keyframe_model"] = json!("painter");
    full["adapters"] = json!([{ "id": motion, "weight": 0.5 }]);
    full["keyframe"] = json!({
        "steps": 9, "guidance_scale": 3.0, "sampler": "euler", "seed": 8, "width": 128, "height": 64,
        "adapters": [{ "id": style, "weight": 2.0 }],
    });
    let video = ada.post("/v1/videos", &full).await.expect(202).json();
    let keyframe = &video["spec"]["keyframe"];
    assert_eq!(
        (&keyframe["steps"], &keyframe["sampler"], &keyframe["seed"]),
        (&json!(9), &json!("euler"), &json!(8))
    );
    assert_eq!(
        (&keyframe["width"], &keyframe["height"]),
        (&json!(128), &json!(64))
    );
    assert_eq!(keyframe["negative_prompt"], "rain");
    assert_eq!(keyframe["adapters"][0]["weight"], 2.0);
    assert_eq!(video["spec"]["adapters"][0]["weight"], 0.5);

    // An adapter of the other stage is told its place.
    for (field, id, place) in [
        ("adapters", &style, "keyframe.adapters"),
        ("keyframe", &motion, "give it in adapters"),
    ] {
        let mut wrong = words("a cat");
        let list = json!([{ "id": id }]);
        wrong[field] = match field {
            "keyframe" => json!({ "adapters": list }),
            _ => list,
        };
        let problem = ada.post("/v1/videos", &wrong).await;
        let problem = problem.expect_problem(422, "adapter_incompatible");
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains(id.as_str()) && detail.contains(place),
            "{detail}"
        );
    }

    let image = ada.picture().await;
    let nothing = json!({ "frames": 2 });
    let of_picture = |field: &str, value: Value| {
        let mut wish = wish(&image);
        wish[field] = value;
        wish
    };
    let of_words = |field: &str, value: Value| {
        let mut wish = words("a cat");
        wish[field] = value;
        wish
    };
    for (wish, pointer) in [
        (nothing, "/image"),
        (words("  "), "/image"),
        (
            of_picture("negative_prompt", json!("rain")),
            "/negative_prompt",
        ),
        (
            of_picture("keyframe_model", json!("painter")),
            "/keyframe_model",
        ),
        (of_picture("keyframe", json!({})), "/keyframe"),
        (of_picture("model", json!("painter")), "/model"),
        (of_words("keyframe_model", json!("tiny")), "/keyframe_model"),
        (of_words("prompt", json!("p".repeat(2_001))), "/prompt"),
        (of_words("prompt", json!("a\u{0}b")), "/prompt"),
        (
            of_words("negative_prompt", json!("p".repeat(2_001))),
            "/negative_prompt",
        ),
        (
            of_words("keyframe", json!({ "width": 100, "height": 64 })),
            "/keyframe/width",
        ),
        (
            of_words("keyframe", json!({ "width": 2048, "height": 1024 })),
            "/keyframe/width",
        ),
        (
            of_words("keyframe", json!({ "steps": 0 })),
            "/keyframe/steps",
        ),
        (
            of_words("keyframe", json!({ "guidance_scale": 21 })),
            "/keyframe/guidance_scale",
        ),
        (
            of_words("keyframe", json!({ "sampler": "magic" })),
            "/keyframe/sampler",
        ),
        (
            of_words("keyframe", json!({ "seed": 1_u64 << 53 })),
            "/keyframe/seed",
        ),
        (
            of_words("keyframe", json!({ "price": 0 })),
            "/keyframe/price",
        ),
        (
            of_words(
                "keyframe",
                json!({ "adapters": [{ "id": style, "weight": 5 }] }),
            ),
            "/keyframe/adapters/0/weight",
        ),
        (
            of_words(
                "keyframe",
                json!({ "adapters": vec![json!({ "id": style }); 9] }),
            ),
            "/keyframe/adapters",
        ),
    ] {
        let problem = ada.post("/v1/videos", &wish).await;
        let problem = problem.expect_problem(422, "validation_failed");
        assert_eq!(
            problem["errors"][0]["pointer"], pointer,
            "{wish}: {problem}"
        );
    }
    ada.post("/v1/videos", &of_words("keyframe_model", json!("huge")))
        .await
        .expect_problem(422, "impossible_job");
    assert_eq!(farm.number("select count(*) from job").await, 1);
    // Kept beside a picture as before.
    let kept = of_picture("prompt", json!("a cat"));
    let kept = ada.post("/v1/videos", &kept).await.expect(202).json();
    assert_eq!(
        (&kept["prompt"], &kept["spec"]["keyframe"]),
        (&json!("a cat"), &Value::Null)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_names_no_keyframe_model_gets_the_only_one() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let ask = async || ada.post("/v1/videos", &words("a cat")).await;
    let refused = ask().await.expect_problem(422, "validation_failed");
    assert_eq!(refused["errors"][0]["pointer"], "/image");
    let openai = json!({ "prompt": "a cat", "size": "64x48", "frames": 2 });
    let refused = ada
        .post("/openai/v1/videos", &openai)
        .await
        .expect(422)
        .json();
    assert_eq!(refused["error"]["param"], "input_reference");

    farm.offer(&painter_offer("painter")).await;
    // What is offered is believed for a second.
    let made = async {
        loop {
            let answer = ask().await;
            if answer.status == 202 {
                return answer.json();
            }
        }
    };
    let video = tokio::time::timeout(crate::farm::DEADLINE, made)
        .await
        .unwrap();
    // One that makes clips is chosen as well, though two models are offered.
    assert_eq!(video["spec"]["model"], "tiny");
    assert_eq!(video["spec"]["keyframe"]["model"], "painter");
    let video = ada
        .post("/openai/v1/videos", &openai)
        .await
        .expect(200)
        .json();
    let native = ada
        .get(&format!("/v1/videos/{}", video["id"].as_str().unwrap()))
        .await;
    assert_eq!(native.json()["spec"]["keyframe"]["model"], "painter");
    // A remix has another picture, made in the same way of other words.
    let remix = format!("/openai/v1/videos/{}/remix", video["id"].as_str().unwrap());
    let remix = ada
        .post(&remix, &json!({ "prompt": "a dog" }))
        .await
        .expect(200)
        .id();
    let remix = ada.get(&format!("/v1/videos/{remix}")).await.json();
    assert_eq!(
        (&remix["prompt"], &remix["spec"]["keyframe"]["width"]),
        (&json!("a dog"), &json!(64))
    );
    assert_eq!(remix["spec"]["keyframe"]["seed"], remix["spec"]["seed"]);

    farm.offer(&painter_offer("other")).await;
    let mut impossible = words("a cat");
    impossible["steps"] = json!(0);
    let refused = async {
        loop {
            let problem = ada.post("/v1/videos", &impossible).await;
            let problem = problem.expect_problem(422, "validation_failed");
            if problem["errors"][0]["pointer"] != "/steps" {
                return problem;
            }
        }
    };
    let refused = tokio::time::timeout(crate::farm::DEADLINE, refused).await;
    assert_eq!(refused.unwrap()["errors"][0]["pointer"], "/keyframe_model");
}

#[tokio::test(flavor = "multi_thread")]
async fn models_say_what_they_are_for() {
    let (farm, ada) = start().await;
    farm.offer(&tiny_offer("other")).await;
    let models = ada.get("/v1/models").await.expect(200).json();
    let of = |id: &str| {
        let models = models["data"].as_array().unwrap();
        models
            .iter()
            .find(|model| model["id"] == id)
            .unwrap()
            .clone()
    };
    let (clips, pictures) = (of("tiny"), of("painter"));
    assert_eq!(
        (&clips["family"], &pictures["family"]),
        (&json!("svd"), &json!("sd"))
    );
    assert_eq!(clips["keyframe_defaults"], Value::Null);
    assert_eq!(pictures["defaults"], Value::Null);
    let expected = json!({ "steps": 50, "guidance_scale": 7.5, "sampler": "ddim" });
    assert_eq!(pictures["keyframe_defaults"], expected);
    // A client of theirs chooses among what makes videos.
    let theirs = ada.get("/openai/v1/models").await.expect(200).json();
    let ids: Vec<&Value> = theirs["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["id"])
        .collect();
    assert_eq!(ids, ["other", "tiny"]);
    ada.get("/openai/v1/models/painter").await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_names_the_phase_in_which_the_picture_is_made() {
    let (farm, ada) = start().await;
    let video = ada
        .post("/v1/videos", &words("a cat"))
        .await
        .expect(202)
        .id();
    let user = farm.leader.assign(&video).await;
    let mut stream = Sse::open(&ada, &format!("/v1/videos/{video}/events"), None).await;
    stream.expect("queued").await;
    stream.expect("assigned").await;
    farm.leader.say_live(
        user,
        &video,
        LiveState::Progress {
            attempt: flowai_actors::ids::Attempt::new(1),
            phase: Phase::Keyframe,
            step: 5,
            steps: 50,
            left_s: None,
        },
    );
    let progress = stream.expect("progress").await;
    assert_eq!(progress.data["phase"], "keyframe", "{progress:?}");
    let shown = ada.get(&format!("/v1/videos/{video}")).await.json();
    assert_eq!(shown["progress"]["phase"], "keyframe");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_models_that_no_node_has_both_of_are_refused() {
    let (farm, ada) = start().await;
    farm.offer_at("n2", &painter_offer("elsewhere")).await;
    let mut wish = words("a cat");
    wish["keyframe_model"] = json!("elsewhere");
    let answer = ada.post("/v1/videos", &wish).await;
    let problem = answer.expect_problem(422, "impossible_job");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("no node offers both tiny and elsewhere"),
        "{detail}"
    );
    wish["keyframe_model"] = json!("painter");
    ada.post("/v1/videos", &wish).await.expect(202);

    // A node that has both has come.
    farm.offer_at("n2", &tiny_offer("tiny")).await;
    wish["keyframe_model"] = json!("elsewhere");
    ada.post("/v1/videos", &wish).await.expect(202);
}
