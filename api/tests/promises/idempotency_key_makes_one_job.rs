//! Goal: a wish that is sent again under its key renders once, and its sender hears the first answer again.
//! Method: in turn, at the same time, with another body, by another account.

use std::collections::BTreeSet;
use std::time::Duration;

use flowai_store::database::Database;
use flowai_store::idempotency::forget_expired;
use futures::future::join_all;
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::farm::{Answer, Caller, DEADLINE, Farm, picture, wish};

async fn post(caller: &Caller, path: &str, key: &str, body: &Value) -> Answer {
    let request = caller.request(Method::POST, path).json(body);
    Answer::of(request.header("idempotency-key", key)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_answer_comes_again() {
    let farm = Farm::start().await;
    let (ada, bob) = (farm.user("ada").await, farm.user("bob").await);
    let (wish, wish_of_bob) = (wish(&ada.picture().await), wish(&bob.picture().await));
    let first = post(&ada, "/v1/videos", "k", &wish).await;
    first.expect(202);
    assert_eq!(first.header("idempotent-replayed"), "");
    // Also when the video has gone on since: it is the answer to that request.
    farm.deliver(&first.id()).await;
    let again = post(&ada, "/v1/videos", "k", &wish).await;
    again.expect(202);
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.json(), first.json());

    let mut other = wish.clone();
    other["seed"] = 8.into();
    let reused = post(&ada, "/v1/videos", "k", &other).await;
    reused.expect_problem(422, "idempotency_key_reused");
    let elsewhere = post(&ada, "/openai/v1/videos", "k", &wish).await;
    assert_eq!(
        elsewhere.expect(422).json()["error"]["code"],
        "idempotency_key_reused"
    );
    let bobs = post(&bob, "/v1/videos", "k", &wish_of_bob).await;
    assert_ne!(bobs.expect(202).id(), first.id());
    assert_eq!(farm.number("select count(*) from job").await, 2);

    // Without a key each is a wish of its own.
    for _ in 0..2 {
        ada.post("/v1/videos", &wish).await.expect(202);
    }
    assert_eq!(farm.number("select count(*) from job").await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_one_counts() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let wish = wish(&ada.picture().await);
    for round in 0..5 {
        let key = format!("round {round}");
        let answers = join_all((0..12).map(|_| post(&ada, "/v1/videos", &key, &wish))).await;
        let mut ids = BTreeSet::new();
        for answer in &answers {
            match answer.status {
                202 => drop(ids.insert(answer.id())),
                _ => drop(answer.expect_problem(409, "idempotency_in_progress")),
            }
        }
        assert_eq!(ids.len(), 1, "{answers:?}");
        // Who was told to come back gets the same one.
        assert!(ids.contains(&post(&ada, "/v1/videos", &key, &wish).await.id()));
    }
    assert_eq!(farm.number("select count(*) from job").await, 5);
}

/// A wish by a form, with its picture in it.
async fn post_form(caller: &Caller, key: &str, side: u32, seed: &'static str) -> Answer {
    let picture = Part::bytes(picture(side, 48)).file_name("p.png");
    let form = Form::new()
        .text("prompt", "a boat")
        .text("size", "64x48")
        .text("seed", seed)
        .part("input_reference", picture);
    let request = caller
        .request(Method::POST, "/openai/v1/videos")
        .multipart(form);
    Answer::of(request.header("idempotency-key", key)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_stores_no_picture_and_takes_none_back() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let first = post_form(&ada, "k", 64, "1").await.expect(200).id();
    farm.run("revoke insert, delete on upload from flowai_app")
        .await;
    let again = post_form(&ada, "k", 64, "1").await;
    assert_eq!(again.expect(200).id(), first);
    assert_eq!(again.header("idempotent-replayed"), "true");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_told_also_when_its_picture_cannot_be_taken_back() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    farm.run("revoke delete on upload from flowai_app").await;
    let refused = post_form(&ada, "k", 64, "9007199254740992")
        .await
        .expect(422)
        .json();
    assert_eq!(refused["error"]["param"], "seed", "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_is_known_by_what_it_says() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let first = post_form(&ada, "k", 64, "1").await;
    first.expect(200);
    // Each form has another boundary.
    let again = post_form(&ada, "k", 64, "1").await;
    assert_eq!(again.expect(200).id(), first.id());
    for (side, seed) in [(64, "2"), (72, "1")] {
        let other = post_form(&ada, "k", side, seed).await;
        assert_eq!(
            other.expect(422).json()["error"]["code"],
            "idempotency_key_reused"
        );
    }
    assert_eq!(farm.number("select count(*) from job").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_none_is_refused() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let wish = wish(&ada.picture().await);
    for key in ["", "caf\u{e9}", &"k".repeat(256)] {
        let answer = post(&ada, "/v1/videos", key, &wish).await;
        answer.expect_problem(400, "idempotency_key_invalid");
    }
    post(&ada, "/v1/videos", &"k".repeat(255), &wish)
        .await
        .expect(202);
    assert_eq!(farm.number("select count(*) from job").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_answer_comes_again_also_when_the_wish_is_no_longer_possible() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let wish = wish(&ada.picture().await);
    let first = post(&ada, "/v1/videos", "k", &wish).await;
    first.expect(202);
    farm.run("delete from node_offer").await;
    // The api believes for a moment that the model is there.
    let refused = async {
        while ada.post("/v1/videos", &wish).await.status == 202 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(DEADLINE, refused).await.unwrap();
    let again = post(&ada, "/v1/videos", "k", &wish).await;
    assert_eq!(again.expect(202).json(), first.json());
    let other = post(&ada, "/v1/videos", "k", &json!({ "image": "x" })).await;
    other.expect_problem(422, "validation_failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remix_is_answered_again_when_its_source_is_gone() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let source = ada.video().await;
    farm.deliver(&source).await;
    let remix = format!("/openai/v1/videos/{source}/remix");
    let wish = json!({ "prompt": "at night" });
    let first = post(&ada, &remix, "k", &wish).await;
    first.expect(200);
    ada.delete(&format!("/v1/videos/{source}?purge=true"))
        .await
        .expect(204);
    let again = post(&ada, &remix, "k", &wish).await;
    assert_eq!(again.expect(200).json(), first.json());
    post(&ada, &remix, "another", &wish).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_kept_for_a_day() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let wish = wish(&ada.picture().await);
    let send = async |key| post(&ada, "/v1/videos", key, &wish).await.expect(202).id();
    let (old, young) = (send("old").await, send("young").await);
    let age = |hours| {
        let age = format!("update idempotency set created_at = now() - interval '{hours} hours'");
        format!("{age} where key = 'old'")
    };
    farm.run(&age(23)).await;
    assert_eq!(send("old").await, old);
    farm.run(&age(25)).await;
    let anew = send("old").await;
    assert_ne!(anew, old);
    assert_eq!(send("old").await, anew);

    let coordinator = &farm.parts.database().coordinator;
    let coordinator = Database::connect(coordinator, 1).await.unwrap();
    assert_eq!(forget_expired(&coordinator, 9).await.unwrap(), 0);
    farm.run(&age(25)).await;
    assert_eq!(forget_expired(&coordinator, 0).await.unwrap(), 0);
    assert_eq!(forget_expired(&coordinator, 9).await.unwrap(), 1);
    assert_eq!(send("young").await, young);
    assert_eq!(farm.number("select count(*) from idempotency").await, 1);
}
