//! Goal: many videos are accepted at once or none of them is, and what is wrong is said of the one that it is wrong with.
//! Method: an api over the real parts; what is written is counted beside what is answered.

use std::collections::BTreeSet;

use flowai_actors::limits::BATCH_VIDEOS_MAX;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::farm::{Answer, Caller, Farm, Options, wish};

async fn post(caller: &Caller, key: &str, videos: &[Value]) -> Answer {
    let request = caller.request(Method::POST, "/v1/batches");
    let body = json!({ "videos": videos });
    Answer::of(request.header("idempotency-key", key).json(&body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_a_batch_are_queued_in_their_order_once() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let (image, adapter) = (ada.picture().await, ada.adapter(1).await);
    let mut videos = vec![wish(&image); 3];
    videos[1]["adapters"] = json!([{ "id": adapter }]);
    videos[2]["class"] = json!("interactive");
    let first = post(&ada, "k", &videos).await;
    let shown = first.expect(202).json()["videos"]
        .as_array()
        .unwrap()
        .clone();
    let classes: Vec<&str> = shown
        .iter()
        .map(|one| one["class"].as_str().unwrap())
        .collect();
    assert_eq!(classes, ["batch", "batch", "interactive"]);
    // The leader hears of each.
    let mut rung = BTreeSet::new();
    for _ in 0..3 {
        rung.insert(farm.leader.doorbell().await.to_string());
    }
    let ids: Vec<&str> = shown
        .iter()
        .map(|one| one["id"].as_str().unwrap())
        .collect();
    assert_eq!(rung, ids.iter().map(|id| (*id).to_owned()).collect());
    for (place, id) in ids.iter().enumerate() {
        let found = ada
            .get(&format!("/v1/videos/{id}"))
            .await
            .expect(200)
            .json();
        for field in [
            "id",
            "class",
            "created_at",
            "cost",
            "image",
            "seq",
            "spec",
            "status",
        ] {
            assert_eq!(found[field], shown[place][field], "{field}");
        }
        let seq = format!("select user_seq from job_event where job_id = '{id}'");
        assert_eq!(farm.number(&seq).await, place as i64 + 1);
    }
    let used = format!(
        "select count(*) from job_adapter where job_id = '{}'",
        ids[1]
    );
    assert_eq!(farm.number(&used).await, 1);
    assert_eq!(farm.number("select count(*) from job_adapter").await, 1);

    let again = post(&ada, "k", &videos).await;
    assert_eq!(again.expect(202).json(), first.json());
    assert_eq!(again.header("idempotent-replayed"), "true");
    let other = post(&ada, "k", &videos[..2]).await;
    other.expect_problem(422, "idempotency_key_reused");
    assert_eq!(farm.number("select count(*) from job").await, 3);
    assert_eq!(farm.number("select count(*) from credit_holds").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_of_the_one_that_it_is_wrong_with() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let good = wish(&ada.picture().await);
    let with = |field: &str, value: Value| {
        let mut video = good.clone();
        video[field] = value;
        video
    };
    let frames = post(
        &ada,
        "1",
        &[
            good.clone(),
            with("frames", json!(0)),
            with("steps", json!(0)),
        ],
    )
    .await;
    let problem = frames.expect_problem(422, "validation_failed");
    let fields = problem["errors"].as_array().unwrap().iter();
    let pointers: Vec<&str> = fields.map(|one| one["pointer"].as_str().unwrap()).collect();
    assert_eq!(pointers, ["/videos/1/frames", "/videos/2/steps"]);

    let nobodys = Uuid::new_v4();
    let missing = post(&ada, "2", &[good.clone(), with("image", json!(nobodys))]).await;
    let problem = missing.expect_problem(404, "not_found");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with("videos[1]: "), "{detail}");
    let bobs = farm.user("bob").await.picture().await;
    let foreign = post(&ada, "3", &[with("image", json!(bobs))]).await;
    foreign.expect_problem(404, "not_found");
    let unknown = post(&ada, "4", &[good.clone(), with("model", json!("none"))]).await;
    let problem = unknown.expect_problem(422, "impossible_job");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("videos[1]: model"), "{detail}");

    for (key, videos) in [
        ("5", vec![]),
        ("6", vec![good.clone(); BATCH_VIDEOS_MAX + 1]),
    ] {
        let length = post(&ada, key, &videos).await;
        let problem = length.expect_problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], "/videos");
    }
    for table in [
        "job",
        "job_state",
        "job_event",
        "credit_holds",
        "idempotency",
    ] {
        let count = format!("select count(*) from {table}");
        assert_eq!(farm.number(&count).await, 0, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_counts_against_what_may_wait_as_a_whole() {
    let farm = Farm::start_with(Options {
        rate_scale: 1,
        ..Options::default()
    })
    .await;
    let ada = farm.user("ada").await;
    farm.run("update account set tier = 'studio'").await;
    let video = wish(&ada.picture().await);
    let most = vec![video.clone(); BATCH_VIDEOS_MAX];
    ada.post("/v1/videos", &video).await.expect(202);
    let one_too_many = post(&ada, "1", &most).await;
    one_too_many.expect_problem(429, "too_many_queued");
    assert_eq!(farm.number("select count(*) from job").await, 1);
    post(&ada, "2", &most[1..]).await.expect(202);
    assert_eq!(farm.number("select count(*) from job").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_paid_for_as_a_whole() {
    // A thousand milli-credits, of which each takes 51, in several lots.
    let farm = Farm::start_with(Options {
        gift: 0,
        ..Options::default()
    })
    .await;
    let ada = farm.user("ada").await;
    farm.run(
        "select ledger_grant(a.id, 'gift', 'gift:' || a.id || ':' || n, 100, null, 'test')
           from account a, generate_series(1, 10) n",
    )
    .await;
    let videos = vec![wish(&ada.picture().await); 20];
    let refused = post(&ada, "1", &videos).await;
    let problem = refused.expect_problem(402, "insufficient_credits");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("costs 1.02 credits") && detail.contains("and 1 are available"),
        "{detail}"
    );
    assert_eq!(farm.number("select count(*) from job").await, 0);
    post(&ada, "2", &videos[1..]).await.expect(202);
    let credits = ada.get("/v1/credits").await.expect(200).json();
    assert_eq!(credits["available_mc"], 1_000 - 19 * 51);
    assert_eq!(credits["held_mc"], 19 * 51);
    let split = "select count(*) from credit_holds where cardinality(lot_ids) = 2";
    assert_eq!(farm.number(split).await, 9);
    assert_eq!(
        farm.number("select count(*) from ledger_imbalances").await,
        0
    );
}
