//! Goal: nobody hears 202 before the job is durable, and the leader is told after the commit (INV-4).
//! Method: the row is looked for on another connection as soon as the doorbell rings or the answer comes; PostgreSQL is killed.

use reqwest::Method;
use tokio::time::timeout;

use crate::farm::{Answer, DEADLINE, Farm, wish};

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
async fn who_has_too_many_waiting_is_told_so() {
    let farm = Farm::start().await;
    let (ada, bob) = (farm.user("ada").await, farm.user("bob").await);
    let wish_of_bob = wish(&bob.picture().await);
    let wish = wish(&ada.picture().await);
    let max = flowai_actors::limits::USER_QUEUED_MAX;
    for _ in 0..max {
        ada.post("/v1/videos", &wish).await.expect(202);
    }
    let refused = ada.post("/v1/videos", &wish).await;
    refused.expect_problem(429, "too_many_queued");
    assert_ne!(refused.header("retry-after"), "");
    bob.post("/v1/videos", &wish_of_bob).await.expect(202);
    assert_eq!(
        farm.number("select count(*) from job").await,
        i64::from(max) + 1
    );
}
