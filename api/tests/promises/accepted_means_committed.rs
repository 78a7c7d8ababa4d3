//! Goal: nobody hears 202 before the job is durable, and the leader is told after the commit (INV-4).
//! Method: the row is looked for on another connection as soon as the doorbell rings or the answer comes; PostgreSQL is killed.

use std::time::Duration;

use flowai_actors::state::Tier;
use reqwest::Method;
use tokio::time::timeout;

use crate::farm::{Answer, DEADLINE, Farm, Options, wish};

#[tokio::test(flavor = "multi_thread")]
async fn the_doorbell_rings_for_a_job_that_is_there() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let wish = wish(&ada.picture().await);
    for _ in 0..20 {
        let (rung, answer) = tokio::join!(farm.leader.doorbell(), ada.post("/v1/videos", &wish));
        let id = answer.expect(202).id();
        assert_eq!(rung.to_string(), id);
        assert_eq!(answer.header("location"), format!("/v1/videos/{id}"));
        let rows = format!(
            "select count(*) from job j join job_state s on s.job_id = j.id
             join job_event e on e.job_id = j.id and e.kind = 'queued' and e.seq = 1 where j.id = '{id}'"
        );
        assert_eq!(farm.number(&rows).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_job_survives_the_database() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let wish = wish(&ada.picture().await);
    let postgres = farm.parts.postgres().unwrap();
    let mut accepted = Vec::new();
    for _ in 0..5 {
        accepted.push(ada.post("/v1/videos", &wish).await.expect(202).id());
    }
    postgres.kill().await;
    // A process of the server that has not noticed yet may still commit: then the job counts as well.
    let refused = timeout(DEADLINE, async {
        loop {
            let answer = ada.post("/v1/videos", &wish).await;
            if answer.status != 202 {
                return answer;
            }
            accepted.push(answer.id());
        }
    });
    let refused = refused.await.unwrap();
    refused.expect_problem(503, "dependency_down");
    assert_eq!(refused.header("retry-after"), "1");

    postgres.restart().await.unwrap();
    // The pool finds out connection by connection.
    let list = timeout(DEADLINE, async {
        loop {
            let list = ada.get("/v1/videos").await;
            if list.status == 200 {
                return list.json();
            }
        }
    });
    let list = list.await.unwrap();
    let there: Vec<&str> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|video| video["id"].as_str().unwrap())
        .collect();
    accepted.reverse();
    assert_eq!(there, accepted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_wish_leaves_nothing() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let mut wrong = wish(&ada.picture().await);
    wrong["frames"] = 0.into();
    let request = ada.request(Method::POST, "/v1/videos").json(&wrong);
    let answer = Answer::of(request.header("idempotency-key", "k")).await;
    answer.expect_problem(422, "validation_failed");
    for table in ["job", "job_state", "job_event", "idempotency"] {
        let rows = format!("select count(*) from {table}");
        assert_eq!(farm.number(&rows).await, 0, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_too_many_waiting_for_its_tier_is_told_so() {
    let farm = Farm::start_with(Options {
        rate_scale: 1,
        ..Options::default()
    })
    .await;
    let (ada, bob) = (farm.user("ada").await, farm.user("bob").await);
    let wish_of_bob = wish(&bob.picture().await);
    let wish = wish(&ada.picture().await);
    let max = Tier::Free.queued_max();
    for _ in 0..max {
        ada.post("/v1/videos", &wish).await.expect(202);
    }
    let refused = ada.post("/v1/videos", &wish).await;
    let problem = refused.expect_problem(429, "too_many_queued");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("more than 5 of your videos would wait, the most in tier free"),
        "{detail}"
    );
    assert_eq!(refused.header("retry-after"), "30");
    bob.post("/v1/videos", &wish_of_bob).await.expect(202);
    assert_eq!(
        farm.number("select count(*) from job").await,
        i64::from(max) + 1
    );
    // Who pays more may at once.
    farm.run("update account set tier = 'pro' where email like 'ada@%'")
        .await;
    ada.post("/v1/videos", &wish).await.expect(202);
    let me = ada.get("/v1/me").await;
    let me = me.expect(200).json();
    assert_eq!(me["limits"]["videos_queued_max"], 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_farm_takes_no_more_and_answers_what_it_took() {
    let farm = Farm::start_with(Options {
        queued_max: 2,
        ..Options::default()
    })
    .await;
    let ada = farm.user("ada").await;
    let wish = wish(&ada.picture().await);
    let submit = |key: &'static str| {
        let request = ada.request(Method::POST, "/v1/videos").json(&wish);
        Answer::of(request.header("idempotency-key", key))
    };
    let first = submit("one").await.expect(202).id();
    submit("two").await.expect(202);
    // What an instance has counted it believes for some seconds.
    let refused = timeout(DEADLINE, async {
        loop {
            let answer = ada.post("/v1/videos", &wish).await;
            if answer.status != 202 {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let refused = refused.await.unwrap();
    refused.expect_problem(503, "overloaded");
    assert_eq!(refused.header("retry-after"), "60");
    assert_eq!(submit("one").await.expect(202).id(), first);
}
